"""Stands in for tf2_ros.transform_listener."""


class TransformListener:
    """Never made."""
