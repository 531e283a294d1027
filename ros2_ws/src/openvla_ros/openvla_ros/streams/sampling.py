"""The one way from a robot's streams to an ``Observation``, live and from a recording alike.

An observation is taken *at a stamp*: of every stream it holds the newest sample whose own header
stamp is not after it. That rule needs no arrival times, so a recording that is read back gives the
same arrays that the policy saw. A live policy takes the stamp of its newest image; a recorded step
takes the stamp that its action chunk carries. Knows nothing of messages: a source of streams is a
``StreamBuffer`` per topic live, and an index into a bag when a recording is read.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np

from openvla_ros.errors import InvalidValueError, PolicyError
from openvla_ros.preprocessing.image_transform import rotate
from openvla_ros.profile import CameraProfile, RobotProfile
from openvla_ros.values.arrays import Float, Image, float_array
from openvla_ros.values.geometry import Pose
from openvla_ros.values.observation import Observation

T = TypeVar("T")
OVERTAKEN_NS = 1_000_000_000  # a stamp this much older than the newest means that the clock was set
Forward = Callable[[Float], Pose]  # joint positions (J,) radians → the tool's pose in the base frame


@dataclass(frozen=True, eq=False)
class JointSample:
    """One joint state: positions by name, radians or metres."""

    names: tuple[str, ...]
    positions: Float  # (N,)

    def __post_init__(self) -> None:
        positions = float_array("joint state", self.positions, (len(self.names),))
        object.__setattr__(self, "positions", positions)

    def select(self, names: tuple[str, ...]) -> Float:
        """Return the positions of ``names`` (J,), in that order.

        Raises ``InvalidValueError`` naming the joints that are missing and those that there are.
        """
        index = {name: i for i, name in enumerate(self.names)}
        missing = [name for name in names if name not in index]
        if missing:
            raise InvalidValueError(f"the joint state lacks {missing}; it has {list(self.names)}")
        return np.array([self.positions[index[name]] for name in names], dtype=np.float64)


def arm_sample(profile: RobotProfile, names: Sequence[str], positions: Sequence[float]) -> JointSample | None:
    """Return the joints of arm and gripper out of one message, or ``None`` if it is for other joints.

    What another driver reports on the same topic, or of joints that the profile does not name, is
    nobody's business here. Raises ``InvalidValueError`` if the message names some of the robot's joints
    and lacks others, names one twice, or has no finite position for each.
    """
    wanted = (*profile.arm.joints, profile.gripper.joint)
    if not set(profile.arm.joints) & set(names):
        return None
    if len(positions) != len(names):
        raise InvalidValueError(f"the joint state has {len(positions)} positions for {len(names)} names")
    where: dict[str, int] = {}
    for index, name in enumerate(names):
        if name in where and name in wanted:
            raise InvalidValueError(f"the joint state names {name!r} twice")
        where[name] = index
    missing = [name for name in wanted if name not in where]
    if missing:
        raise InvalidValueError(f"the joint state lacks {missing}; it has {list(names)}")
    values = np.array([positions[where[name]] for name in wanted], dtype=np.float64)
    bad = [
        f"{name} is at {value}" for name, value in zip(wanted, values, strict=True) if not np.isfinite(value)
    ]
    if bad:
        raise InvalidValueError(f"the joint state says {', '.join(bad)}; positions must be finite")
    return JointSample(wanted, values)


class Streams(Protocol):
    """What an observation is made of. Each method returns the newest sample not after ``stamp_ns``."""

    def image(self, camera: str, stamp_ns: int) -> tuple[int, Image] | None:
        """Return stamp and image (H, W, 3) RGB of a camera as it was sent, or ``None``."""
        ...

    def joints(self, stamp_ns: int) -> tuple[int, JointSample] | None:
        """Return stamp and joint state, or ``None``."""
        ...

    def instruction(self, stamp_ns: int) -> str | None:
        """Return the current instruction, or ``None``."""
        ...


def observe(profile: RobotProfile, streams: Streams, stamp_ns: int, forward: Forward) -> Observation:
    """Return the observation of ``streams`` at ``stamp_ns``; ``forward`` is the arm's kinematics.

    Images are turned as the profile says. Raises ``PolicyError`` naming the stream that has
    nothing yet, or whose newest sample is older than the profile allows, and ``InvalidValueError``
    for a joint state that lacks a joint.
    """
    images = {camera.name: _image(camera, streams, stamp_ns) for camera in profile.cameras}
    instruction = streams.instruction(stamp_ns)
    if not instruction or not instruction.strip():
        raise PolicyError("there is no instruction yet")
    found = streams.joints(stamp_ns)
    if found is None:
        raise PolicyError(f"no joint state of {profile.state.joint_states_topic} yet")
    _check_age(profile.state.joint_states_topic, stamp_ns - found[0], profile.state.max_age_s)
    positions, gripper = proprioception(profile, found[1])
    return Observation(
        stamp_ns=stamp_ns,
        images=images,
        instruction=instruction,
        joint_positions=positions,
        pose=forward(positions),
        gripper=gripper,
    )


def proprioception(profile: RobotProfile, sample: JointSample) -> tuple[Float, float]:
    """Return the arm's joint positions (J,) in the profile's order and the gripper's opening 0 .. 1."""
    *positions, finger = sample.select((*profile.arm.joints, profile.gripper.joint))
    return np.array(positions), profile.gripper.opening(float(finger))


def upright(camera: CameraProfile, image: Image) -> Image:
    """Return an image as the policy sees it: turned as the profile says."""
    return rotate(image, camera.rotate_deg) if camera.rotate_deg else image


def _image(camera: CameraProfile, streams: Streams, stamp_ns: int) -> Image:
    found = streams.image(camera.name, stamp_ns)
    if found is None:
        raise PolicyError(f"no image of camera {camera.name!r} ({camera.topic}) yet")
    _check_age(f"camera {camera.name!r}", stamp_ns - found[0], camera.max_age_s)
    return upright(camera, found[1])


def _check_age(name: str, age_ns: int, max_age_s: float) -> None:
    if age_ns > max_age_s * 1e9:
        raise PolicyError(f"the newest sample of {name} is {age_ns * 1e-9:.2f} s old; allowed {max_age_s} s")


class StreamBuffer(Generic[T]):
    """The last samples of one live stream, by header stamp; safe between threads.

    A sample that was overtaken on the way is put in its place. A stamp that goes back further
    (a clock was set, a simulation restarted) empties the buffer: what came before belongs to
    another time.
    """

    def __init__(self, length: int) -> None:
        self._samples: deque[tuple[int, T]] = deque(maxlen=length)
        self._lock = threading.Lock()

    def put(self, stamp_ns: int, value: T) -> None:
        """Add the sample that arrived last."""
        with self._lock:
            if self._samples and self._samples[-1][0] - stamp_ns > OVERTAKEN_NS:
                self._samples.clear()
            overtaken = []
            while self._samples and self._samples[-1][0] > stamp_ns:
                overtaken.append(self._samples.pop())
            self._samples.append((stamp_ns, value))
            self._samples.extend(reversed(overtaken))

    def newest(self) -> tuple[int, T] | None:
        """Return the sample with the latest stamp, and that stamp."""
        with self._lock:
            return self._samples[-1] if self._samples else None

    def at(self, stamp_ns: int) -> tuple[int, T] | None:
        """Return the newest sample not after ``stamp_ns``, with its stamp."""
        with self._lock:
            return next((sample for sample in reversed(self._samples) if sample[0] <= stamp_ns), None)

    def clear(self) -> None:
        """Forget every sample."""
        with self._lock:
            self._samples.clear()
