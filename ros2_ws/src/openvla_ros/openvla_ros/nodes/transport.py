"""The start-up check that camera images can reach this process at all."""

from __future__ import annotations

import os

from rclpy.node import Node
from rclpy.utilities import get_rmw_implementation_identifier

from openvla_ros.transport import transport_problem


def warn_about_transport(node: Node) -> None:
    """Log a warning that says what to set if DDS would lose large images under this environment."""
    problem = transport_problem(os.environ, get_rmw_implementation_identifier())
    if problem:
        node.get_logger().warning(problem)
