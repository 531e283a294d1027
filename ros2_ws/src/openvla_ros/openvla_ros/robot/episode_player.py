"""Cuts a sequence of actions into short chunks, each sent in time for the arm to move on without a pause.

A chunk replaces the steps that have not begun, and the controller leaves out those that have begun since
the chunk's stamp. So a chunk must say at its stamp where in the sequence the arm was. That is read off the
targets that the controller publishes: each step has its own. Chunks overlap: one that is late, or lost,
changes nothing. If no more come, the arm has at most ``MOTION_S`` of motion left, and then stops.

Knows nothing of ROS: the caller passes in targets and times, and sends the chunks.
"""

from __future__ import annotations

import numpy as np

from openvla_ros.errors import InvalidValueError
from openvla_ros.profile import RobotProfile
from openvla_ros.robot.kinematics.delta_actions import compose
from openvla_ros.values.action import ActionChunk
from openvla_ros.values.arrays import Float
from openvla_ros.values.geometry import Pose
from openvla_ros.values.time import nanoseconds

MOTION_S = 1.0  # the most motion that one chunk carries, if two steps take no longer
# Where in the step before its first action a chunk is stamped: in the middle of what the controller counts
# as that place (from 0.75 steps before the action to 0.25 after), with half of a period of the targets.
EARLY_STEPS, EARLY_S = 0.25, 0.01
# A step that leaves the target where it is cannot be seen to begin; it counts as begun by then.
UNSEEN_STEPS = 1.75
SAME = 1e-9  # metres and rotation matrix elements: rounding on the way


class EpisodePlayer:
    """One sequence of actions on its way to the controller of one robot, in streaming control."""

    def __init__(self, actions: Float, profile: RobotProfile) -> None:
        """``actions`` (T, D) are in the robot's own action space.

        Raises ``InvalidValueError`` if the controller takes no chunk of two steps: the arm would pause. Or if
        the robot's actions are no changes of the tool pose.
        """
        profile.space().check_kind("tool_delta", "playing an episode")
        self._actions, self._space = actions, profile.space()
        self._step_ns = nanoseconds(self._space.step_s)
        self._length = max(2, steps_at_once(profile))
        horizon_s = profile.control.chunk_horizon_s
        if self._length * self._space.step_s > horizon_s + 1e-6:
            raise InvalidValueError(
                f"control.chunk_horizon_s is {horizon_s:g} s, less than two steps of {self._space.step_s:g} "
                "s: an episode cannot be played without a pause after each step"
            )
        self._target: Pose | None = None
        self._began_ns: int | None = None  # when the step ``_begun`` began, as far as is known
        self._begun = 0
        self._moved = False  # whether a target of this sequence was seen
        self._next = 0  # the first action that the next chunk may begin with
        self._sent_ns = 0
        self.sent = 0  # how many actions have been in a chunk

    @property
    def is_over(self) -> bool:
        """Whether the last action was sent."""
        return self.sent >= len(self._actions)

    def see(self, target: Pose, stamp_ns: int) -> None:
        """Take in the target that the arm is moving to at ``stamp_ns``, the robot's clock."""
        before, self._target = self._target, target
        if self._began_ns is None or (before is not None and _distance(before, target) < SAME):
            return
        passed = max(0.0, (stamp_ns - self._began_ns) / self._step_ns)
        if not self._moved:
            # From where the first step started is not known: the controller measured it.
            self._begun += int(passed)
        elif before is not None:
            self._begun += self._steps_between(before, target, passed)
        self._moved, self._began_ns = True, stamp_ns

    def next_chunk(self, now_ns: int) -> ActionChunk | None:
        """Return the chunk to send at ``now_ns``, or None if the arm has all that it needs for now."""
        if self._began_ns is None:
            self._began_ns = now_ns
            return self._chunk(0, now_ns)
        step = self._begun
        ahead = (now_ns - self._began_ns) / self._step_ns - UNSEEN_STEPS
        if ahead >= 0.0:
            step += 2 + int(ahead)
        if self.is_over or step < self._next:
            return None
        began_ns = self._began_ns + (step - self._begun) * self._step_ns
        return self._chunk(step, began_ns - round(EARLY_STEPS * self._step_ns) - nanoseconds(EARLY_S))

    def _chunk(self, first: int, stamp_ns: int) -> ActionChunk | None:
        last = min(first + self._length, len(self._actions))
        stamp_ns = max(stamp_ns, self._sent_ns + 1)
        self._next, self._sent_ns, self.sent = first + 1, stamp_ns, max(self.sent, last)
        return ActionChunk(self._actions[first:last], stamp_ns, self._space) if first < last else None

    def _steps_between(self, before: Pose, target: Pose, passed: float) -> int:
        """Return how many steps lead from ``before`` to ``target``; about ``passed`` should have begun."""
        likely = max(1, round(passed))
        reached, found = before, []
        for count, action in enumerate(self._actions[self._begun + 1 : self._begun + likely + 2], start=1):
            reached = compose(reached, action, self._space)
            if count >= likely - 1:
                error = round(_distance(reached, target) / SAME)
                found.append((error, abs(count - likely), count))
        return min(found)[2] if found else 0


def steps_at_once(profile: RobotProfile) -> int:
    """Return how many steps of ``profile``'s action space one chunk carries at most; may be 0."""
    motion_s = min(MOTION_S, profile.control.chunk_horizon_s)
    return int(motion_s / profile.space().step_s + 1e-6)


def _distance(a: Pose, b: Pose) -> float:
    """Return the largest difference of two poses, in metres and elements of the rotation matrix."""
    return float(max(np.abs(a.position - b.position).max(), np.abs(a.rotation - b.rotation).max()))
