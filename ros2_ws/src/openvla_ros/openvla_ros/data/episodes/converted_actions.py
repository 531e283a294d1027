"""Converts the actions of episodes to another kind: joints to tool poses, targets to changes, and back.

Joints become tool poses by the robot's forward kinematics, tool poses become joints by its inverse
kinematics, and changes compose on the target before them as in the controller.

The first target, and the first after a gap, follows from what was measured there, as the controller's does
when the arm starts from rest. Targets are not limited: the controller does that when they are executed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from openvla_ros.data.episodes.episode_source import EpisodeSource, WrappedSource
from openvla_ros.errors import DatasetError, InvalidValueError, KinematicsError
from openvla_ros.profile import RobotProfile
from openvla_ros.robot.kinematics.action_targets import joint_actions, tool_actions
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.kinematics.inverse_kinematics import InverseKinematics, rotation_error
from openvla_ros.values.action import ROTATIONS, ActionKind, ActionSpace
from openvla_ros.values.action_dimensions import dimension_names, dimension_units
from openvla_ros.values.arrays import Float
from openvla_ros.values.episode import Episode
from openvla_ros.values.geometry import Pose
from openvla_ros.values.rotation_numbers import ROTATION_NAMES, RotationConvention

# How near the inverse solution is to the pose; far below what an arm repeats.
TOLERANCE_M, TOLERANCE_RAD = 1e-8, 1e-8
# A solution farther than this from the one before is another way to hold the arm: no single step.
JUMP_RAD = 1.0
# Recorded joints and poses that differ by more are not of this robot and tool frame.
SAME_TOOL_M, SAME_TOOL_RAD = 0.02, 0.1
_GAP = 1.5  # steps: what is further apart is not consecutive


@dataclass(frozen=True)
class ActionConversion:
    """The actions that are asked for, and the robot whose kinematics convert them.

    Raises ``InvalidValueError`` if the rotation convention does not fit the kind.
    """

    profile: RobotProfile
    kind: ActionKind
    rotation: RotationConvention | None = None  # None: the only one, the profile's own, or the kind's first

    def __post_init__(self) -> None:
        allowed = ROTATIONS[self.kind]
        if self.rotation is not None and self.rotation not in allowed:
            raise InvalidValueError(
                f"rotation {self.rotation!r} does not fit {self.kind} actions; "
                f"choose from {', '.join(allowed)}"
            )


class ConvertedSource(WrappedSource):
    """Another source's episodes with actions of another kind."""

    def __init__(self, source: EpisodeSource, conversion: ActionConversion) -> None:
        super().__init__(source)
        self._conversion = conversion
        self._converter = ActionConverter(conversion.profile)

    def __getitem__(self, index: int) -> Episode:
        """Return episode ``index`` converted; raises ``DatasetError`` if that is not possible."""
        episode = self.source[index]
        return self._converter.convert(episode, self._converter.space(self._conversion, episode.space))


