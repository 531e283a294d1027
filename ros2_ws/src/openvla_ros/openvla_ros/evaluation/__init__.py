"""Closed-loop and open-loop measurement of policies."""
