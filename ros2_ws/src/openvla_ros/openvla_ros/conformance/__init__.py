"""Conformance checks for your own policy, camera or arm driver.

Each function returns nothing, or raises ``ConformanceError`` for the first violation of the protocol.
"""

from openvla_ros.conformance.arm_driver_contract import check_arm_driver
from openvla_ros.conformance.camera_contract import check_camera
from openvla_ros.conformance.policy_contract import check_policy

__all__ = ["check_arm_driver", "check_camera", "check_policy"]
