"""Starts ROS in a process and makes its nodes, with a clear error for what a user can fix."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import rclpy
from rclpy.context import Context
from rclpy.exceptions import InvalidNamespaceException, InvalidNodeNameException
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.signals import SignalHandlerOptions

from openvla_ros.bringup.enclaves import ENABLE, is_secured
from openvla_ros.errors import InvalidValueError, OpenVLARosError


def start_ros(args: Sequence[str] | None = None, context: Context | None = None) -> None:
    """Start ROS without its signal handlers; raises ``OpenVLARosError`` without a log or without keys."""
    try:
        rclpy.init(args=args, context=context, signal_handler_options=SignalHandlerOptions.NO)
    except _rclpy.RCLError as error:
        logs = "; its logs go to ~/.ros/log: make that writable, or set ROS_LOG_DIR to another folder"
        raise OpenVLARosError(f"ROS cannot start: {_first(error)}{_about_security() or logs}") from error


@contextmanager
def making_nodes() -> Iterator[None]:
    """Turn what ROS says when a node cannot be made into an ``OpenVLARosError``: mostly, keys are missing."""
    try:
        yield
    except (InvalidNamespaceException, InvalidNodeNameException) as error:
        raise InvalidValueError(" ".join(str(error).split())) from error
    except _rclpy.RCLError as error:
        raise OpenVLARosError(f"ROS cannot make the node: {_first(error)}{_about_security()}") from error


def _first(error: Exception) -> str:
    """Return what rcl says, without the places in its source."""
    return " ".join(str(error).partition(", at ")[0].split())


def _about_security() -> str:
    if not is_secured(os.environ):
        return ""
    store = os.environ.get("ROS_SECURITY_KEYSTORE", "")
    return (
        f"; {ENABLE} is true and ROS_SECURITY_KEYSTORE is {store!r}: the keystore needs the enclave of this "
        "program, and the middleware needs its security plug-ins (docs/security.md)"
    )
