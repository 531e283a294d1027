"""The robot profile: the one description of a robot that every node, recording and checkpoint shares.

A profile is a YAML file (``config/robots/*.yaml``) with the robot's properties: cameras, joints, action
space, limits, rates, and the topics of the robot's own software. Settings that an operator tunes at
runtime are ROS parameters instead. This module knows nothing of ROS.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from openvla_ros.action_profile import ActionProfile, check_actions
from openvla_ros.driver_profile import (
    STRICT,
    Age,
    Angle,
    ArmBackend,
    Coordinate,
    GripperBackend,
    JointPosition,
    Metres,
    Positive,
    Radians,
    Topic,
)  # fmt: skip
from openvla_ros.errors import InvalidValueError, ProfileError
from openvla_ros.integrity.placeholders import unfilled
from openvla_ros.integrity.text_file import read_text
from openvla_ros.integrity.validation_errors import validation_lines
from openvla_ros.resources import share_path
from openvla_ros.values.action import ActionSpace

# Which field of a camera's source each kind takes.
SOURCE_FIELDS: dict[str, str | None] = {
    "topic": None, "usb": "device", "realsense": "serial",
    "video": "path", "images": "path", "episode": "path",
}  # fmt: skip


@dataclass(frozen=True, config=STRICT)
class CameraSource:
    """Where a camera's images come from: its own driver's topic, or a device that the camera node opens."""

    kind: Literal["topic", "usb", "realsense", "video", "images", "episode"]
    device: str = ""  # usb: path such as /dev/video2 or number, empty for 0
    serial: str = ""  # realsense: serial number, empty for the only one
    path: str = ""  # video: its file; images: their folder; episode: a dataset

    def __post_init__(self) -> None:
        wanted = SOURCE_FIELDS[self.kind]
        for name in ("device", "serial", "path"):
            if getattr(self, name) and name != wanted:
                takes = f"takes {wanted}" if wanted else "takes nothing else"
                raise ValueError(f"{name} is {getattr(self, name)!r}; a source of kind {self.kind!r} {takes}")
        if wanted == "path" and not self.path:
            raise ValueError(f"a source of kind {self.kind!r} needs a path")


@dataclass(frozen=True, config=STRICT)
class CameraProfile:
    """One camera: its stream, and how to rotate its image for the policy."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    topic: Topic  # the driver's topic
    width: Annotated[int, Field(gt=0)]
    height: Annotated[int, Field(gt=0)]
    rate_hz: Positive
    max_age_s: Age  # an older image stops the policy
    frame_id: str
    rotate_deg: Literal[0, 90, 180, 270] = 0  # clockwise
    compressed: bool = False  # the topic is sensor_msgs/CompressedImage
    source: CameraSource | None = None  # where the images come from; the default is in ``origin``

    @property
    def origin(self) -> CameraSource:
        """The image source; by default the driver that publishes the topic.

        Of the topic of this package's own camera node, which no driver publishes, it is USB camera 0.
        """
        if self.source is not None:
            return self.source
        return CameraSource("usb" if self.topic == f"camera/{self.name}/image_raw" else "topic")


@dataclass(frozen=True, config=STRICT)
class ArmProfile:
    """The arm's description and the joint names that its software uses, base to tip."""

    urdf: str  # a file in ``urdf/`` or an absolute path
    base_link: str
    tool_link: str
    joints: tuple[str, ...]
    frame_prefix: str  # prefix of link names in tf, "wx250s/" for Interbotix
    neutral: tuple[float, ...]  # radians; the pose where instructions start
    home: tuple[float, ...]
    park: tuple[float, ...]
    # Rotation (roll, pitch, yaw, radians) of the tool frame that counts as zero in recorded states:
    # BridgeData V2 measures angles from "tool straight down".
    state_rotation_offset: tuple[Angle, Angle, Angle] = (0.0, 0.0, 0.0)
    # The tool frame's axis that points out of the gripper; default: the one that points down at zero
    # recorded rotation.
    tool_axis: tuple[float, float, float] | None = None


@dataclass(frozen=True, config=STRICT)
class GripperProfile:
    """The gripper's joint, and its open and closed positions."""

    joint: str
    open_m: Annotated[float, Field(ge=-4, le=4)]  # rad for a gripper whose joint turns
    closed_m: Annotated[float, Field(ge=-4, le=4)]
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5  # openings above it open the gripper
    hysteresis: Annotated[float, Field(ge=0, lt=0.5)] = 0.1  # how far past the threshold before it switches

    def position_m(self, opening: float) -> float:
        """Return the joint position, metres, for an opening of 0 (closed) .. 1 (open)."""
        return self.closed_m + opening * (self.open_m - self.closed_m)

    def opening(self, position_m: float) -> float:
        """Return the opening 0 (closed) .. 1 (open) for a joint position in metres, clipped to that range."""
        return min(1.0, max(0.0, (position_m - self.closed_m) / (self.open_m - self.closed_m)))


