"""Whether the frames that a profile names are those of the running robot, as its tf says.

The policy's path needs no tf: a wrong name here is one that recordings and checkpoints would carry.
The pose of the tool is more: where tf and the profile's URDF disagree on it, one of them is not this
robot's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from openvla_ros.discovery.client import RobotClient
from openvla_ros.drivers.readiness.optional_messages import interface
from openvla_ros.errors import InvalidValueError, MissingDependencyError
from openvla_ros.profile import RobotProfile
from openvla_ros.programs.finding import Finding
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.kinematics.frame_tree import FrameTree
from openvla_ros.ros import qos
from openvla_ros.values.arrays import Float
from openvla_ros.values.geometry import Pose, transform_matrix_to_rotvec

TOPICS = ("/tf", "/tf_static")
# tf and the URDF may put the tool so far apart: rounding, and joint states between two messages of tf.
TOOL_M, TOOL_RAD = 0.002, 0.01
# An arm whose joints moved by more than this while tf was listened to is not compared.
MOVED_RAD = 0.005


class FrameListener:
    """Collects the frames that a robot publishes, if it does and its messages are installed here."""

    def __init__(self, client: RobotClient) -> None:
        self._node = client.node
        self.tree = FrameTree()
        self._problem: str | None = None
        try:
            kind = interface("tf2_msgs/msg/TFMessage", "the check of frames")
        except MissingDependencyError as error:
            self._problem = str(error)
            return
        for topic, profile in zip(TOPICS, (qos.EVERY_IN, qos.LATCHED_BY_MANY), strict=True):
            self._node.create_subscription(kind, topic, self._received, profile)

    def not_checked(self) -> Finding | None:
        """Return what keeps the frames from being checked, or None."""
        topics = " or ".join(TOPICS)
        if not any(self._node.count_publishers(topic) for topic in TOPICS):
            fix = "start robot_state_publisher; nothing but this check needs tf"
            return Finding("not checked", "frames", f"nobody publishes {topics}", fix)
        if self._problem is not None:
            return Finding("not checked", "frames", self._problem, "install what it names")
        if not self.tree.names:
            return Finding(
                "not checked", "frames", f"nothing arrives on {topics}", "listen longer (--seconds)"
            )
        return None

    def _received(self, message: Any) -> None:
        for item in message.transforms:
            p, q = item.transform.translation, item.transform.rotation
            try:
                pose = Pose.from_quaternion([p.x, p.y, p.z], [q.x, q.y, q.z, q.w])
            except InvalidValueError:
                continue  # a frame without a place: it then counts as missing
            self.tree.put(item.header.frame_id.lstrip("/"), item.child_frame_id.lstrip("/"), pose)


def check_frames(
    profile: RobotProfile, tree: FrameTree, before: Float | None, after: Float | None
) -> Iterator[Finding]:
    """Compare the profile's frames with the robot's.

    ``before`` and ``after`` are the joint positions (J,) rad when listening began and ended.
    """
    arm = profile.arm
    base, tool = (arm.frame_prefix + link for link in (arm.base_link, arm.tool_link))
    for name, key in ((base, "base_link"), (tool, "tool_link")):
        if name not in tree.names:
            fix = f"correct arm.{key} or arm.frame_prefix, or start robot_state_publisher"
            yield Finding("warn", "frames", f"{name!r} (arm.{key}) is not in tf, {_which(tree)}", fix)
    seen = tree.pose(base, tool)
    if seen is not None:
        yield _compare(profile, seen, before, after)
    for camera in profile.cameras:
        subject = f"camera {camera.name}"
        if camera.frame_id not in tree.names:
            fix = "correct frame_id, or start what publishes the camera's frame"
            text = f"its frame {camera.frame_id!r} is not in tf, {_which(tree)}"
            yield Finding("warn", subject, text, fix)
            continue
        pose = tree.pose(base, camera.frame_id)
        where = "not connected to the arm" if pose is None else f"at {_rounded(pose)} m from {base}"
        yield Finding("ok", subject, f"its frame {camera.frame_id!r} is in tf, {where}")


def _compare(profile: RobotProfile, seen: Pose, before: Float | None, after: Float | None) -> Finding:
    """Compare where tf sees the tool with where the profile's URDF puts it."""
    if before is None or after is None:
        text = "the tool's pose: there are no joint states to compare with"
        return Finding("not checked", "frames", text, "start the robot's driver")
    if np.abs(after - before).max() > MOVED_RAD:
        return Finding("not checked", "frames", "the tool's pose: the arm is moving", "let it rest")
    stated = KinematicChain.from_profile(profile.arm).forward(after)
    off_m = float(np.linalg.norm(seen.position - stated.position))
    off_rad = float(np.linalg.norm(transform_matrix_to_rotvec(seen.rotation.T @ stated.rotation)))
    text = f"tf and {profile.arm.urdf} put the tool {1e3 * off_m:.1f} mm and {off_rad:.3f} rad apart"
    if off_m <= TOOL_M and off_rad <= TOOL_RAD:
        return Finding("ok", "frames", text)
    fix = "correct arm.urdf, arm.base_link or arm.tool_link: deltas would turn about another point"
    return Finding("error", "frames", f"{text}: at {_rounded(seen)} and {_rounded(stated)} m", fix)


def _which(tree: FrameTree) -> str:
    shown = ", ".join(sorted(tree.names)[:20])
    return f"which has {shown}" + (", ..." if len(tree.names) > 20 else "")


def _rounded(pose: Pose) -> list[float]:
    rounded: list[float] = np.round(pose.position, 3).tolist()
    return rounded
