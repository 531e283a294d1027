"""Whether a profile's joint limits and units stay within those of its robot description.

A limit beyond the description's is a mistake or another unit, and would let the arm do what its maker
excludes. A velocity of 0 or none at all in a URDF states nothing.
"""

from __future__ import annotations

import math

from openvla_ros.errors import ProfileError
from openvla_ros.profile import RobotProfile
from openvla_ros.robot.kinematics.chain import KinematicChain

ROUNDING = 1e-6  # rad, rad/s: of decimals in the two files


def contradictions(profile: RobotProfile, chain: KinematicChain) -> list[str]:
    """Return a line for each limit or unit of ``profile`` that the URDF of its ``chain`` does not allow."""
    limits, lines = profile.limits, []
    for i, name in enumerate(profile.arm.joints):
        low, high, speed = limits.joint_lower[i], limits.joint_upper[i], limits.joint_velocity[i]
        least, most, fastest = float(chain.lower[i]), float(chain.upper[i]), float(chain.velocity[i])
        if low < least - ROUNDING or high > most + ROUNDING:
            lines.append(
                f"{name}: limits.joint_lower and joint_upper {low:g} .. {high:g} reach beyond the URDF's "
                f"{least:g} .. {most:g} rad"
            )
        if 0.0 < fastest < math.inf and speed > fastest + ROUNDING:
            lines.append(f"{name}: limits.joint_velocity {speed:g} is above the URDF's {fastest:g} rad/s")
    actions = profile.action_space
    if actions.kind in ("joint_delta", "joint_position") and actions.units[:-1] != chain.units:
        lines.append(
            f"action_space.units of the joints are {list(actions.units[:-1])}; by the URDF's joint types "
            f"they are {list(chain.units)}"
        )
    return lines


def check_described(profile: RobotProfile, chain: KinematicChain) -> None:
    """Raise ``ProfileError`` naming each limit of ``profile`` that its URDF does not allow."""
    lines = contradictions(profile, chain)
    if lines:
        raise ProfileError(
            f"profile {profile.name!r} and {profile.arm.urdf} disagree: {'; '.join(lines)}; "
            "lower the limits, or correct the URDF if it is wrong"
        )