@dataclass(frozen=True, config=STRICT)
class StateProfile:
    """The state that the robot reports."""

    joint_states_topic: Topic
    rate_hz: Positive
    max_age_s: Age  # an older state stops the policy and the controller
    wrench_topic: Topic | None = None


@dataclass(frozen=True, config=STRICT)
class LimitsProfile:
    """The limits that the controller never exceeds; radians, metres, seconds."""

    joint_lower: tuple[JointPosition, ...]  # within the URDF's, or the controller does not start
    joint_upper: tuple[JointPosition, ...]
    joint_velocity: tuple[Annotated[float, Field(gt=0, le=20)], ...]  # rad/s, at most the URDF's
    joint_acceleration: tuple[Annotated[float, Field(gt=0, le=200)], ...]  # rad/s²
    joint_jerk: tuple[Annotated[float, Field(gt=0, le=20000)], ...]  # rad/s³
    workspace_lower: tuple[Coordinate, Coordinate, Coordinate]  # of the tool point in the base frame
    workspace_upper: tuple[Coordinate, Coordinate, Coordinate]
    tilt_rad: Radians  # largest angle between the tool axis and straight down
    # Targets are clipped to the box; the tool itself may exceed it by this much while it follows them.
    workspace_tolerance_m: Metres = 0.01
    table_height_m: Coordinate | None = None  # no part of the arm may go below it
    table_clearance_m: Annotated[float, Field(ge=0, le=1)] = 0.0
    tracking_error_rad: Radians = 0.2  # commanded against measured, any joint
    # N m (or what the driver reports), absolute; with it, the joint states must report efforts
    effort: tuple[Positive, ...] | None = None
    wrench_n: Positive | None = None  # external force; needs state.wrench_topic
    wrench_nm: Positive | None = None  # external torque; needs state.wrench_topic


@dataclass(frozen=True, config=STRICT)
class ControlProfile:
    """How the controller turns actions into motion."""

    rate_hz: Annotated[float, Field(ge=20, le=1000)] = 100.0
    mode: Literal["streaming", "blocking"] = "streaming"
    chunk_max_age_s: Age = 0.6  # a chunk computed from an older observation is refused
    # One chunk carries at most this much motion: the arm goes on for so long if the policy dies.
    chunk_horizon_s: Annotated[float, Field(gt=0, le=10)] = 2.0
    hold_after_s: Age = 0.5  # without a new chunk for this long, stop smoothly and hold
    reanchor_error_m: Metres = 0.05  # commanded against measured tool point
    reanchor_error_rad: Radians = 0.35
    leash_m: Metres = 0.03  # how far the commanded tool point may run ahead of the solved joints
    blend_s: Annotated[float, Field(gt=0, le=2)] = 0.2  # time over which one action blends into the next
    # how much a step may be stretched for a slow policy
    stretch_max: Annotated[float, Field(ge=1, le=10)] = 2.0
    homing_share: Annotated[float, Field(gt=0, le=1)] = 0.3  # of the joint limits, on the way to a named pose
    dead_man_s: Annotated[float, Field(gt=0, le=2)] = 0.3  # without a teleoperation chunk for this long, stop


@dataclass(frozen=True, config=STRICT)
class SimulationProfile:
    """Properties of the simulated robot; only in simulation profiles."""

    robot: Literal["widowx", "franka"]
    task: str
    physics_hz: Positive = 500.0
    seed: int = 0


@dataclass(frozen=True, config=STRICT)
class RecordingProfile:
    """Additional topics to record, and how to store images."""

    image_format: Literal["raw", "jpeg"] = "jpeg"
    jpeg_quality: Annotated[int, Field(ge=50, le=100)] = 95
    extra_topics: tuple[Topic, ...] = ()


