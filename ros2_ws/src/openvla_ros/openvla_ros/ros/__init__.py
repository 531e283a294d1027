"""Conversion and runtime that every node shares; no node here."""
