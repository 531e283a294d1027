"""Whether a profile fits the robot that is running: every stream, name and limit, and what to fix.

Looks and listens; it publishes nothing, calls nothing that changes anything, and moves nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from geometry_msgs.msg import WrenchStamped
from sensor_msgs.msg import CompressedImage, Image, JointState

from openvla_ros.discovery.client import RobotClient
from openvla_ros.discovery.message_publishers import MessagePublishers, Publisher
from openvla_ros.drivers.factory import arm_state, gripper_state, make_arm_driver, make_gripper_driver
from openvla_ros.drivers.probe import looking
from openvla_ros.drivers.readiness.ros2_control import SettingsQuery
from openvla_ros.drivers.readiness.unusable import ArmState
from openvla_ros.errors import InvalidValueError, MissingDependencyError, OpenVLARosError
from openvla_ros.profile import CameraProfile, RobotProfile
from openvla_ros.programs.clock_check import check_clock
from openvla_ros.programs.finding import Finding
from openvla_ros.programs.frame_check import FrameListener, check_frames
from openvla_ros.programs.sole_check import check_reporters, check_sole
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.kinematics.collision import SelfCollision
from openvla_ros.robot.kinematics.described_limits import contradictions
from openvla_ros.robot.kinematics.link_covers import cover_links
from openvla_ros.robot.safety import CLOCK_TOLERANCE_S
from openvla_ros.robot.safety.unusual_limits import unusual_limits
from openvla_ros.ros import qos
from openvla_ros.ros.image_messages import from_compressed_image, from_image
from openvla_ros.ros.messages import from_stamp, joint_values
from openvla_ros.values.arrays import Float
from openvla_ros.values.time import seconds

# A stream slower than this share of its stated rate is reported, as in the nodes' diagnostics.
SLOW = 0.8


class _Stream:
    """What arrives on one topic."""

    def __init__(self, client: RobotClient, kind: type, topic: str, joints: Iterable[str] = ()) -> None:
        self.client, self.kind = client, kind
        self.topic = client.node.resolve_topic_name(topic)
        self.first: Any = None
        self.newest: Any = None
        self.stamps: list[int] = []
        self.ages_s: list[float] = []
        self._joints, self._publishers = frozenset(joints), MessagePublishers()
        self.reporters: set[Publisher] = set()  # publishers of messages on one of ``joints``
        client.node.create_subscription(kind, topic, self._received, qos.EVERY_IN)

    def _received(self, message: Any, info: Mapping[str, Any]) -> None:
        if not self._joints.isdisjoint(getattr(message, "name", ())):
            publisher = self._publishers.of(info, time.monotonic())
            if publisher is not None:
                self.reporters.add(publisher)
        self.first = self.first or message
        self.newest = message
        self.stamps.append(from_stamp(message.header.stamp))
        self.ages_s.append(seconds(self.client.now_ns - self.stamps[-1]))

    @property
    def rate_hz(self) -> float:
        if len(self.stamps) < 2 or self.stamps[-1] <= self.stamps[0]:
            return 0.0
        return (len(self.stamps) - 1) / seconds(self.stamps[-1] - self.stamps[0])

    def types(self) -> list[str]:
        """The types that publishers offer under this name."""
        return sorted({i.topic_type for i in self.client.node.get_publishers_info_by_topic(self.topic)})


def check_profile(profile: RobotProfile, client: RobotClient, listen_s: float) -> list[Finding]:
    """Return what was found about ``profile`` while listening to the robot for ``listen_s`` seconds."""
    client.wait_for_clock()
    findings = list(_description(profile))
    state = _Stream(client, JointState, profile.state.joint_states_topic, profile.arm.joints)
    cameras = [(c, _Stream(client, _image_type(c), c.topic)) for c in profile.cameras]
    wrench = None
    if profile.state.wrench_topic is not None:
        wrench = _Stream(client, WrenchStamped, profile.state.wrench_topic)
    frames = FrameListener(client)
    adapters = list(_adapters(profile, client, findings))
    findings += _listen(profile, client, listen_s)
    findings += _flow(state, "joint states", profile.state.rate_hz, profile.state.max_age_s)
    if state.newest is not None:
        findings += _joints(profile, state)
    for camera, stream in cameras:
        subject = f"camera {camera.name}"
        findings += _flow(stream, subject, camera.rate_hz, camera.max_age_s)
        if stream.newest is not None:
            findings += _image(camera, stream.newest, subject)
    if wrench is not None:
        findings += _flow(wrench, "wrench", 0.0, profile.state.max_age_s)
    not_checked = frames.not_checked()
    if not_checked is None:
        findings += check_frames(profile, frames.tree, *_positions(profile, state))
    else:
        findings.append(not_checked)
    for part, adapter in adapters:
        findings += _backend(profile, part, adapter, client)
    if not client.node.get_parameter("use_sim_time").value:  # else there is one clock for all
        findings += check_clock(profile, state.topic, state.ages_s)
    findings += check_reporters(client.node, profile.state.joint_states_topic, state.reporters)
    findings += check_sole(client.node, profile)
    return findings


def _listen(profile: RobotProfile, client: RobotClient, listen_s: float) -> Iterator[Finding]:
    """Receive for ``listen_s`` seconds; ask the robot's own software meanwhile how it is set up."""
    topic = profile.arm_backend.topic
    states = list(_states(profile, client))
    query = SettingsQuery(client.node, topic) if profile.arm_backend.kind == "joint_trajectory" else None

    def ask() -> bool:
        for _, _, state in states:
            state.progress()
        if query is not None:
            query.progress()
        return False

    client.wait(ask, listen_s)
    for part, command_topic, state in states:
        if state.problem is None and state.is_known:
            yield Finding("ok", f"{part} back end", str(state))
        elif state.problem is not None and client.node.count_subscribers(command_topic):
            yield Finding("error", f"{part} back end", state.problem.what, state.problem.remedy)
        state.close()
    if query is None:
        return
    settings = query.settings
    query.close()
    if settings is None:
        return  # nobody is there, which the back end's finding says, or it has no parameters
    if settings.problem is not None:
        yield Finding("error", "arm back end", settings.problem.what, settings.problem.remedy)
    else:
        yield Finding("ok", "arm back end", str(settings))


