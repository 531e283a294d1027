"""Timed messages to moments: what makes up an observation, what is dropped, which instruction runs."""
