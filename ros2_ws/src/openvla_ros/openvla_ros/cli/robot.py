"""Verbs of ``openvla`` that check, replay on and move the robot."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add this module's verbs to ``app``."""
