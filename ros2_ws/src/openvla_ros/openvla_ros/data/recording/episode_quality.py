"""Quality checks of a demonstration, the same while it is recorded and afterwards.

``QualityMonitor`` gets every message in order of arrival. Live, it warns; at the end its report is
stored with the episode; offline, ``measure`` runs it over a bag. Knows nothing of ROS.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from openvla_ros.data.bags import cdr
from openvla_ros.data.bags.bag_folder import open_verified
from openvla_ros.data.bags.bag_metadata import EpisodeMetadata, parse_metadata
from openvla_ros.data.bags.bag_reader import read_metadata
from openvla_ros.data.recording.stream_quality import FROZEN_S, ImageWatch, StreamStatistics
from openvla_ros.errors import DatasetError, InvalidValueError
from openvla_ros.profile import RobotProfile
from openvla_ros.values.arrays import Float
from openvla_ros.values.time import seconds

# Less joint motion than this over IDLE_S counts as idle: ten times an encoder's step.
IDLE_RAD = 0.01
IDLE_S = 2.0
# Newest images further apart than this many periods of the slowest camera show different moments.
DESYNC_PERIODS = 1.5
# How often joints are checked; the other messages are only counted.
STATE_PERIOD_NS = 50_000_000
# The reasons of the controller that mean a limit was touched (see ``verdict.Reason``).
LIMITS = frozenset(
    (
        *("step_bounds", "workspace", "tilt", "table", "self_collision", "joint_limit"),
        *("inverse_kinematics", "tracking", "effort", "wrench"),
    )
)


@dataclass(frozen=True)
class QualityReport:
    """The result: warnings for people (none if all is well), figures for programs."""

    warnings: tuple[str, ...]
    values: Mapping[str, str] = field(default_factory=dict)

    def record(self) -> dict[str, str]:
        """Return the report as the metadata record stored with the episode."""
        return {**self.values, "warnings": json.dumps(self.warnings)}

    @classmethod
    def from_record(cls, record: Mapping[str, str]) -> QualityReport:
        """Return the report in ``record``; the inverse of ``record()``."""
        values = dict(record)
        warnings = json.loads(values.pop("warnings", "[]"))
        return cls(tuple(map(str, warnings)), values)


class QualityMonitor:
    """Watches one episode. ``types`` gives each role's message type and definition.

    Not safe between threads, except for ``report``, which only reads.
    """

    def __init__(self, profile: RobotProfile, types: Mapping[str, tuple[str, str]]) -> None:
        self._profile, self._types = profile, dict(types)
        self.streams = {
            f"camera/{camera.name}/image_raw": StreamStatistics(f"camera {camera.name}", camera.rate_hz)
            for camera in profile.cameras
        }
        self.streams["joint_states"] = StreamStatistics("joint states", profile.state.rate_hz)
        self.images = {role: ImageWatch() for role in self.streams if role != "joint_states"}
        self._decoders: dict[str, cdr.MessageDecoder] = {}
        self._desync_s = 0.0
        self._idle = _IdleWatch()
        self._limits: Counter[str] = Counter()
        self._reason = ""  # of the newest verdict: a limit counts once until another reason follows
        self._frozen: Counter[str] = Counter()
        self.unreadable = 0
        self._began_ns: int | None = None
        self._newest_ns = 0

    def see(self, role: str, data: bytes | memoryview, received_ns: int) -> None:
        """Process one serialised message of the stream with ``role``."""
        if self._began_ns is None:
            self._began_ns = received_ns
        self._newest_ns = received_ns
        try:
            if role in self.images:
                self._see_image(role, data, received_ns)
            elif role == "joint_states":
                self._see_state(data, received_ns)
            elif role == "controller/verdict":
                self._see_verdict(data)
        except (InvalidValueError, DatasetError):
            self.unreadable += 1

    def report(self) -> QualityReport:
        """Return the report so far."""
        parts = [
            *(self._of_stream(stream) for stream in self.streams.values()),
            *(self._of_images(role) for role in self.images),
            self._of_the_whole(),
        ]
        values = {key: value for part in parts for key, value in part.values.items()}
        return QualityReport(tuple(warning for part in parts for warning in part.warnings), values)

    def _of_stream(self, stream: StreamStatistics) -> QualityReport:
        values = {
            "rate_hz": f"{stream.measured_rate_hz:.2f}",
            "messages": str(stream.count),
            "missing": str(stream.missing),
            "lag_ms": f"{1e3 * stream.lag_mean_s:.1f}",
            "lag_ms_max": f"{1e3 * stream.lag_max_s:.1f}",
        }
        named = {f"{stream.name} {key}": value for key, value in values.items()}
        return QualityReport(tuple(self._stream_warnings(stream)), named)

    def _of_images(self, role: str) -> QualityReport:
        name, watch, warnings = self.streams[role].name, self.images[role], []
        if self._frozen[role]:
            warnings.append(f"{name} showed the same image for {watch.frozen_s:.1f} s")
        if watch.black_s > FROZEN_S:
            warnings.append(f"{name} was black for {watch.black_s:.1f} s")
        values = {f"{name} frozen_s": f"{watch.frozen_s:.1f}", f"{name} black_s": f"{watch.black_s:.1f}"}
        return QualityReport(tuple(warnings), values)

    def _of_the_whole(self) -> QualityReport:
        """Return the results that span streams: camera synchronisation, the arm, its limits, damage."""
        limits = ", ".join(f"{reason} {count}" for reason, count in sorted(dict(self._limits).items()))
        warnings = []
        if self._desync_s > self._allowed_desync_s():
            warnings.append(f"cameras were up to {1e3 * self._desync_s:.0f} ms apart")
        if self._idle.longest_s > IDLE_S:
            warnings.append(f"the arm did not move for {self._idle.longest_s:.1f} s")
        if limits:
            warnings.append(f"limits reached: {limits}")
        if self.unreadable:
            warnings.append(f"{self.unreadable} messages could not be read")
        values = {
            "desync_ms": f"{1e3 * self._desync_s:.1f}",
            "idle_s": f"{self._idle.total_s:.1f}",
            "idle_s_longest": f"{self._idle.longest_s:.1f}",
            "limits": limits,
        }
        return QualityReport(tuple(warnings), values)

    def _stream_warnings(self, stream: StreamStatistics) -> list[str]:
        if self._began_ns is None or seconds(self._newest_ns - self._began_ns) < 1.0:
            return []
        if not stream.count:
            return [f"{stream.name}: no messages"]
        warnings = []
        if stream.slow:
            warnings.append(f"{stream.name}: {stream.measured_rate_hz:.1f} Hz instead of {stream.rate_hz:g}")
        silent_s = seconds(self._newest_ns - stream.last_ns) - stream.lag_max_s
        limit_s = self._max_age_s(stream)
        if silent_s > limit_s:
            warnings.append(f"{stream.name}: silent for {silent_s:.1f} s")
        if stream.lag_mean_s > limit_s / 2:
            warnings.append(f"{stream.name} lags by {1e3 * stream.lag_mean_s:.0f} ms")
        if stream.backwards:
            warnings.append(f"{stream.name}: {stream.backwards} stamps went back")
        return warnings

    def _max_age_s(self, stream: StreamStatistics) -> float:
        if stream is self.streams["joint_states"]:
            return self._profile.state.max_age_s
        return self._profile.camera(stream.name.removeprefix("camera ")).max_age_s

    def _allowed_desync_s(self) -> float:
        return DESYNC_PERIODS / min(camera.rate_hz for camera in self._profile.cameras)

    def _see_image(self, role: str, data: bytes | memoryview, received_ns: int) -> None:
        stamp_ns = cdr.header_stamp_ns(data)
        self.streams[role].add(stamp_ns, received_ns)
        watch = self.images[role]
        watch.look(self._types[role][0], data, stamp_ns)
        if watch.same_s(stamp_ns) == 0.0:
            self._idle.mark(role)
        elif watch.same_s(stamp_ns) > FROZEN_S and self._must_have_changed(role):
            self._frozen[role] += 1
        others = [self.streams[other] for other in self.images if other != role]
        newest = [other.last_ns for other in others if other.count]
        if newest:
            # A camera of lower rate may be one of its own periods behind and still be in step.
            self._desync_s = max(self._desync_s, *(seconds(abs(stamp_ns - other)) for other in newest))

    def _must_have_changed(self, role: str) -> bool:
        """Simulated images have no noise: they count as frozen only if the arm moved in the meantime."""
        return self._profile.simulation is None or self._idle.moved_since_mark(role)

    def _see_state(self, data: bytes | memoryview, received_ns: int) -> None:
        stream = self.streams["joint_states"]
        stamp_ns = cdr.header_stamp_ns(data)
        stream.add(stamp_ns, received_ns)
        if stamp_ns - self._idle.looked_ns >= STATE_PERIOD_NS:
            positions = np.asarray(self._decode("joint_states", data).position, dtype=np.float64)
            if positions.size:  # some drivers send velocities or efforts by themselves
                self._idle.add(stamp_ns, positions)

    def _see_verdict(self, data: bytes | memoryview) -> None:
        message = self._decode("controller/verdict", data)
        for pair in message.values:
            if pair.key == "reason":
                if pair.value in LIMITS and pair.value != self._reason:
                    self._limits[pair.value] += 1
                self._reason = pair.value

    def _decode(self, role: str, data: bytes | memoryview) -> Any:
        if role not in self._decoders:
            self._decoders[role] = cdr.MessageDecoder(dict([self._types[role]]))
        return self._decoders[role](self._types[role][0], data)


class _IdleWatch:
    """How long the joints did not move."""

    def __init__(self) -> None:
        self.total_s = self.longest_s = 0.0
        self.looked_ns = -(1 << 62)
        self._still_at: Float | None = None
        self._since_ns = 0
        self._marks: dict[str, Float] = {}
        self._newest: Float | None = None

    def add(self, stamp_ns: int, positions: Float) -> None:
        """Note the joints' positions."""
        still = self._still_at is not None and self._still_at.shape == positions.shape
        if still and self._still_at is not None and np.abs(positions - self._still_at).max() < IDLE_RAD:
            stood_s = seconds(stamp_ns - self._since_ns)
            if stood_s > IDLE_S:
                self.total_s += seconds(stamp_ns - max(self.looked_ns, self._since_ns))
            self.longest_s = max(self.longest_s, stood_s)
        else:
            self._still_at, self._since_ns = positions, stamp_ns
        self.looked_ns, self._newest = stamp_ns, positions

    def mark(self, name: str) -> None:
        """Remember where the joints are now."""
        if self._newest is not None:
            self._marks[name] = self._newest

    def moved_since_mark(self, name: str) -> bool:
        """Whether the joints have moved twice the idle motion since ``mark``."""
        mark = self._marks.get(name)
        if mark is None or self._newest is None or mark.shape != self._newest.shape:
            return False
        return bool(np.abs(self._newest - mark).max() > 2 * IDLE_RAD)


def measure(path: Path) -> QualityReport:
    """Return the quality of a recorded episode from its messages."""
    with open_verified(path) as file:
        metadata = parse_metadata(file.metadata, str(path))
        roles = {topic: role for role, topic in metadata.topics.items()}
        types = {roles[c.topic]: (c.type, c.definition) for c in file.channels if c.topic in roles}
        monitor = QualityMonitor(metadata.profile, types)
        for message in file:
            if message.channel.topic in roles:
                monitor.see(roles[message.channel.topic], message.data, message.log_ns)
            del message
        return monitor.report()


def episode_quality(path: Path, metadata: EpisodeMetadata | None = None) -> QualityReport:
    """Return the quality stored with an episode, or measure it if there is none (a recovered one)."""
    stored = (metadata or read_metadata(path)).quality
    return QualityReport.from_record(stored) if stored else measure(path)
