"""What one reading of a recording finds in each stream: stamps, joints, words, and what cannot be used.

A message that cannot be used is left out and counted with its reason. What makes a whole stream
meaningless (two cameras on one topic, another clock, no message with the arm's joints) is a
``DatasetError``. No image is kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from openvla_ros.data.bags import cdr
from openvla_ros.data.bags.resampling import in_order
from openvla_ros.data.episodes.encoded_images import decode_image
from openvla_ros.data.foreign_bags.role_topics import CHUNKS, JOINT_STATES, UNSTAMPED, camera_role
from openvla_ros.data.foreign_bags.stored_message import Key, RecordedTopic, StoredMessage
from openvla_ros.data.foreign_bags.topic_types import TopicDecoder
from openvla_ros.errors import DatasetError, InvalidValueError
from openvla_ros.profile import CameraProfile, RobotProfile
from openvla_ros.streams.sampling import OVERTAKEN_NS, arm_sample
from openvla_ros.values.arrays import Float, Int
from openvla_ros.values.time import NS_PER_S

Stamps = Literal["header", "received"]
_AHEAD_S = 0.05  # a stamp this much after the receipt cannot be of the same clock
_LATE_S = 1.0  # of streams for which the profile says nothing: a chunk carries its observation's stamp
_BACKWARDS = 0.1  # share of images that are older than the one before: two publishers take turns


@dataclass(frozen=True, eq=False)
class StreamIndex:
    """The usable messages of one role, in order of their stamps."""

    role: str
    topic: RecordedTopic
    keys: tuple[Key, ...]
    stamps_ns: Int  # (N,) rising
    received_ns: Int  # (N,)
    left_out: Mapping[str, int] = field(default_factory=dict)  # why → how many messages
    values: tuple[Any, ...] = ()  # decoded, of streams that are small
    positions: Float | None = None  # (N, J+1) arm and gripper, of the joint states
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.keys)

    def within(self, start_ns: int, end_ns: int) -> Int:
        """Return the indices of the messages with stamps in ``start_ns`` .. ``end_ns``, both included."""
        inside = (self.stamps_ns >= start_ns) & (self.stamps_ns <= end_ns)
        found: Int = np.flatnonzero(inside).astype(np.int64)
        return found


class StreamCollector:
    """Takes the messages of one role one by one, then gives their index."""

    late_s = _LATE_S
    keeps_values = False

    def __init__(self, role: str, topic: RecordedTopic) -> None:
        self.role, self.topic = role, topic
        self.left_out: Counter[str] = Counter()
        self._rows: list[tuple[Key, int, int]] = []  # key, stamp, receipt
        self._values: list[Any] = []
        self._decode = TopicDecoder(topic)
        self.stamped = role not in UNSTAMPED

    def add(self, message: StoredMessage) -> None:
        """Take the next message in order of receipt."""
        try:
            stamp = cdr.header_stamp_ns(message.data) if self.stamped else message.received_ns
            value = self._inspect(message)
        except (DatasetError, InvalidValueError) as error:
            self.left_out[str(error)] += 1
            return
        if value is None:
            return
        self._rows.append((message.key, stamp, message.received_ns))
        if self.keeps_values:
            self._values.append(value)

    def _inspect(self, message: StoredMessage) -> Any | None:
        """Return what is kept of a message, None to leave it out (counted); raise why it cannot be used."""
        return True

    def finish(self, stamps: Stamps) -> StreamIndex:
        """Return the index; raises ``DatasetError`` if the stream as a whole makes no sense."""
        received = np.array([row[2] for row in self._rows], np.int64)
        own = np.array([row[1] for row in self._rows], np.int64)
        if self.stamped and stamps == "header" and len(own):
            self._check_clock(own, received)
        chosen = own if self.stamped and stamps == "header" else received
        order = in_order(chosen, self.topic.name)
        self._check(own)
        return StreamIndex(
            self.role,
            self.topic,
            tuple(self._rows[i][0] for i in order),
            chosen[order],
            received[order],
            dict(self.left_out),
            tuple(self._values[i] for i in order) if self.keeps_values else (),
            self._positions(order),
            tuple(self._notes()),
        )

    def _check(self, own_ns: Int) -> None:
        """Raise ``DatasetError`` if what was collected contradicts itself; stamps (N,) as received."""

    def _positions(self, order: Int) -> Float | None:
        return None

    def _notes(self) -> Iterator[str]:
        yield from ()

    def _check_clock(self, own: Int, received: Int) -> None:
        """Compare the stamps with the times of receipt, which are of the recorder's clock."""
        delay = (received - own) / NS_PER_S
        low, middle, high = np.percentile(delay, [1, 50, 99])
        problem = ""
        if middle < -_AHEAD_S:
            problem = f"are {-middle:.3f} s after their receipt"
        elif middle > self.late_s:
            problem = f"are {middle:.3f} s before their receipt (at most {self.late_s:g} s)"
        elif high - low > OVERTAKEN_NS / NS_PER_S:
            problem = f"drift from {low:+.3f} s to {high:+.3f} s against their receipt"
        if problem:
            raise DatasetError(
                f"{self.topic.name}: the header stamps {problem}: they come from another clock than the "
                "recorder's, or the stream is slow. Streams are matched by these stamps; --stamps received "
                "uses the receive times instead, which are less accurate"
            )