@dataclass(frozen=True, config=STRICT)
class RobotProfile:
    """Everything that the nodes must agree on about one robot."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    description: str
    cameras: tuple[CameraProfile, ...]
    arm: ArmProfile
    gripper: GripperProfile
    state: StateProfile
    action_space: ActionProfile
    limits: LimitsProfile
    control: ControlProfile
    arm_backend: ArmBackend
    gripper_backend: GripperBackend
    recording: RecordingProfile = RecordingProfile()
    # Which keys programs of openpi use for this robot's cameras and state: a name from
    # ``config/observation_maps`` or a YAML file. Empty: none.
    observation_map: str = ""
    simulation: SimulationProfile | None = None

    def __post_init__(self) -> None:
        self._check_joints()
        if self.gripper.open_m == self.gripper.closed_m:
            raise ValueError(f"gripper.open_m and closed_m are both {self.gripper.open_m}; they must differ")
        if not self.cameras:
            raise ValueError("cameras must list at least one camera")
        names = [camera.name for camera in self.cameras]
        if len(set(names)) != len(names):
            raise ValueError(f"camera names {names} must be unique")
        for kind in ("joint", "workspace"):
            lower, upper = getattr(self.limits, f"{kind}_lower"), getattr(self.limits, f"{kind}_upper")
            if any(low >= high for low, high in zip(lower, upper, strict=True)):
                raise ValueError(f"limits {lower} .. {upper} are empty or reversed")
        try:
            self.space()
        except InvalidValueError as error:
            raise ValueError(str(error)) from error
        check_actions(self.action_space, self.arm.joints, self.limits.joint_lower, self.limits.joint_upper)
        if self.control.rate_hz < 2 * self.action_space.rate_hz:
            raise ValueError(
                f"control.rate_hz is {self.control.rate_hz:g}; it must be at least twice "
                f"action_space.rate_hz, which is {self.action_space.rate_hz:g}"
            )

    def _check_joints(self) -> None:
        arm, limits = self.arm, self.limits
        joints = len(arm.joints)
        if not joints or len(set(arm.joints)) != joints:
            raise ValueError(f"arm.joints {arm.joints} must be unique")
        poses = ("neutral", "home", "park")
        keys = ("joint_lower", "joint_upper", "joint_velocity", "joint_acceleration", "joint_jerk")
        for part, names in ((arm, poses), (limits, keys)):
            for key in names:
                if len(getattr(part, key)) != joints:
                    raise ValueError(f"{key} has {len(getattr(part, key))} values for {joints} joints")
        if limits.effort is not None and len(limits.effort) != joints:
            raise ValueError(f"effort has {len(limits.effort)} values for {joints} joints")
        for key in ("wrench_n", "wrench_nm"):
            if getattr(limits, key) is not None and self.state.wrench_topic is None:
                raise ValueError(
                    f"limits.{key} is {getattr(limits, key):g} but state.wrench_topic is not set: nothing "
                    "would report a wrench, and the limit would protect nothing; name the topic or remove "
                    "the limit"
                )
        for key in poses:
            for name, q, low, high in zip(
                arm.joints, getattr(arm, key), limits.joint_lower, limits.joint_upper, strict=True
            ):
                if not low <= q <= high:
                    raise ValueError(f"arm.{key} puts {name} at {q}; its limits are {low} .. {high}")

    def space(self) -> ActionSpace:
        """Return the action space that this robot's controller accepts."""
        return self.action_space.space()

    @property
    def takes_setpoints(self) -> bool:
        """Whether the robot needs the setpoint node, because its software takes single setpoints."""
        return self.arm_backend.takes_setpoints or self.gripper_backend.takes_setpoints

    def camera(self, name: str) -> CameraProfile:
        """Return one camera's profile.

        Args:
            name: Its name in the profile, such as ``primary``.

        Raises:
            ProfileError: There is no such camera; lists the existing ones.
        """
        for camera in self.cameras:
            if camera.name == name:
                return camera
        known = ", ".join(camera.name for camera in self.cameras)
        raise ProfileError(f"robot {self.name!r} has no camera {name!r}; its cameras: {known}")

    def action_frame_id(self) -> str:
        """Return the tf frame whose axes the actions refer to."""
        link = self.arm.base_link if self.action_space.frame == "base" else self.arm.tool_link
        return self.arm.frame_prefix + link


_ADAPTER = TypeAdapter(RobotProfile)


def available_profiles() -> list[str]:
    """Return the names of the package's own profiles."""
    return sorted(path.stem for path in (share_path() / "config" / "robots").glob("*.yaml"))


def load_profile(name_or_path: str | Path) -> RobotProfile:
    """Return the profile called ``name_or_path``, or the one in that YAML file.

    Args:
        name_or_path: A name from ``config/robots``, such as ``widowx``, or the path of a ``.yaml`` file.

    Returns:
        The validated profile. Lengths are in metres, angles in radians, rates in Hz.

    Raises:
        ProfileError: There is no such profile, or it is wrong; names the file, the key, the value and what
            is allowed.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = share_path() / "config" / "robots" / f"{name_or_path}.yaml"
    if not path.is_file():
        raise ProfileError(
            f"no robot profile {str(name_or_path)!r}; the profiles are {', '.join(available_profiles())}, "
            "or give the path of a .yaml file"
        )
    return parse_profile(read_text(path, ProfileError), source=str(path))


def parse_profile(text: str, source: str) -> RobotProfile:
    """Return the profile written in YAML ``text``; ``source`` names it in errors."""
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ProfileError(f"{source}: not valid YAML: {error}") from error
    if not isinstance(data, Mapping):
        raise ProfileError(f"{source}: a profile must be a mapping of keys; this is {type(data).__name__}")
    if missing := unfilled(data):
        raise ProfileError("\n".join(f"{source}: {line}" for line in missing))
    try:
        return _ADAPTER.validate_python(data)
    except ValidationError as error:
        lines = validation_lines(error, "profile")
        raise ProfileError("\n".join(f"{source}: {line}" for line in lines)) from error


def dump_profile(profile: RobotProfile) -> str:
    """Return a profile as YAML, with every default written out.

    Args:
        profile: The profile; ``parse_profile`` of the result equals it.
    """
    return yaml.safe_dump(_ADAPTER.dump_python(profile, mode="json"), sort_keys=False, allow_unicode=True)
