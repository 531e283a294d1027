"""A scripted policy that solves the simulated tasks from ground truth instead of images.

It stands in for a person at the teleoperation device: it records demonstrations, and shows that a task
can be solved with the actions of a learned policy. It acts on the state alone, without timed waits, so
that the same image always has the same action; it only remembers the gripper opening of the previous
step, to notice that the fingers have stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from openvla_ros.errors import InvalidValueError, PolicyError
from openvla_ros.profile import RobotProfile
from openvla_ros.values.action import ActionChunk, ActionSpace
from openvla_ros.values.arrays import Float, float_array
from openvla_ros.values.geometry import (
    Pose,
    transform_euler_to_matrix,
    transform_matrix_to_euler,
    transform_matrix_to_rotvec,
    transform_rotvec_to_matrix,
)
from openvla_ros.values.goal import Goal, Verb, parse_goal
from openvla_ros.values.observation import Observation
from openvla_ros.values.scene import Scene, SceneObject

# Metres, of the tool point above an object's centre unless said otherwise.
REACH_ABOVE_M = 0.035
GRASP_ABOVE_M = 0.005
APPROACH_ABOVE_M = 0.07
LIFT_BY_M = 0.10
CLEARANCE_M = 0.025  # between a carried object and whatever it passes over
RELEASE_ABOVE_M = 0.006  # between a carried object and what it is put on
RETREAT_M = 0.08
PUSH_BEHIND_M = 0.032  # from the object's face to the tool, before pushing
PUSH_BEYOND_M = 0.075  # how far the object is pushed from where it first lay

# An approach narrows like a funnel: within ALIGNED_M beside the goal straight down, further away higher.
ALIGNED_M = 0.006
FUNNEL_SLOPE = 4.0

OPEN, CLOSED = 1.0, 0.0
OPENED = 0.85  # an opening above it counts as open
EMPTY = 0.06  # a closed gripper whose opening is below it holds nothing
STOPPED = 0.02  # change of opening in a step below which the fingers have stopped
IN_HAND_M = 0.02  # between tool and grasp point of an object that is held

# Share of the remaining way that a step covers. The arm answers about one step late, and the sum of
# deltas is an integrator: beyond 0.5 the tool would overshoot.
GAIN = 0.5
LONGEST_STEP_M = 0.03
LONGEST_TURN_RAD = 0.1


@dataclass(frozen=True, eq=False)
class _Intent:
    """Where the tool should go, and how far open the gripper should be."""

    position: Float  # (3,)
    opening: float


class ScriptedExpert:
    """Implements ``Policy`` for every goal that ``openvla_ros.values.goal`` understands."""

    def __init__(
        self, space: ActionSpace, scene_source: Callable[[], Scene], tool_down: Float | None = None
    ) -> None:
        """Act in ``space`` on what ``scene_source`` returns.

        ``tool_down`` (3, 3) is the tool's rotation in the base frame when it points straight down
        with zero yaw. Raises ``InvalidValueError`` for a space that is not a translation, a
        rotation and a gripper, as changes.
        """
        space.check_kind("tool_delta", "the scripted expert")
        if space.width != 7 or space.frame != "base":
            raise InvalidValueError(
                f"the scripted expert needs 7 dimensions in the base frame; this space has {space.width} "
                f"in the {space.frame} frame"
            )
        self._space = space
        self._scene_source = scene_source
        down = np.diag([1.0, -1.0, -1.0]) if tool_down is None else tool_down
        self._tool_down = float_array("tool rotation", down, (3, 3))
        self.reset()

    @classmethod
    def for_profile(cls, profile: RobotProfile, scene_source: Callable[[], Scene]) -> ScriptedExpert:
        """Return the expert for ``profile``'s action space and tool."""
        down = transform_euler_to_matrix(profile.arm.state_rotation_offset)
        return cls(profile.space(), scene_source, down)

    @property
    def space(self) -> ActionSpace:
        """The meaning of the actions that ``infer`` returns."""
        return self._space

    @property
    def description(self) -> str:
        """One line of text."""
        return "scripted expert: rules on the simulator's ground truth, no model"

    def reset(self) -> None:
        """Forget the episode that just ended."""
        self._last_opening: float | None = None
        self._closing = False
        self._push_start: Float | None = None

    def close(self) -> None:
        """Do nothing: there is nothing to release."""

    def infer(self, observation: Observation) -> ActionChunk:
        """Return one action, toward the goal of the observation's instruction.

        Raises ``PolicyError`` if the instruction is not understood or names no object in the scene, or the
        observation lacks the pose or the gripper opening.
        """
        if observation.pose is None or observation.gripper is None:
            raise PolicyError("the scripted expert needs the end-effector pose and the gripper opening")
        try:
            goal, scene = parse_goal(observation.instruction), self._scene_source()
            intent = self._decide(goal, scene, observation.pose, observation.gripper)
        except InvalidValueError as error:
            raise PolicyError(str(error)) from error
        self._last_opening = observation.gripper
        self._closing = intent.opening == CLOSED
        action = np.array([*self._translation(intent, observation.pose), *self._turn(observation.pose), 0.0])
        action[6] = intent.opening if self._space.gripper_open == 1.0 else 1.0 - intent.opening
        actions = np.clip(action, self._space.lower, self._space.upper)[None]
        return ActionChunk(actions, observation.stamp_ns, self._space)

    def _translation(self, intent: _Intent, pose: Pose) -> Float:
        way = GAIN * (intent.position - pose.position)
        shortened: Float = way * min(1.0, LONGEST_STEP_M / max(float(np.linalg.norm(way)), 1e-9))
        return shortened

    def _turn(self, pose: Pose) -> Float:
        vector = GAIN * transform_matrix_to_rotvec(self._tool_down @ pose.rotation.T)
        vector *= min(1.0, LONGEST_TURN_RAD / max(float(np.linalg.norm(vector)), 1e-9))
        if self._space.rotation == "rotation_vector":
            return vector
        return transform_matrix_to_euler(transform_rotvec_to_matrix(vector))

    def _decide(self, goal: Goal, scene: Scene, pose: Pose, opening: float) -> _Intent:
        item, tool = scene[goal.object], pose.position
        match goal.verb:
            case Verb.REACH:
                return _Intent(_funnel(tool, _above(item.position, REACH_ABOVE_M)), OPEN)
            case Verb.PUSH:
                return self._push(item, tool)
            case Verb.LIFT:
                if self._holds(item, tool, opening):
                    return _Intent(_at_height(tool, scene.table_m + LIFT_BY_M), CLOSED)
                return self._grasp(item, tool, opening)
            case Verb.PUT:
                assert goal.destination is not None
                if self._holds(item, tool, opening):
                    return self._place(item, scene[goal.destination], scene.table_m, tool)
                if scene.stands_on(item.name, goal.destination):
                    return self._let_go(item, tool, opening)
                return self._grasp(item, tool, opening)

    def _holds(self, item: SceneObject, tool: Float, opening: float) -> bool:
        """Return whether the fingers were closing and have stopped with the object between them."""
        if not self._closing or self._last_opening is None:
            return False
        stopped = abs(opening - self._last_opening) < STOPPED
        near = np.linalg.norm(tool - _above(item.position, GRASP_ABOVE_M)) < IN_HAND_M
        return bool(stopped and near and opening > EMPTY)

    def _grasp(self, item: SceneObject, tool: Float, opening: float) -> _Intent:
        wanted = _above(item.position, GRASP_ABOVE_M)
        away = tool - wanted
        there = np.linalg.norm(away[:2]) < 2.0 * ALIGNED_M and abs(away[2]) < ALIGNED_M
        if there and (self._closing or opening > OPENED):
            still_moving = self._last_opening is None or abs(opening - self._last_opening) >= STOPPED
            missed = self._closing and not still_moving and opening <= EMPTY
            return _Intent(wanted, OPEN if missed else CLOSED)
        if opening < OPENED and np.linalg.norm(away) < APPROACH_ABOVE_M:
            return _Intent(tool, OPEN)  # open before going down on it
        return _Intent(_funnel(tool, wanted), OPEN)

    def _place(self, item: SceneObject, place: SceneObject, table_m: float, tool: Float) -> _Intent:
        aside = place.position[:2] - item.position[:2]
        bottom = float(item.position[2] - item.size[2] / 2.0)
        if np.linalg.norm(aside) > 2.0 * ALIGNED_M:
            carried_at = max(place.top_m, table_m + item.size[2]) + CLEARANCE_M
            height = tool[2] + carried_at - bottom
            over_everything = bottom > carried_at - CLEARANCE_M / 2.0
            return _Intent(np.array([*(tool[:2] + aside * over_everything), height]), CLOSED)
        if bottom > place.top_m + RELEASE_ABOVE_M:
            return _Intent(np.array([*(tool[:2] + aside), tool[2] + place.top_m - bottom]), CLOSED)
        return _Intent(tool, OPEN)

    def _let_go(self, item: SceneObject, tool: Float, opening: float) -> _Intent:
        if opening < OPENED:
            return _Intent(tool, OPEN)
        return _Intent(_at_height(tool, item.top_m + RETREAT_M), OPEN)

    def _push(self, item: SceneObject, tool: Float) -> _Intent:
        if self._push_start is None:
            self._push_start = item.position
        height = item.position[2] + GRASP_ABOVE_M
        behind = item.position[0] - item.size[0] / 2.0 - PUSH_BEHIND_M
        start = np.array([behind, item.position[1], height])
        in_line = abs(tool[1] - start[1]) < 2.0 * ALIGNED_M and tool[0] < item.position[0]
        if in_line and abs(tool[2] - height) < 2.0 * ALIGNED_M:
            end = self._push_start[0] + PUSH_BEYOND_M
            ahead = max(0.0, end - item.position[0])
            return _Intent(np.array([tool[0] + ahead, start[1], height]), CLOSED)
        return _Intent(_funnel(tool, start), CLOSED)


def _above(position: Float, height_m: float) -> Float:
    return np.array([position[0], position[1], position[2] + height_m])


def _at_height(tool: Float, height_m: float) -> Float:
    return np.array([tool[0], tool[1], height_m])


def _funnel(tool: Float, goal: Float) -> Float:
    """Return the next waypoint toward ``goal``: above it until the tool is over it, then down."""
    aside = float(np.linalg.norm(tool[:2] - goal[:2]))
    return _above(goal, min(APPROACH_ABOVE_M, FUNNEL_SLOPE * max(0.0, aside - ALIGNED_M)))
