"""Checks of targets and joint motions: workspace, tilt, self-collision, table."""

from __future__ import annotations

import math

import numpy as np

from openvla_ros.errors import ProfileError
from openvla_ros.profile import ArmProfile, RobotProfile
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.kinematics.collision import SelfCollision, TableClearance
from openvla_ros.robot.kinematics.delta_actions import orthonormal
from openvla_ros.robot.kinematics.described_limits import check_described
from openvla_ros.robot.kinematics.link_covers import cover_links
from openvla_ros.robot.safety.checked_room import CheckedRoom
from openvla_ros.values.arrays import Float
from openvla_ros.values.geometry import Pose, transform_euler_to_matrix, transform_rotvec_to_matrix
from openvla_ros.values.verdict import OK, Reason, SafetyVerdict

# A margin, because a stop is checked at a few samples only.
SAMPLING_RESERVE_M = 0.002
# The joints may bring a link this much nearer to the table than its clearance, as they follow targets.
TABLE_TOLERANCE_M = 0.002
# The joints may tilt the tool by this much more than its targets while they follow them.
TILT_TOLERANCE_RAD = 0.1
# By how much rounding may change a margin, metres or radians: far more than it does.
ROUNDING = 1e-5


class TargetLimits:
    """Clips commanded tool poses to the workspace box and the tilt limit."""

    def __init__(self, profile: RobotProfile) -> None:
        self._lower = np.array(profile.limits.workspace_lower)
        self._upper = np.array(profile.limits.workspace_upper)
        self._tilt = profile.limits.tilt_rad
        self._axis = _tool_axis(profile.arm)

    def limit(self, target: Pose, previous: Pose) -> tuple[Pose, SafetyVerdict]:
        """Return ``target`` clipped to the limits, and a verdict on what was clipped.

        If the ``previous`` target is outside them (the arm was there at the start), the limits extend to
        it: the tool may come back in but never move farther out.
        """
        lower = np.minimum(self._lower, previous.position)
        upper = np.maximum(self._upper, previous.position)
        position = np.minimum(np.maximum(target.position, lower), upper)
        verdict = OK
        off = np.abs(target.position - position)
        if off.max() > 1e-9:
            i = int(np.argmax(off))
            verdict = SafetyVerdict.command(
                Reason.WORKSPACE,
                f"{'xyz'[i]} {target.position[i]:.4f} m kept within {self._lower[i]:g} .. {self._upper[i]:g}",
            )
        rotation = target.rotation
        tilt, allowed = self.tilt(rotation), max(self._tilt, self.tilt(previous.rotation))
        if tilt > allowed + 1e-9:
            rotation = self._upright(rotation, tilt - allowed)
            verdict = SafetyVerdict.command(
                Reason.TILT, f"the tool's tilt of {tilt:.3f} rad is limited to {allowed:.3f} rad"
            )
        return (target if verdict is OK else Pose(position, rotation)), verdict

    def tilt(self, rotation: Float) -> float:
        """Return the angle in radians between the tool's axis and straight down."""
        return math.acos(min(1.0, max(-1.0, -float(rotation[2] @ self._axis))))

    def excess_tilt(self, rotations: Float) -> Float:
        """Return the tool's tilt beyond its limit (B,), radians, negative within, for rotations (B, 3, 3)."""
        cosine = np.minimum(np.maximum(-rotations[:, 2] @ self._axis, -1.0), 1.0)
        excess: Float = np.arccos(cosine) - self._tilt
        return excess

    def outside_m(self, positions: Float) -> Float:
        """Return how far ``positions`` (B, 3) are outside the workspace box (B,), metres, negative inside."""
        outside: Float = np.maximum(self._lower - positions, positions - self._upper).max(axis=1)
        return outside

    def _upright(self, rotation: Float, excess: float) -> Float:
        axis = rotation @ self._axis
        turn = np.cross(axis, [0.0, 0.0, -1.0])
        length = float(np.linalg.norm(turn))
        if length < 1e-9:  # pointing straight up: any way down is as good
            turn, length = np.array([1.0, 0.0, 0.0]), 1.0
        return orthonormal(transform_rotvec_to_matrix(turn / length * excess) @ rotation)


