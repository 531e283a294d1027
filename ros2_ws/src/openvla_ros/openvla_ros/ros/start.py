"""Starts ROS in a process, with a clear error for what a user can fix."""

from __future__ import annotations

from collections.abc import Sequence

import rclpy
from rclpy.context import Context
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.signals import SignalHandlerOptions

from openvla_ros.errors import OpenVLARosError


def start_ros(args: Sequence[str] | None = None, context: Context | None = None) -> None:
    """Start ROS without its signal handlers; raises ``OpenVLARosError`` if its log cannot be written."""
    try:
        rclpy.init(args=args, context=context, signal_handler_options=SignalHandlerOptions.NO)
    except _rclpy.RCLError as error:
        raise OpenVLARosError(
            f"ROS cannot start: {error}; its logs go to ~/.ros/log: make that writable, or set ROS_LOG_DIR "
            "to another folder"
        ) from error
