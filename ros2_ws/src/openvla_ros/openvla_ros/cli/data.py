"""Verbs of ``openvla`` that record, look at and convert demonstrations."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add this module's verbs to ``app``."""