class MotionChecks:
    """Checks a joint motion for self-collision, the table, the workspace and the tilt.

    A motion is checked at its next sample and along the stop from there, so that an arm that may move can
    always stop in time. An arm that starts beyond a limit (parked outside the workspace) may move as long as
    it does not go farther beyond.
    """

    def __init__(self, profile: RobotProfile, chain: KinematicChain, targets: TargetLimits) -> None:
        """Raises ``ProfileError`` if the profile's joint limits contradict the robot description."""
        check_described(profile, chain)
        limits, arm = profile.limits, profile.arm
        fingers = {profile.gripper.joint: profile.gripper.open_m}
        self._chain = chain
        self._targets = targets
        covers = cover_links(chain, fingers)
        self.blind_spots = covers.blind_spots()  # link → why it is not checked, or not fully
        self._collision = SelfCollision(chain, fingers, (arm.home, arm.neutral, arm.park), covers)
        self._table = None
        self._clearance_m = limits.table_clearance_m
        if limits.table_height_m is not None:
            self._table = TableClearance(chain, fingers, limits.table_height_m, covers)
        self._workspace_tolerance_m = limits.workspace_tolerance_m
        self._reserve_m = min(SAMPLING_RESERVE_M, limits.workspace_tolerance_m / 2)
        self._link_room, self._tool_room = self._rooms()

    def check(self, now: Float, after: Float) -> SafetyVerdict:
        """Return OK, or a hold that names what moving from ``now`` (J,) to ``after`` (K, J) would violate."""
        points = np.concatenate([now[None], after])
        links_clear, tool_clear = self._link_room.contains(points), self._tool_room.contains(points)
        if links_clear and tool_clear:
            return OK
        frames = self._chain.frames(points)
        return (
            (None if links_clear else self._check_links(points, frames))
            or (None if tool_clear else self._check_tool(points, frames))
            or OK
        )

    def check_line(self, points: Float) -> SafetyVerdict:
        """Return OK, or a hold that names the links, or the table, that a joint path (K, J) collides with."""
        return self._check_links(points, self._chain.frames(points)) or OK

    def _check_links(self, points: Float, frames: Float) -> SafetyVerdict | None:
        """Return why links at ``points`` (K, J), with these frames, are too near to something, or None."""
        margins = self._collision.margins(frames)
        heights = self._heights(frames)
        verdict = self._links(margins) or self._above_table(heights)
        if verdict is None:
            self._link_room.note(points[-1], np.concatenate([margins[-1], heights[-1]]))
        return verdict

    def _check_tool(self, points: Float, frames: Float) -> SafetyVerdict | None:
        """Return why the tool at ``points`` (K, J), with these frames, is where it must not be, or None."""
        tool = frames[:, -1]
        inside = self._workspace_tolerance_m - self._reserve_m - self._targets.outside_m(tool[:, :3, 3])
        upright = TILT_TOLERANCE_RAD - self._targets.excess_tilt(tool[:, :3, :3])
        verdict = self._workspace(inside[:, None]) or self._tilt(upright[:, None])
        if verdict is None:
            self._tool_room.note(points[-1], np.array([inside[-1], upright[-1]]))
        return verdict

    def _heights(self, frames: Float) -> Float:
        """Return how much the links at ``frames`` (K, J + 1, 4, 4) are above what the table allows (K, N)."""
        if self._table is None:
            return np.zeros((len(frames), 0))
        return self._table.margins(frames) - self._clearance_m + TABLE_TOLERANCE_M

    def _rooms(self) -> tuple[CheckedRoom, CheckedRoom]:
        """Return the rooms for the margins of the links and of the tool; nothing has been checked yet."""
        chain = self._chain
        table = np.zeros((0, len(chain.joints))) if self._table is None else self._table.lever_arms(chain)
        links = np.concatenate([self._collision.lever_arms(chain), table])
        reserve_m = self._collision.rounding_m + ROUNDING
        return CheckedRoom(links, reserve_m), CheckedRoom(np.stack(chain.tool_lever_arms()), ROUNDING)

    def _links(self, margins: Float) -> SafetyVerdict | None:
        found = _first_worse(margins)
        if found is None:
            return None
        pair = " and ".join(self._collision.pair(found[1]))
        return SafetyVerdict.hold(
            Reason.SELF_COLLISION, f"{pair} would be {-found[0]:.4f} m closer than allowed"
        )

    def _above_table(self, heights: Float) -> SafetyVerdict | None:
        found = _first_worse(heights)
        if self._table is None or found is None:
            return None
        link, height_m = self._table.link(found[1]), found[0] + self._clearance_m - TABLE_TOLERANCE_M
        return SafetyVerdict.hold(
            Reason.TABLE,
            f"{link} would be {height_m:.4f} m above the table; the limit is {self._clearance_m} m",
        )

    def _workspace(self, margins: Float) -> SafetyVerdict | None:
        found = _first_worse(margins)
        if found is None:
            return None
        limit = self._workspace_tolerance_m
        outside = limit - self._reserve_m - found[0]
        return SafetyVerdict.hold(
            Reason.WORKSPACE,
            f"the tool would be {outside:.4f} m outside the workspace; the limit is {limit} m",
        )

    def _tilt(self, margins: Float) -> SafetyVerdict | None:
        found = _first_worse(margins)
        if found is None:
            return None
        excess = TILT_TOLERANCE_RAD - found[0]
        return SafetyVerdict.hold(
            Reason.TILT,
            f"the tool would tilt {excess:.3f} rad beyond its limit; {TILT_TOLERANCE_RAD} rad is tolerated",
        )


def _first_worse(margins: Float) -> tuple[float, int] | None:
    """Return the worst of ``margins`` (K, M) that is negative and below that of row 0, and its column."""
    if not margins.shape[1]:
        return None  # no link has a shape, which ``MotionChecks.blind_spots`` reports
    if margins.min() >= 0.0:
        return None  # as nearly always
    floor = np.minimum(0.0, margins[0]) - 1e-9
    short = margins[1:] - floor
    worst = int(np.argmin(short))
    if short.flat[worst] >= 0.0:
        return None
    return float(margins[1:].flat[worst]), worst % margins.shape[1]


def _tool_axis(arm: ArmProfile) -> Float:
    if arm.tool_axis is None:
        down = np.array([0.0, 0.0, -1.0])
        axis: Float = transform_euler_to_matrix(arm.state_rotation_offset).T @ down
        return axis
    axis = np.array(arm.tool_axis)
    length = float(np.linalg.norm(axis))
    if length < 1e-6:
        raise ProfileError(f"arm.tool_axis is {arm.tool_axis}; it must not be zero")
    return axis / length
