"""A leader arm as a teleoperation device: the robot's tool follows its motion.

It works with a clutch: while the dead man's switch is held, the robot's tool repeats the leader's motion
relative to where the switch was pressed. Releasing it, moving the leader elsewhere and pressing it again
moves nothing.
"""

from __future__ import annotations

from openvla_ros.streams.sampling import Forward
from openvla_ros.teleop.teleoperator import Teleoperator
from openvla_ros.values.action import ActionSpace
from openvla_ros.values.arrays import Float
from openvla_ros.values.geometry import Pose

# A leader that was silent for this long is not followed.
SILENT_S = 0.2


class LeaderArm:
    """Follows a leader arm whose kinematics are ``forward``."""

    def __init__(self, space: ActionSpace, forward: Forward) -> None:
        self._forward = forward
        self._teleoperator = Teleoperator(space)
        self._taken: tuple[Pose, Pose] | None = None  # the leader's tool and the robot's, at the switch
        self._target: Pose | None = None

    def action(self, held: bool, joints: Float, opening: float | None, tool: Pose) -> Float | None:
        """Return one action (D,) within the space's bounds; ``None`` while the switch is released.

        ``joints`` (J,) radians and ``opening`` (0 .. 1) are the leader's; ``tool`` is the robot's commanded
        tool pose, from which it starts following.
        """
        if not held:
            self._taken = None
            return None
        leader = self._forward(joints)
        if self._taken is None:
            self._taken, self._target = (leader, tool), tool
        assert self._target is not None
        leader_then, tool_then = self._taken
        move = leader.position - leader_then.position
        turn = leader.rotation @ leader_then.rotation.T
        goal = Pose(tool_then.position + move, turn @ tool_then.rotation)
        if opening is not None:
            self._teleoperator.opening = opening
        action, self._target = self._teleoperator.toward(self._target, goal)
        return action
