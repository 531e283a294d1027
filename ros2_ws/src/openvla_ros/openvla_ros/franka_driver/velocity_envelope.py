"""The FR3's joint velocity limits, which shrink towards its joint limits.

Source: Franka Robotics, "Robot and Interface Specifications", limits for the Franka Research 3, as also in
``computeUpperLimitsJointVelocity`` of libfranka's ``rate_limiting.h`` (since 0.10). A faster joint ends in
the arm's reflex ``joint_velocity_violation``. franky's own limits are those of the older arm and cannot be
raised; they only concern motions that franky plans, which the driver does not use.
"""

from __future__ import annotations

import numpy as np

from openvla_ros.values.arrays import Float

# v(q) = min(most, max(0, sqrt(slope * (end - q)) - offset)), and likewise towards the lower end.
MOST_RAD_S = np.array([2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26])
SLOPE = np.array([12.0, 5.17, 7.0, 8.0, 34.0, 11.0, 34.0])  # rad/s²
OFFSET_RAD_S = np.array([0.30, 0.20, 0.20, 0.30, 0.35, 0.35, 0.35])
UPPER_END = np.array([2.75010, 1.79180, 2.90650, -0.1458, 2.81010, 4.52050, 3.01960])  # rad
LOWER_END = np.array([-2.75010, -1.79180, -2.90650, -3.04810, -2.81010, 0.54092, -3.01960])


def fastest_up(position: Float) -> Float:
    """Return the largest velocity (7,), rad/s, at ``position`` (7,), rad."""
    return _fastest(UPPER_END - position)


def fastest_down(position: Float) -> Float:
    """Return the smallest (most negative) velocity (7,), rad/s, at ``position`` (7,), rad."""
    return -_fastest(position - LOWER_END)


def _fastest(distance: Float) -> Float:
    limited = np.sqrt(np.maximum(0.0, SLOPE * distance)) - OFFSET_RAD_S
    fastest: Float = np.minimum(MOST_RAD_S, np.maximum(0.0, limited))
    return fastest
