"""The newest of every live stream, ready to be observed, or the reason why that cannot be.

Nodes put messages in as they arrive. ``moment`` takes, for the newest image's stamp, the sample
of every stream that ``streams.sampling`` asks for, and checks that all of them are young enough
by the clock; images are decoded only when the moment is observed. Knows nothing of messages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from openvla_ros.profile import RobotProfile
from openvla_ros.streams.frozen_image import FrozenImage
from openvla_ros.streams.sampling import Forward, JointSample, StreamBuffer, arm_sample, observe
from openvla_ros.values.arrays import Float, Image
from openvla_ros.values.observation import Observation

NS = 1e-9
# Enough to reach back from the newest joint state to the stamp of an image that took long to come.
STATES, IMAGES = 100, 10

Decode = Callable[[], Image]


@dataclass(frozen=True)
class Refusal:
    """Why no observation can be made now: a key to count by, and words with the value and the limit."""

    reason: str
    detail: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


@dataclass(frozen=True, eq=False)
class Moment:
    """The samples of one moment, all recent enough: ``Streams`` that hold nothing else."""

    profile: RobotProfile
    stamp_ns: int
    images: Mapping[str, tuple[int, Decode]]
    state: tuple[int, JointSample]
    words: str

    def observe(self, forward: Forward) -> Observation:
        """Decode the images and return the observation.

        Raises ``InvalidValueError`` if an image cannot be decoded.
        """
        return observe(self.profile, self, self.stamp_ns, forward)

    def image(self, camera: str, stamp_ns: int) -> tuple[int, Image]:
        """Return stamp and image of a camera."""
        stamp_ns, decode = self.images[camera]
        return stamp_ns, decode()

    def joints(self, stamp_ns: int) -> tuple[int, JointSample]:
        """Return stamp and joint state."""
        return self.state

    def instruction(self, stamp_ns: int) -> str:
        """Return the current instruction."""
        return self.words


class ObservationBuffer:
    """Keeps the newest samples of one robot's streams."""

    def __init__(self, profile: RobotProfile, frozen_s: float = 0.0) -> None:
        """``frozen_s`` is how long a camera's image may stay the same while the arm moves; 0: for ever."""
        self._profile, self.frozen_s = profile, frozen_s
        self._frozen = {camera.name: FrozenImage() for camera in profile.cameras}
        self._images: dict[str, StreamBuffer[Decode]] = {
            camera.name: StreamBuffer(IMAGES) for camera in profile.cameras
        }
        self._states: StreamBuffer[JointSample] = StreamBuffer(STATES)

    def put_image(
        self, camera: str, stamp_ns: int, decode: Decode, message: bytes = b"", begins: int = 0
    ) -> None:
        """Note an image; ``decode`` returns it as uint8 (H, W, 3) RGB when it is needed.

        From ``begins`` on ``message`` is what a repetition of it would have in common with it.
        Raises ``ProfileError`` for a camera that the robot does not have.
        """
        self._images[self._profile.camera(camera).name].put(stamp_ns, decode)
        if message and self.frozen_s > 0.0:
            newest = self._states.newest()
            joints = None if newest is None else self._joints(newest[1])
            self._frozen[camera].put(stamp_ns, message, begins, joints)

    def _joints(self, sample: JointSample) -> Float:
        return sample.select(self._profile.arm.joints)

    def put_joint_state(self, stamp_ns: int, names: Sequence[str], positions: Sequence[float]) -> bool:
        """Note the arm's joints of a message; return whether it holds any. Raises as ``arm_sample``."""
        sample = arm_sample(self._profile, names, positions)
        if sample is not None:
            self._states.put(stamp_ns, sample)
        return sample is not None

    def moment(self, instruction: str, now_ns: int) -> Moment | Refusal:
        """Return the newest moment, or why there is none: nothing said, or a stream missing or too old.

        The moment is that of the newest image of the profile's first camera.
        """
        if not instruction.strip():
            return Refusal("no_instruction", "no instruction has been given")
        leader = self._profile.cameras[0]
        newest = self._images[leader.name].newest()
        if newest is None:
            return Refusal("no_image", f"camera {leader.name!r}: nothing received yet")
        stamp_ns = newest[0]
        images: dict[str, tuple[int, Decode]] = {}
        for camera in self._profile.cameras:
            image = self._images[camera.name].at(stamp_ns)
            if image is None:
                return Refusal("no_image", f"camera {camera.name!r}: nothing received yet")
            refusal = _age("image", f"camera {camera.name!r}", image[0], now_ns, camera.max_age_s)
            if refusal is not None:
                return refusal
            images[camera.name] = image
        state = self._states.at(stamp_ns)
        if state is None:
            return Refusal("no_state", "joint state: nothing received yet that is as old as the image")
        refusal = _age("state", "joint state", state[0], stamp_ns, self._profile.state.max_age_s)
        refusal = refusal or self._frozen_camera(images, self._joints(state[1]))
        return refusal or Moment(self._profile, stamp_ns, images, state, instruction)

    def _frozen_camera(self, images: Mapping[str, tuple[int, Decode]], joints: Float) -> Refusal | None:
        if self.frozen_s <= 0.0:
            return None
        for name, (stamp_ns, _) in images.items():
            if why := self._frozen[name].why_not(stamp_ns, joints, self.frozen_s):
                return Refusal("frozen_image", f"camera {name!r}: {why}")
        return None


def _age(kind: str, name: str, stamp_ns: int, now_ns: int, limit_s: float) -> Refusal | None:
    """Return why a sample cannot be used; its stamp may not lie as far in the future either."""
    age_s = (now_ns - stamp_ns) * NS
    if age_s > limit_s:
        return Refusal(f"stale_{kind}", f"{name}: {age_s:.3f} s old; the profile allows {limit_s:g} s")
    if age_s < -limit_s:
        return Refusal(
            f"future_{kind}", f"{name}: stamped {-age_s:.3f} s ahead of this computer's clock: set the clocks"
        )
    return None