def _states(profile: RobotProfile, client: RobotClient) -> Iterator[tuple[str, str, ArmState]]:
    """Return what asks the software of each part, with the part's command topic, where it is asked at all."""
    for part, backend, make in (
        ("arm", profile.arm_backend, arm_state),
        ("gripper", profile.gripper_backend, gripper_state),
    ):
        with suppress(MissingDependencyError):  # the back end's own finding says so
            state = make(client.node, profile)
            if state is not None:
                yield part, client.node.resolve_topic_name(backend.topic), state


def _description(profile: RobotProfile) -> Iterator[Finding]:
    """Check the profile against its own URDF."""
    arm, limits = profile.arm, profile.limits
    try:
        chain = KinematicChain.from_profile(arm)
    except OpenVLARosError as error:
        yield Finding("error", "description", str(error), "correct arm.urdf, its links or arm.joints")
        return
    for text in contradictions(profile, chain):
        yield Finding("error", "limits", text, "lower the limit: the controller refuses to start with it")
    for text in unusual_limits(profile):
        yield Finding("warn", "limits", text, "make sure that it is meant, and in the right unit")
    tool = chain.forward(np.array(arm.neutral)).position
    box = (np.array(limits.workspace_lower), np.array(limits.workspace_upper))
    if np.any(tool < box[0]) or np.any(tool > box[1]):
        text = f"at arm.neutral the tool is at {np.round(tool, 3).tolist()}, outside the workspace box"
        yield Finding("warn", "poses", text, "move arm.neutral or widen limits.workspace_*")
    yield Finding(
        "ok", "description", f"{arm.urdf}: {len(arm.joints)} joints, {arm.base_link} to {arm.tool_link}"
    )
    yield from _collision_cover(profile, chain)


def _collision_cover(profile: RobotProfile, chain: KinematicChain) -> Iterator[Finding]:
    """Say what of the arm is checked for collisions, and what is not."""
    arm, fingers = profile.arm, {profile.gripper.joint: profile.gripper.open_m}
    covers = cover_links(chain, fingers)
    fix = "give the link a <collision> that can be read, or install what is named"
    for link, why in covers.blind_spots().items():
        yield Finding(
            "warn",
            "self-collision",
            f"{link} is not checked for collisions with the arm or the table: {why}",
            fix,
        )
    collision = SelfCollision(chain, fingers, (arm.home, arm.neutral, arm.park), covers)
    yield Finding("ok", "self-collision", collision.summary(covers.bare))


def _adapters(
    profile: RobotProfile, client: RobotClient, findings: list[Finding]
) -> Iterator[tuple[str, Any]]:
    for part, make in (("arm", make_arm_driver), ("gripper", make_gripper_driver)):
        try:
            yield part, make(looking(client.node), profile)
        except OpenVLARosError as error:
            findings.append(Finding("error", f"{part} back end", str(error), "install what it names"))


def _backend(profile: RobotProfile, part: str, adapter: Any, client: RobotClient) -> Iterator[Finding]:
    """Check that the robot's software is there."""
    subject, backend = f"{part} back end", getattr(profile, f"{part}_backend")
    missing = adapter.missing()
    if missing:
        fix = f"start the robot's driver, or correct {part}_backend in the profile"
        yield Finding("error", subject, missing, fix)
    elif backend.takes_setpoints:
        text = f"{backend.kind} is there; it has no command timeout, so the setpoint node runs in front of it"
        yield Finding("ok", subject, text)
    else:
        yield Finding("ok", subject, f"{backend.kind} is there")


