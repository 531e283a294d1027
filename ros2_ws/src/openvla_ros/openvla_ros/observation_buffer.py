"""The newest of every stream, put together into one observation, or the reason why that cannot be.

Live nodes put messages in as they arrive; a recording is played into the same buffer, so a policy
sees the same arrays from both. Pictures are decoded only when an observation is made of them.
Knows nothing of messages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from openvla_ros.arrays import Float, Image, float_array
from openvla_ros.errors import InvalidValueError
from openvla_ros.geometry import Pose
from openvla_ros.images import rotate
from openvla_ros.observation import Observation
from openvla_ros.profile import GripperProfile, RobotProfile

NS = 1e-9

PoseOf = Callable[[Float], Pose]  # joint positions (J,) rad → tool in the base frame


@dataclass(frozen=True)
class Refusal:
    """Why no observation can be made now: a key to count by, and words with the value and the limit."""

    reason: str
    detail: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture that was received but not looked at yet."""

    stamp_ns: int
    decode: Callable[[], Image]


@dataclass(frozen=True, eq=False)
class State:
    """What the robot said of itself last."""

    stamp_ns: int
    joint_positions: Float  # (J,) radians, in the profile's order


@dataclass(frozen=True, eq=False)
class Moment:
    """One moment's streams, all young enough; ``observe`` does the work of decoding."""

    pictures: Mapping[str, Picture]
    rotations: Mapping[str, int]  # camera → degrees clockwise
    state: State
    gripper: float | None  # opening, 0 closed .. 1 open
    instruction: str
    pose_of: PoseOf | None

    @property
    def stamp_ns(self) -> int:
        """The stamp of the newest picture."""
        return max(picture.stamp_ns for picture in self.pictures.values())

    def observe(self) -> Observation:
        """Return the observation; raises ``InvalidValueError`` if a picture cannot be decoded."""
        images = {
            name: turned(picture.decode(), self.rotations[name]) for name, picture in self.pictures.items()
        }
        joints = self.state.joint_positions
        return Observation(
            stamp_ns=self.stamp_ns,
            images=images,
            instruction=self.instruction,
            joint_positions=joints,
            pose=None if self.pose_of is None else self.pose_of(joints),
            gripper=self.gripper,
        )


class ObservationBuffer:
    """Keeps the newest picture of each camera and the newest state of one robot."""

    def __init__(self, profile: RobotProfile, pose_of: PoseOf | None = None) -> None:
        self._profile, self._pose_of = profile, pose_of
        self._rotations = MappingProxyType({camera.name: camera.rotate_deg for camera in profile.cameras})
        self._pictures: dict[str, Picture] = {}
        self._state: State | None = None
        self._gripper: float | None = None

    def put_picture(self, camera: str, stamp_ns: int, decode: Callable[[], Image]) -> None:
        """Note a picture of ``camera``; ``decode`` returns it as uint8 (H, W, 3) RGB when it is needed."""
        self._profile.camera(camera)
        self._pictures[camera] = Picture(stamp_ns, decode)

    def put_joint_state(self, stamp_ns: int, names: Sequence[str], positions: Sequence[float]) -> None:
        """Note a joint state; the order of its joints does not matter.

        A state of the gripper alone updates the gripper alone: some drivers publish it apart.
        Raises ``InvalidValueError`` if joints of the arm are missing or a position is not finite.
        """
        if len(names) != len(positions):
            raise InvalidValueError(f"the joint state has {len(positions)} positions for {len(names)} names")
        values = dict(zip(names, positions, strict=True))
        gripper = self._profile.gripper
        if gripper.joint in values:
            self._gripper = gripper_opening(gripper, values[gripper.joint])
        joints = self._profile.arm.joints
        missing = [name for name in joints if name not in values]
        if (missing and len(missing) < len(joints)) or (missing and gripper.joint not in values):
            raise InvalidValueError(f"the joint state lacks {missing}; it has {list(names)}")
        if not missing:
            found = float_array("joint positions", [values[name] for name in joints], (None,))
            self._state = State(stamp_ns, found)

    def moment(self, instruction: str, now_ns: int) -> Moment | Refusal:
        """Return the newest moment, or why there is none: nothing said, or a stream missing or too old."""
        if not instruction.strip():
            return Refusal("no_instruction", "nobody has said what to do")
        for camera in self._profile.cameras:
            picture = self._pictures.get(camera.name)
            stamp_ns = None if picture is None else picture.stamp_ns
            refusal = _too_old("image", f"camera {camera.name!r}", stamp_ns, now_ns, camera.max_age_s)
            if refusal is not None:
                return refusal
        state, limit_s = self._state, self._profile.state.max_age_s
        refusal = _too_old("state", "joint state", None if state is None else state.stamp_ns, now_ns, limit_s)
        if state is None or refusal is not None:
            return refusal or Refusal("no_state", "joint state: nothing received yet")
        pictures = MappingProxyType(dict(self._pictures))
        return Moment(pictures, self._rotations, state, self._gripper, instruction, self._pose_of)


def gripper_opening(gripper: GripperProfile, position_m: float) -> float:
    """Return the opening 0 (closed) .. 1 (open) for the position of the gripper's joint."""
    share = (position_m - gripper.closed_m) / (gripper.open_m - gripper.closed_m)
    if not np.isfinite(share):
        raise InvalidValueError(f"gripper joint {gripper.joint!r} is at {position_m}; it must be finite")
    return float(np.clip(share, 0.0, 1.0))


def turned(image: Image, degrees: int) -> Image:
    """Return ``image`` turned clockwise, itself for 0 degrees."""
    return image if degrees == 0 else rotate(image, degrees)


def _too_old(kind: str, name: str, stamp_ns: int | None, now_ns: int, limit_s: float) -> Refusal | None:
    """Return why a stream cannot be used; its stamp may also not lie that far in the future."""
    if stamp_ns is None:
        return Refusal(f"no_{kind}", f"{name}: nothing received yet")
    age_s = (now_ns - stamp_ns) * NS
    if age_s > limit_s:
        return Refusal(f"stale_{kind}", f"{name}: {age_s:.3f} s old; the profile allows {limit_s:g} s")
    if age_s < -limit_s:
        return Refusal(
            f"future_{kind}", f"{name}: stamped {-age_s:.3f} s ahead of this computer's clock: set the clocks"
        )
    return None
