"""Verbs of ``openvla`` that inspect, predict with and convert checkpoints."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add this module's verbs to ``app``."""
