"""Helpers that keep the control threads on time and let a stop go first."""