class ActionConverter:
    """Converts the actions of episodes of one robot."""

    def __init__(self, profile: RobotProfile) -> None:
        limits = profile.limits
        self._profile = profile
        self._robot, self._joints = profile.name, profile.arm.joints
        self._neutral = np.array(profile.arm.neutral)
        self._chain = KinematicChain.from_profile(profile.arm)
        self._inverse = InverseKinematics(
            self._chain, limits.joint_lower, limits.joint_upper, limits.joint_velocity, profile.arm.neutral
        )

    def space(self, conversion: ActionConversion, source: ActionSpace) -> ActionSpace:
        """Return the space of converted actions of ``source``: their rate and gripper sign stay."""
        own, kind = self._profile.space(), conversion.kind
        same = own.kind == kind
        rotation = conversion.rotation or (own.rotation if same else ROTATIONS[kind][0])
        lower, upper = _bounds(self._profile, kind, rotation, source.step_s)
        return ActionSpace(
            names=dimension_names(kind, rotation, self._joints),
            units=dimension_units(kind, rotation, self._chain.units),
            frame=own.frame if same else "base",
            rotation=rotation,
            gripper_open=source.gripper_open,
            lower=np.append(lower, 0.0),
            upper=np.append(upper, 1.0),
            rate_hz=source.rate_hz,
            kind=kind,
        )

    def convert(self, episode: Episode, space: ActionSpace) -> Episode:
        """Return ``episode`` with its actions in ``space``; observations stay as they are.

        Raises ``DatasetError`` that names the episode, and the step if one cannot be converted: a pose out of
        reach, numbers that are no rotation, measured joints or poses that are needed and missing.
        """
        if not episode.space.differences(space):
            return episode
        name = f"episode {episode.id!r}"
        try:
            self._check(episode, space)
            motion = self._converted(episode, space)
        except (InvalidValueError, KinematicsError) as error:
            raise DatasetError(f"{name}: {error}") from error
        gripper = episode.actions[:, -1:]
        came_from = " ".join(part for part in (episode.space.kind, episode.space.rotation) if part != "none")
        return replace(
            episode,
            space=space,
            actions=np.concatenate([motion, gripper], axis=1),
            provenance={**episode.provenance, "converted_from": came_from},
        )

    def _check(self, episode: Episode, space: ActionSpace) -> None:
        joints, of = episode.joint_positions, episode.space
        if of.gripper_open != space.gripper_open or of.rate_hz != space.rate_hz:
            raise InvalidValueError(
                f"its gripper sign and rate are {of.gripper_open:g} and {of.rate_hz:g} Hz; a conversion "
                f"keeps them, and {space.gripper_open:g} and {space.rate_hz:g} Hz were asked for"
            )
        names = dimension_names(of.kind, of.rotation, self._joints)
        if of.names != names:
            raise InvalidValueError(
                f"its actions are {', '.join(of.names)}; {of.kind} actions of {self._robot} are "
                f"{', '.join(names)}, in this order"
            )
        units = dimension_units(of.kind, of.rotation, self._chain.units)
        if of.kind != "tool_delta" and of.units != units:  # the units of deltas are converted
            raise InvalidValueError(
                f"the units of its actions are {', '.join(of.units)}; those of {of.kind} actions of "
                f"{self._robot} are {', '.join(units)}"
            )
        if joints is not None and joints.shape[1] != len(self._joints):
            raise InvalidValueError(
                f"it has {joints.shape[1]} joint positions; {self._robot} has {len(self._joints)} joints"
            )

    def _converted(self, episode: Episode, space: ActionSpace) -> Float:
        apart = np.diff(episode.stamps_ns) > _GAP * 1e9 / episode.rate_hz
        starts = [0, *(np.flatnonzero(apart) + 1), len(episode)]
        parts = [self._run(episode, space, int(start), int(end)) for start, end in pairwise(starts)]
        return np.concatenate(parts)

    def _run(self, episode: Episode, space: ActionSpace, start: int, end: int) -> Float:
        """Convert the consecutive steps from ``start`` to before ``end``."""
        from_tool, to_tool = tool_actions(episode.space) is not None, tool_actions(space) is not None
        if from_tool != to_tool:
            self._check_same_tool(episode, start)
        if from_tool:
            poses = self._poses(episode, start, end)
            return (
                self._tool_motion(episode, space, start, poses)
                if to_tool
                else self._joint_motion(episode, space, start, self._solve(episode, start, poses))
            )
        positions = self._positions(episode, start, end)
        if to_tool:
            poses = [self._chain.forward(q) for q in positions]
            return self._tool_motion(episode, space, start, poses)
        return self._joint_motion(episode, space, start, positions)

    def _poses(self, episode: Episode, start: int, end: int) -> list[Pose]:
        """Return the targets (end - start) of tool actions."""
        actions = tool_actions(episode.space)
        assert actions is not None
        relative = not episode.space.is_absolute
        factors = episode.space.si_factors if relative else np.ones(episode.space.width - 1)
        target = self._measured_tool(episode, start) if relative else Pose.identity()
        targets = []
        for step in range(start, end):
            values = np.append(episode.actions[step, :-1] * factors, episode.actions[step, -1])
            try:
                target = actions.after(target, values)
            except InvalidValueError as error:
                raise InvalidValueError(f"step {step}: {error}") from error
            targets.append(target)
        return targets

    def _positions(self, episode: Episode, start: int, end: int) -> list[Float]:
        """Return the targets (end - start) of joint actions."""
        actions = joint_actions(episode.space)
        target = self._neutral if episode.space.is_absolute else self._measured_joints(episode, start)
        targets = []
        for step in range(start, end):
            target = actions.after(target, episode.actions[step])
            targets.append(target)
        return targets

    def _solve(self, episode: Episode, start: int, poses: Sequence[Pose]) -> list[Float]:
        """Return the joints for ``poses``, each solution next to the one before."""
        known = episode.joint_positions is not None
        before = self._measured_joints(episode, start) if known else self._neutral
        solved: list[Float] = []
        for step, pose in enumerate(poses, start=start):
            try:
                q = self._inverse.solve(pose, before, TOLERANCE_M, TOLERANCE_RAD)
            except KinematicsError as error:
                raise KinematicsError(f"step {step}: {error}") from error
            far = np.abs(q - before)
            joint = int(np.argmax(far))
            if far[joint] > JUMP_RAD and (known or solved):
                raise KinematicsError(
                    f"step {step}: {self._joints[joint]} would jump by {far[joint]:.2f} rad: no solution "
                    "near the step before reaches the tool pose"
                )
            solved.append(q)
            before = q
        return solved

    def _tool_motion(self, episode: Episode, space: ActionSpace, start: int, poses: Sequence[Pose]) -> Float:
        actions = tool_actions(space)
        assert actions is not None
        first = poses[0] if space.is_absolute else self._measured_tool(episode, start)
        rows = np.array([actions.between(a, b) for a, b in zip([first, *poses[:-1]], poses, strict=True)])
        return _same_sign(rows) if space.rotation == "quaternion_xyzw" else rows

    def _joint_motion(
        self, episode: Episode, space: ActionSpace, start: int, positions: Sequence[Float]
    ) -> Float:
        actions = joint_actions(space)
        first = positions[0] if space.is_absolute else self._measured_joints(episode, start)
        pairs = zip([first, *positions[:-1]], positions, strict=True)
        return np.array([actions.between(a, b) for a, b in pairs])

    def _measured_tool(self, episode: Episode, step: int) -> Pose:
        if episode.poses is not None:
            return Pose.from_matrix(episode.poses[step])
        if episode.joint_positions is not None:
            return self._chain.forward(episode.joint_positions[step])
        raise InvalidValueError("it has neither tool poses nor joint positions that its changes start from")

    def _measured_joints(self, episode: Episode, step: int) -> Float:
        if episode.joint_positions is None:
            raise InvalidValueError("it has no joint positions that its changes start from")
        measured: Float = episode.joint_positions[step]
        return measured

    def _check_same_tool(self, episode: Episode, step: int) -> None:
        if episode.poses is None or episode.joint_positions is None:
            return
        there, here = (
            Pose.from_matrix(episode.poses[step]),
            self._chain.forward(episode.joint_positions[step]),
        )
        off_m = float(np.linalg.norm(there.position - here.position))
        off_rad = float(np.linalg.norm(rotation_error(there.rotation, here.rotation)))
        if off_m > SAME_TOOL_M or off_rad > SAME_TOOL_RAD:
            raise InvalidValueError(
                f"step {step}: the recorded tool is {off_m:.3f} m and {off_rad:.2f} rad off where "
                f"{self._robot}'s joints put it: another robot, base or tool frame"
            )


def _same_sign(poses: Float) -> Float:
    """Return tool poses (T, 7) with each quaternion in the half of the sphere of the one before it."""
    continued = poses.copy()
    for before, after in pairwise(continued):
        if before[3:] @ after[3:] < 0.0:
            after[3:] *= -1.0
    return continued


def _bounds(
    profile: RobotProfile, kind: ActionKind, rotation: RotationConvention, step_s: float
) -> tuple[Float, Float]:
    """Return the usual smallest and largest values (D - 1,) of actions of ``kind``."""
    limits = profile.limits
    match kind:
        case "joint_position":
            return np.array(limits.joint_lower), np.array(limits.joint_upper)
        case "joint_delta":
            fastest = np.minimum(np.array(limits.joint_velocity) * step_s, np.pi)
            return -fastest, fastest
        case "tool_delta":
            most = np.array([1.0] * 3 + [np.pi] * 3)
            return -most, most
        case "tool_pose":
            angles = rotation in ("euler_xyz", "rotation_vector")
            turn = np.full(len(ROTATION_NAMES[rotation]), np.pi if angles else 1.0)
            lower, upper = np.array(limits.workspace_lower), np.array(limits.workspace_upper)
            return np.concatenate([lower, -turn]), np.concatenate([upper, turn])
