"""The start-up check that camera images can reach this process at all."""

from __future__ import annotations

import os
import re
from pathlib import Path

from rclpy.node import Node
from rclpy.utilities import get_rmw_implementation_identifier

from openvla_ros.bringup.dds import expected_fast_dds, transport_problem

MAPS = Path("/proc/self/maps")


def loaded_fast_dds() -> int | None:
    """Return the major version of the Fast DDS library in this process, or ``None`` if none is found."""
    maps = MAPS.read_bytes() if MAPS.is_file() else b""
    found = re.search(rb"/libfast(?:rtps|dds)\.so\.(\d+)", maps)
    return int(found[1]) if found else None


def warn_about_transport(node: Node) -> None:
    """Log a warning, with the setting to use, if DDS would lose large images in this environment."""
    version = loaded_fast_dds() or expected_fast_dds(os.environ)
    problem = transport_problem(os.environ, get_rmw_implementation_identifier(), version)
    if problem:
        node.get_logger().warning(problem)