def _positions(profile: RobotProfile, stream: _Stream) -> tuple[Float | None, Float | None]:
    """Return the first and the newest joint positions (J,) rad, where there are any."""
    try:
        first, newest = (
            None if message is None else joint_values(message, profile.arm.joints)
            for message in (stream.first, stream.newest)
        )
    except InvalidValueError:
        return None, None  # said where the joint names are checked
    return first, newest


def _flow(stream: _Stream, subject: str, rate_hz: float, max_age_s: float) -> Iterator[Finding]:
    """Check that a stream is there, of the right type, often and young enough."""
    wanted = f"{stream.kind.__module__.split('.')[0]}/msg/{stream.kind.__name__}"
    types = stream.types()
    if stream.newest is None:
        if types and wanted not in types:
            text = f"{stream.topic} carries {', '.join(types)}; the profile expects {wanted}"
            yield Finding("error", subject, text, "correct the topic, or the camera's key compressed")
        elif types:
            yield Finding(
                "error", subject, f"{stream.topic} has a publisher but nothing arrives", "check the driver"
            )
        else:
            yield Finding(
                "error", subject, f"nobody publishes {stream.topic}", "start the driver or correct the topic"
            )
        return
    age = float(np.median(stream.ages_s))
    if age > max_age_s:
        text = f"{stream.topic}: messages are {age:.2f} s old on arrival; allowed {max_age_s} s"
        yield Finding("error", subject, text, "synchronise the clocks (chrony), or set use_sim_time")
    elif age < -CLOCK_TOLERANCE_S:
        text = f"{stream.topic}: stamped {-age:.2f} s in the future"
        yield Finding("error", subject, text, "synchronise the clocks (chrony)")
    elif len(stream.stamps) < 3:
        text = f"{stream.topic}: only {len(stream.stamps)} messages came, too few for a rate"
        yield Finding("warn", subject, text, "listen longer (--seconds), or check the driver")
    elif stream.rate_hz < SLOW * rate_hz:
        text = f"{stream.topic}: {stream.rate_hz:.1f} Hz; the profile says {rate_hz:.1f} Hz"
        yield Finding("warn", subject, text, "raise the driver's rate or lower rate_hz")
    else:
        text = f"{stream.topic}: {stream.rate_hz:.1f} Hz, {1e3 * age:.0f} ms old on arrival"
        yield Finding("ok", subject, text)


def _joints(profile: RobotProfile, stream: _Stream) -> Iterator[Finding]:
    """Check the names and values of the joints."""
    try:
        q = joint_values(stream.newest, profile.arm.joints)
        finger = float(joint_values(stream.newest, [profile.gripper.joint])[0])
    except InvalidValueError as error:
        yield Finding("error", "joint names", str(error), "correct arm.joints or gripper.joint")
        return
    limits = profile.limits
    for name, value, low, high in zip(
        profile.arm.joints, q, limits.joint_lower, limits.joint_upper, strict=True
    ):
        if not low <= value <= high:
            text = f"{name} is at {value:.3f} rad, outside {low} .. {high} rad"
            yield Finding(
                "warn", "joint positions", text, "move the arm inside its limits by hand, or widen them"
            )
    low, high = sorted((profile.gripper.open_m, profile.gripper.closed_m))
    margin = 0.1 * (high - low)
    if not low - margin <= finger <= high + margin:
        text = f"{profile.gripper.joint} is at {finger:.4f}, outside {low} .. {high}"
        yield Finding("warn", "gripper", text, "correct gripper.open_m and closed_m")
    yield Finding("ok", "joint names", f"all {len(q)} joints and {profile.gripper.joint} are reported")


def _image(camera: CameraProfile, message: Any, subject: str) -> Iterator[Finding]:
    """Check an image's size, encoding and frame."""
    try:
        image = from_compressed_image(message) if camera.compressed else from_image(message)
    except InvalidValueError as error:
        yield Finding("error", subject, str(error), "choose another encoding in the camera's driver")
        return
    height, width = image.shape[:2]
    if (width, height) != (camera.width, camera.height):
        text = f"images are {width}x{height}; the profile says {camera.width}x{camera.height}"
        yield Finding("warn", subject, text, "correct width and height, or the driver's resolution")
    if message.header.frame_id != camera.frame_id:
        text = f"frame is {message.header.frame_id!r}; the profile says {camera.frame_id!r}"
        yield Finding("warn", subject, text, "correct frame_id")


def _image_type(camera: CameraProfile) -> type:
    return CompressedImage if camera.compressed else Image
