"""How the moving joints of a chain depend on each other: ``<mimic>`` joints follow a leader in the chain.

position = multiplier * leader's position + offset (wiki.ros.org/urdf/XML/joint), also along several
mimics. What a follower may not do narrows what its leader may do.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from openvla_ros.errors import KinematicsError
from openvla_ros.robot.kinematics.urdf import Joint, RobotDescription
from openvla_ros.values.arrays import Float, read_only


class JointCoupling:
    """The joints of a chain that have positions of their own, J, and how all F that move follow them.

    Raises ``KinematicsError`` where a joint mimics one that is not in the chain, or limits are empty.
    """

    def __init__(self, description: RobotDescription, moving: Sequence[Joint]) -> None:
        self.joints = tuple(joint.name for joint in moving if joint.mimic is None)
        self.plain = len(self.joints) == len(moving)
        self._source, self._moving = description.source, moving
        follow, shift = np.zeros((len(moving), len(self.joints))), np.zeros(len(moving))
        for row, joint in enumerate(moving):
            leader, multiplier, shift[row] = description.leader(joint)
            if leader.name not in self.joints:
                raise KinematicsError(
                    f"{description.source}: joint {joint.name!r} mimics {leader.name!r}, which is not "
                    "between the base link and the tool link: where the tool is depends on it"
                )
            follow[row, self.joints.index(leader.name)] = multiplier
        self.follow: Float = read_only(follow)  # (F, J)
        self.shift: Float = read_only(shift)  # (F,)

    def positions(self, q: Float) -> Float:
        """Return where all moving joints stand (..., F), for the positions ``q`` (..., J) of the leaders."""
        moved: Float = q @ self.follow.T + self.shift
        return moved

    def limits(self) -> tuple[Float, Float, Float]:
        """Return lower, upper and velocity limits (J,), within which every joint keeps its own."""
        lower, upper = np.full(len(self.joints), -np.inf), np.full(len(self.joints), np.inf)
        velocity = np.full(len(self.joints), np.inf)
        for joint, factors, shift in zip(self._moving, self.follow, self.shift, strict=True):
            (column,) = np.flatnonzero(factors) if factors.any() else (None,)
            if column is None:
                continue  # a multiplier of 0: it stands at its offset
            factor = factors[column]
            ends = sorted(((joint.lower - shift) / factor, (joint.upper - shift) / factor))
            if joint.lower >= joint.upper:
                raise KinematicsError(
                    f"{self._source}: joint {joint.name!r}: limits {joint.lower} .. {joint.upper} "
                    "are empty or reversed"
                )
            lower[column] = max(lower[column], ends[0])
            upper[column] = min(upper[column], ends[1])
            velocity[column] = min(velocity[column], joint.velocity / abs(factor))
        for name, low, high in zip(self.joints, lower, upper, strict=True):
            if low >= high:
                raise KinematicsError(
                    f"{self._source}: joint {name!r} and those that mimic it have no position in common: "
                    f"{low} .. {high}"
                )
        return lower, upper, velocity
