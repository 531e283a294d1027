"""The plan of an import: the cuts, with what each contains, and everything left out.

Reading a recording once is enough for the plan; nothing is written. ``episode_writing`` carries it out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from openvla_ros.data.foreign_bags.episode_cuts import Cut, by_calls, by_pauses, by_times, by_value, whole
from openvla_ros.data.foreign_bags.import_request import Cutting, ImportRequest
from openvla_ros.data.foreign_bags.role_topics import (
    CHUNKS,
    INSTRUCTION,
    JOINT_STATES,
    TOLD,
    absolute,
    camera_role,
    role_topics,
)
from openvla_ros.data.foreign_bags.rosbag2_recording import Recording
from openvla_ros.data.foreign_bags.service_calls import ServiceCall, event_topic, read_calls
from openvla_ros.data.foreign_bags.stored_message import RecordedTopic, StoredMessage
from openvla_ros.data.foreign_bags.stream_index import StreamCollector, StreamIndex, collector
from openvla_ros.data.foreign_bags.times_file import read_times
from openvla_ros.data.foreign_bags.topic_types import TopicDecoder
from openvla_ros.errors import DatasetError
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.values.time import NS_PER_S

_GAP_S = 0.2  # no shorter pause of a stream is called a gap


@dataclass(frozen=True)
class PlannedEpisode:
    """One planned episode: its cut, its instruction at the start, and what it contains."""

    cut: Cut
    words: str
    frames: Mapping[str, int]  # images by camera
    states: int
    chunks: int

    @property
    def seconds(self) -> float:
        """How long it is."""
        return (self.cut.end_ns - self.cut.start_ns) / NS_PER_S


@dataclass(frozen=True)
class Skipped:
    """A cut that becomes no episode, and why."""

    cut: Cut
    reason: str


@dataclass(frozen=True, eq=False)
class ImportPlan:
    """Everything an import will do; ``first_ns`` .. ``last_ns`` is what the recording spans."""

    request: ImportRequest
    streams: Mapping[str, StreamIndex]
    first_ns: int
    last_ns: int
    actions: Literal["commanded", "joint_states"]
    episodes: tuple[PlannedEpisode, ...]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]


def plan_import(request: ImportRequest, recording: Recording) -> ImportPlan:
    """Return what importing ``recording`` would make; raises ``DatasetError`` if it cannot be imported."""
    KinematicChain.from_profile(
        request.profile.arm
    )  # a profile that has none is named before the bag is read
    renamed = dict(request.topics)
    if request.instruction_topic:
        renamed[INSTRUCTION] = request.instruction_topic
    origin = str(request.bag)
    roles = role_topics(request.profile, recording.topics, origin, request.namespace, renamed)
    reading = _Reading(request, recording, roles)
    streams = reading.streams
    first, last = reading.span_ns
    cuts = reading.cuts(request.cutting, first, last)
    actions = _actions(request, streams)
    episodes: list[PlannedEpisode] = []
    skipped: list[Skipped] = []
    for cut in cuts:
        episode = _episode(request, streams, cut)
        reason = _reason(episode, actions)
        if reason:
            skipped.append(Skipped(cut, reason))
        else:
            episodes.append(episode)
    unused = reading.unused(streams) if actions == "joint_states" else []
    notes = (*recording.notes, *_notes(streams, unused))
    return ImportPlan(request, streams, first, last, actions, tuple(episodes), tuple(skipped), notes)


class _Reading:
    """One pass over the streams of every role and over what the recording is cut by."""

    def __init__(self, request: ImportRequest, recording: Recording, roles: Mapping[str, str]) -> None:
        self._request, self._recording = request, recording
        collectors = [
            collector(role, recording.topics[name], request.profile) for role, name in roles.items()
        ]
        cutting = request.cutting
        self._cut_topics = {
            key: self._topic(absolute(name, request.namespace))
            for key, name in (
                ("topic", cutting.topic),
                ("service", event_topic(cutting.service) if cutting.service else ""),
                ("stop", event_topic(cutting.stop_service) if cutting.stop_service else ""),
            )
            if name
        }
        self._cut_data: dict[str, list[tuple[int, bytes]]] = {t.name: [] for t in self._cut_topics.values()}
        self._read(collectors)
        self.streams = {c.role: c.finish(request.stamps) for c in collectors}

    @property
    def span_ns(self) -> tuple[int, int]:
        """The first and the last time of the recording, of stamps and of receipts."""
        times = [t for s in self.streams.values() if len(s) for t in (s.stamps_ns[0], s.stamps_ns[-1])]
        first, last = self._recording.span_ns
        return int(min([*times, first])), int(max([*times, last]))

    def _topic(self, name: str) -> RecordedTopic:
        found = self._recording.topics.get(name)
        if found is None or not found.count:
            state = "is not recorded" if found is None else "has no messages"
            raise DatasetError(f"{self._request.bag}: cannot cut by {name}: it {state}")
        return found

    def _read(self, collectors: Sequence[StreamCollector]) -> None:
        by_topic: dict[str, list[StreamCollector]] = {}
        for item in collectors:
            by_topic.setdefault(item.topic.name, []).append(item)
        for message in self._recording.messages({*by_topic, *self._cut_data}):
            self._take(message, by_topic)

    def _take(self, message: StoredMessage, by_topic: Mapping[str, Sequence[StreamCollector]]) -> None:
        for item in by_topic.get(message.topic, ()):
            item.add(message)
        if message.topic in self._cut_data:
            self._cut_data[message.topic].append((message.received_ns, bytes(message.data)))

    def cuts(self, cutting: Cutting, first_ns: int, last_ns: int) -> list[Cut]:
        """Return where ``cutting`` cuts, in order of time."""
        if cutting.topic:
            topic = self._cut_topics["topic"]
            return by_value(topic.name, self._values(topic), last_ns)
        if cutting.service:
            stops = self._calls("stop") if cutting.stop_service else None
            return by_calls(cutting.service, self._calls("service"), stops, last_ns)
        if cutting.times is not None:
            return by_times(read_times(cutting.times, *self._recording.span_ns), cutting.times.name)
        if cutting.pauses_s:
            joints = self.streams[JOINT_STATES]
            assert joints.positions is not None
            gripper = self._request.profile.gripper
            return by_pauses(
                joints.stamps_ns, joints.positions, gripper, cutting.pauses_s, cutting.pause_speed
            )
        return whole(first_ns, last_ns)

    def _values(self, topic: RecordedTopic) -> list[tuple[int, Any]]:
        decode = TopicDecoder(topic)
        messages = [(at_ns, decode(data)) for at_ns, data in self._cut_data[topic.name]]
        if not all(hasattr(message, "data") for _, message in messages):
            raise DatasetError(f"{topic.name} is {topic.type}, which has no field 'data' to cut by")
        return [(at_ns, message.data) for at_ns, message in messages]

    def _calls(self, key: str) -> list[ServiceCall]:
        topic = self._cut_topics[key]
        return read_calls(topic, self._cut_data[topic.name])

    def unused(self, streams: Mapping[str, StreamIndex]) -> list[str]:
        """Return notes on recorded commands that actions are not taken from."""
        used = {stream.topic.name for stream in streams.values()}
        profile = self._request.profile
        names = [
            absolute(b.topic, self._request.namespace) for b in (profile.arm_backend, profile.gripper_backend)
        ]
        return [
            f"{name} is recorded but not read: it tells the driver how to move, not which action was chosen"
            for name in dict.fromkeys(names)
            if name in self._recording.topics and name not in used
        ]


def _actions(
    request: ImportRequest, streams: Mapping[str, StreamIndex]
) -> Literal["commanded", "joint_states"]:
    recorded = any(len(streams[role]) for role in CHUNKS if role in streams)
    if request.actions == "auto":
        return "commanded" if recorded else "joint_states"
    if request.actions == "commanded" and not recorded:
        raise DatasetError(
            f"{request.bag} holds no action chunks ({' or '.join(CHUNKS)}); --actions joint_states computes "
            "actions from the measured joint states"
        )
    return request.actions


def _episode(request: ImportRequest, streams: Mapping[str, StreamIndex], cut: Cut) -> PlannedEpisode:
    def count(role: str) -> int:
        return len(streams[role].within(cut.start_ns, cut.end_ns)) if role in streams else 0

    return PlannedEpisode(
        cut,
        _words(request, streams, cut),
        {camera.name: count(camera_role(camera.name)) for camera in request.profile.cameras},
        count(JOINT_STATES),
        sum(count(role) for role in CHUNKS),
    )


def _words(request: ImportRequest, streams: Mapping[str, StreamIndex], cut: Cut) -> str:
    """Return the words in force at the start of ``cut``, or the first that are said in it."""
    given = cut.words or request.instruction
    if given:
        return given
    said = sorted(
        (int(at), value.data)
        for role in (INSTRUCTION, TOLD)
        if role in streams
        for at, value in zip(streams[role].received_ns, streams[role].values, strict=True)
        if at <= cut.end_ns and (role == INSTRUCTION or value.data.strip())
    )
    before = [text for at, text in said if at <= cut.start_ns]
    after = [text for at, text in said if at > cut.start_ns]
    return next((str(text).strip() for text in [*before[-1:], *after] if text.strip()), "")


def _reason(episode: PlannedEpisode, actions: str) -> str:
    """Return why ``episode`` cannot be one; empty if it can."""
    empty = [name for name, count in episode.frames.items() if not count]
    if empty:
        return f"no image of camera {', '.join(empty)}"
    if episode.states < 2:
        return f"{episode.states} joint states"
    if actions == "commanded" and not episode.chunks:
        return "no action chunk; --actions joint_states computes actions for all episodes"
    return ""


def _notes(streams: Mapping[str, StreamIndex], unused: Sequence[str]) -> list[str]:
    found = []
    for stream in streams.values():
        found += list(stream.notes)
        found += [f"{stream.topic.name}: {n} messages left out: {why}" for why, n in stream.left_out.items()]
        if stream.role == JOINT_STATES or stream.role.startswith("camera/"):
            found += _gaps(stream)
    return [*found, *unused]


def _gaps(stream: StreamIndex) -> list[str]:
    """Return a note if a stream paused for much longer than between its messages."""
    seconds = np.diff(stream.stamps_ns) / NS_PER_S
    if not len(seconds):
        return []
    long = seconds > max(5 * float(np.median(seconds)), _GAP_S)
    if not long.any():
        return []
    return [f"{stream.topic.name}: {int(long.sum())} gaps, the longest {seconds.max():.2f} s"]


def imported_from(path: Path) -> str:
    """Return how an episode names the recording that it was cut from."""
    return str(path.resolve())
