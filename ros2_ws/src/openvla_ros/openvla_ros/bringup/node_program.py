"""A node as a program: signal handlers first, then the slow imports."""

from __future__ import annotations

import importlib

from openvla_ros.bringup.stop_signals import end_at_once


def start(node: str) -> None:
    """Run the module ``node`` of ``openvla_ros.nodes`` as a program."""
    end_at_once()
    importlib.import_module(f"openvla_ros.nodes.{node}").main()