class ImageCollector(StreamCollector):
    """Images of one camera: readable, and all of one source."""

    def __init__(self, camera: CameraProfile, topic: RecordedTopic) -> None:
        super().__init__(camera_role(camera.name), topic)
        self._camera, self.late_s = camera, camera.max_age_s
        self._kinds: Counter[tuple[str, int, int]] = Counter()  # frame, width, height

    def _inspect(self, message: StoredMessage) -> Any:
        frame = frame_id(message.data)
        if self.topic.type == cdr.IMAGE:
            image = cdr.parse_image(message.data).decode()
        else:
            image = decode_image(bytes(cdr.parse_compressed_image(message.data)[1]), "an image")
        self._kinds[(frame, image.shape[1], image.shape[0])] += 1
        return True

    def _check(self, own_ns: Int) -> None:
        name = self.topic.name
        if not self._rows:
            reasons = "; ".join(f"{count} x {why}" for why, count in self.left_out.items())
            raise DatasetError(f"{name}: no image of camera {self._camera.name!r} can be read: {reasons}")
        if len(self._kinds) > 1:
            kinds = ", ".join(f"{f!r} {w}x{h} ({count})" for (f, w, h), count in self._kinds.items())
            raise DatasetError(f"{name} carries images of several sources ({kinds}); one topic is one camera")
        backwards = int((np.diff(own_ns) < 0).sum())
        if backwards > _BACKWARDS * len(own_ns):
            raise DatasetError(
                f"{name}: {backwards} of {len(own_ns)} images are older than the one before: two publishers"
            )

    def _notes(self) -> Iterator[str]:
        ((_, width, height),) = self._kinds
        camera = self._camera
        if (width, height) != (camera.width, camera.height):
            yield (
                f"{self.topic.name}: images of {width}x{height}; the profile's camera {camera.name!r} has "
                f"{camera.width}x{camera.height}"
            )
        if self.topic.publishers > 1:
            yield f"{self.topic.name}: {self.topic.publishers} publishers were active when it was recorded"


class JointCollector(StreamCollector):
    """Joint states: those that hold the arm's and the gripper's joints."""

    def __init__(self, profile: RobotProfile, topic: RecordedTopic) -> None:
        super().__init__(JOINT_STATES, topic)
        self._profile, self.late_s = profile, profile.state.max_age_s
        self._samples: list[Float] = []
        self._names: Counter[tuple[str, ...]] = Counter()
        self._seen: set[str] = set()

    def _inspect(self, message: StoredMessage) -> Any | None:
        value = self._decode(message.data)
        self._seen.update(value.name)
        sample = arm_sample(self._profile, value.name, value.position)
        if sample is None:
            self.left_out["it is for other joints"] += 1
            return None
        self._samples.append(sample.positions)
        self._names[tuple(value.name)] += 1
        return True

    def _check(self, own_ns: Int) -> None:
        if not self._rows:
            arm = [*self._profile.arm.joints, self._profile.gripper.joint]
            reasons = "; ".join(f"{count} x {why}" for why, count in self.left_out.items())
            raise DatasetError(
                f"{self.topic.name}: no message holds the joints of {self._profile.name} ({', '.join(arm)}); "
                f"recorded are {', '.join(sorted(self._seen)) or 'none'} ({reasons})"
            )
        if len(self._names) > 1:
            kinds = "; ".join(f"{', '.join(names)} ({count})" for names, count in self._names.items())
            raise DatasetError(
                f"{self.topic.name}: the arm's joints come from several publishers, with the names {kinds}"
            )
        backwards = int((np.diff(own_ns) < 0).sum())
        if backwards > _BACKWARDS * len(own_ns):
            raise DatasetError(
                f"{self.topic.name}: {backwards} of {len(own_ns)} states are older than the one before: two "
                "publishers"
            )

    def _positions(self, order: Int) -> Float:
        return np.array([self._samples[i] for i in order])


class ValueCollector(StreamCollector):
    """A stream of small messages, kept decoded."""

    keeps_values = True

    def _inspect(self, message: StoredMessage) -> Any:
        return self._decode(message.data)


def collector(role: str, topic: RecordedTopic, profile: RobotProfile) -> StreamCollector:
    """Return what collects the messages of ``role``."""
    for camera in profile.cameras:
        if role == camera_role(camera.name):
            return ImageCollector(camera, topic)
    if role == JOINT_STATES:
        return JointCollector(profile, topic)
    if role in UNSTAMPED or role in CHUNKS:
        return ValueCollector(role, topic)
    return StreamCollector(role, topic)


def frame_id(data: cdr.Bytes) -> str:
    """Return the frame of a message that begins with a header."""
    size = int.from_bytes(data[12:16], "little" if data[1] & 1 else "big")
    try:
        return str(bytes(data[16 : 16 + max(size - 1, 0)]), "utf-8")
    except UnicodeDecodeError as error:
        raise InvalidValueError(f"its frame_id is not UTF-8: {error}") from error


def with_stamp(data: cdr.Bytes, stamp_ns: int) -> bytes:
    """Return a message that begins with a header with another stamp in it; nothing else changes."""
    order: Literal["little", "big"] = "little" if data[1] & 1 else "big"
    seconds, nanoseconds = divmod(stamp_ns, NS_PER_S)
    stamp = seconds.to_bytes(4, order, signed=True) + nanoseconds.to_bytes(4, order)
    return bytes(data[:4]) + stamp + bytes(data[12:])
