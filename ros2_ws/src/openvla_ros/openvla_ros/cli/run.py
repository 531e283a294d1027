"""Verbs of ``openvla`` that start, stop and instruct the running robot."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add this module's verbs to ``app``."""
