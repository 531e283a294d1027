"""Checks that one's own policy, camera or arm driver keeps the contract of its protocol.

Each function returns nothing, or raises a ``ConformanceError`` for the first thing that is wrong.
"""

from openvla_ros.conformance.arm_driver_contract import check_arm_driver
from openvla_ros.conformance.camera_contract import check_camera
from openvla_ros.conformance.policy_contract import check_policy

__all__ = ["check_arm_driver", "check_camera", "check_policy"]
