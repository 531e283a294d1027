"""The topics that a recording contains, and subscriptions with QoS that matches their publishers.

A recorder must not impose its own QoS: each subscription is created once there is a publisher, as reliable
and as latched as all publishers of that topic offer. Every message that was sent but did not arrive is
counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped, WrenchStamped
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from std_msgs.msg import Bool, String
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import MarkerArray

from openvla_ros.data.bags.rosbag2_writer import QualityOfService
from openvla_ros.data.recording.lost_messages import AnonymousSequenceWatch, SequenceWatch
from openvla_ros.profile import RobotProfile

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

# Messages that may wait for the executor: 3 s of a camera (90 MB of 640x480), 10 s of a joint state.
IMAGE_DEPTH, DEPTH = 100, 1000
Arrived = Callable[["RecordedStream", bytes, int], None]  # stream, serialised message, source stamp


@dataclass(frozen=True)
class RecordedStream:
    """One topic to record: its role, its name, and its type (``None``: any)."""

    role: str
    topic: str
    type: Any | None
    latched: bool = False  # what was said before an episode still holds in it
    offers: tuple[QualityOfService, ...] = ()


def recorded_streams(profile: RobotProfile) -> list[RecordedStream]:
    """Return every topic of ``profile``, by canonical name (remapped at launch)."""
    streams = []
    for camera in profile.cameras:
        folder = f"camera/{camera.name}"
        kind = CompressedImage if camera.compressed else Image
        streams.append(RecordedStream(f"{folder}/image_raw", f"{folder}/image_raw", kind))
        streams.append(RecordedStream(f"{folder}/camera_info", f"{folder}/camera_info", CameraInfo, True))
    own: tuple[tuple[str, Any, bool], ...] = (
        ("joint_states", JointState, False),
        ("instruction", String, True),
        ("recorder/instruction", String, True),  # of a demonstration: no policy acts on it
        ("policy/instruction", String, True),  # also what was told through the action; empty when idle
        ("policy/action_chunk", JointTrajectory, False),
        ("teleop/action_chunk", JointTrajectory, False),
        ("controller/target_pose", PoseStamped, False),
        ("controller/current_pose", PoseStamped, False),
        ("controller/verdict", DiagnosticStatus, True),
        ("simulation/scene", MarkerArray, False),
        ("task/success", Bool, False),
        ("/diagnostics", DiagnosticArray, False),
        ("/tf", None, False),
        ("/tf_static", None, True),
    )
    streams += [RecordedStream(name, name, kind, latched) for name, kind, latched in own]
    if profile.state.wrench_topic is not None:
        topic = profile.state.wrench_topic
        streams.append(RecordedStream(topic, topic, WrenchStamped))
    known = {stream.topic for stream in streams}
    others = (profile.arm_backend.topic, profile.gripper_backend.topic, *profile.recording.extra_topics)
    return streams + [RecordedStream(t, t, None) for t in dict.fromkeys(others) if t not in known]


class StreamSubscriptions:
    """Keeps a raw subscription to every stream that has a publisher.

    ``found`` is called when a stream is subscribed, with its type and its publishers' QoS; ``arrived`` with
    every message. Both on the executor's thread. ``lost`` counts by role the messages that were sent but
    did not arrive: by sequence number, or, if the middleware does not provide them (Humble, Cyclone DDS), by
    its own reports, which miss queue overflows. So too in Jazzy where a topic has several publishers: it
    does not report whose number it is.
    """

    def __init__(
        self,
        node: Node,
        streams: list[RecordedStream],
        found: Callable[[RecordedStream], None],
        arrived: Arrived,
    ) -> None:
        self._node, self._found, self._arrived = node, found, arrived
        self._streams = {stream.role: stream for stream in streams}
        self._subscriptions: dict[str, Subscription] = {}
        self._watches = {stream.role: SequenceWatch() for stream in streams}
        self._anonymous = {stream.role: AnonymousSequenceWatch() for stream in streams}
        self._publishers: Counter[str] = Counter()  # role → how many were listed when last looked
        self._numbered: set[str] = set()  # roles whose lost messages are counted by sequence numbers
        self.lost: Counter[str] = Counter()
        self._unknown: set[str] = set()  # types that are not installed here, reported once

    def names(self) -> dict[str, str]:
        """Return role → the topic's full name, remapped."""
        resolve = self._node.resolve_topic_name
        return {role: resolve(stream.topic) for role, stream in self._streams.items()}

    def refresh(self) -> None:
        """Check the current publishers, and resubscribe where their QoS requires it."""
        for role, stream in list(self._streams.items()):
            name = self._node.resolve_topic_name(stream.topic)
            publishers = self._node.get_publishers_info_by_topic(name)
            if len(publishers) != self._publishers[role]:
                self._publishers[role] = len(publishers)
                self._anonymous[role].restart()
            if not publishers:
                continue
            offers = tuple(sorted({_offer(info.qos_profile) for info in publishers}, key=str))
            if role in self._subscriptions and offers == stream.offers:
                continue
            kind = stream.type or self._type(publishers[0].topic_type, name)
            if kind is not None:
                self._take_note(replace(stream, type=kind, offers=offers))

    def take_waiting(self) -> None:
        """Process every message that has arrived and is queued for the executor; call this on its thread."""
        for role, subscription in self._subscriptions.items():
            for _ in range(DEPTH):
                with subscription.handle:
                    taken = subscription.handle.take_message(subscription.msg_type, True)
                if taken is None:
                    break
                self._take(role, *taken)

    def _take_note(self, stream: RecordedStream) -> None:
        """Subscribe to ``stream`` unless the existing subscription already matches."""
        before = self._streams[stream.role]
        self._streams[stream.role] = stream
        self._found(stream)
        fits = _asked(before) == _asked(stream)
        if stream.role in self._subscriptions:
            if fits:
                return
            self._node.destroy_subscription(self._subscriptions.pop(stream.role))
        callback: Callable[..., None] = partial(self._take, stream.role)
        if not hasattr(Subscription, "CallbackType"):  # before Iron, callbacks get no message info
            callback = partial(self._take, stream.role, info={})
        self._subscriptions[stream.role] = self._node.create_subscription(
            stream.type,
            stream.topic,
            callback,
            _asked(stream),
            raw=True,
            event_callbacks=SubscriptionEventCallbacks(message_lost=partial(self._note_loss, stream.role)),
        )

    def _take(self, role: str, data: bytes, info: Mapping[str, Any]) -> None:
        missing = self._missing(role, info)
        if missing is None:
            return
        if missing:
            self.lost[role] += missing
        self._arrived(self._streams[role], data, int(info.get("source_timestamp", 0)))

    def _missing(self, role: str, info: Mapping[str, Any]) -> int | None:
        """Return how many messages were lost before this one; None if it was received before."""
        publisher, number = info.get("publisher_gid"), info.get("publication_sequence_number")
        if number is None:
            return 0
        if publisher is not None:
            self._numbered.add(role)
            return self._watches[role].missing(bytes(publisher["data"]), int(number))
        if self._publishers[role] == 1:
            self._numbered.add(role)
        else:
            self._numbered.discard(role)
        alone = partial(self._has_one_publisher, role)
        return self._anonymous[role].missing(int(number), int(info["source_timestamp"]), alone)

    def _has_one_publisher(self, role: str) -> bool:
        topic = self._streams[role].topic
        return self._publishers[role] == 1 and self._node.count_publishers(topic) == 1

    def _note_loss(self, role: str, event: Any) -> None:
        if role not in self._numbered and event.total_count_change > 0:
            self.lost[role] += int(event.total_count_change)

    def _type(self, name: str, topic: str) -> Any | None:
        package, _, message = name.partition("/msg/")
        try:
            return getattr(import_module(f"{package}.msg"), message)
        except (ImportError, AttributeError) as error:
            if topic not in self._unknown:
                self._unknown.add(topic)
                self._node.get_logger().warning(
                    f"{topic} is not recorded: its type {name} is unknown: {error}"
                )
            return None


def type_name(kind: Any) -> str:
    """Return the name ``package/msg/Type`` of a message class."""
    return f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"


def _offer(profile: QoSProfile) -> QualityOfService:
    return QualityOfService(
        "reliable" if profile.reliability == ReliabilityPolicy.RELIABLE else "best_effort",
        "transient_local" if profile.durability == DurabilityPolicy.TRANSIENT_LOCAL else "volatile",
        max(profile.depth, 1),
    )


def _asked(stream: RecordedStream) -> QoSProfile:
    """Return the strongest QoS that every publisher of ``stream`` offers."""
    reliable = all(offer.reliability == "reliable" for offer in stream.offers)
    latched = all(offer.durability == "transient_local" for offer in stream.offers)
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=IMAGE_DEPTH if stream.type in (Image, CompressedImage) else DEPTH,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )
