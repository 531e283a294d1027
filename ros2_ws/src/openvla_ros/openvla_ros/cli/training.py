"""Verbs of ``openvla`` that fine-tune, evaluate and compare policies."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add this module's verbs to ``app``."""
