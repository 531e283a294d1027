"""Stands in for tf2_ros.buffer."""


class Buffer:
    """Never made."""
