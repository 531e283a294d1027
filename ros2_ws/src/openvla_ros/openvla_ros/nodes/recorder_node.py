"""The recorder as a ROS 2 node: every topic of the profile, raw, into one bag per episode.

The executor's thread only passes serialised messages on; a thread of ``EpisodeRecorder`` writes them.
It is controlled by the services ``~/start``, ``~/stop_success``, ``~/stop_failure``, ``~/discard`` and
``~/rerecord``; the instruction comes from the ``instruction`` topic.
"""

from __future__ import annotations

import getpass
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rclpy.serialization import deserialize_message
from std_msgs.msg import String
from std_srvs.srv import Trigger

from openvla_ros.data.bags import cdr
from openvla_ros.data.bags.bag_metadata import QUALITY, EpisodeMetadata
from openvla_ros.data.bags.message_definition import message_definition
from openvla_ros.data.bags.recording_folder import RECORDING, Recordings
from openvla_ros.data.bags.rosbag2_writer import Topic
from openvla_ros.data.recording.episode_quality import QualityMonitor, QualityReport
from openvla_ros.data.recording.episode_recorder import EpisodeRecorder, RecordedTopic, RecorderLimits
from openvla_ros.discovery.sole_watch import SoleWatch, camera_topics
from openvla_ros.errors import DatasetError, InvalidValueError
from openvla_ros.nodes.recorder_subscriptions import (
    RecordedStream,
    StreamSubscriptions,
    recorded_streams,
    type_name,
)
from openvla_ros.profile import load_profile
from openvla_ros.ros import process
from openvla_ros.ros.diagnostics import DiagnosticsPublisher
from openvla_ros.ros.guard import GuardedNode
from openvla_ros.ros.messages import LARGEST_INSTRUCTION_BYTES
from openvla_ros.ros.parameters import declare, parameter
from openvla_ros.values.episode import Outcome
from openvla_ros.values.health import Health, Level
from openvla_ros.values.time import NS_PER_S

REFRESH_S = 0.25  # how soon a new publisher's topic is recorded
WARN_S = 1.0
# A stream that was silent for this long counts as missing when an episode starts.
FRESH_S = 2.0


@dataclass(frozen=True)
class RecorderParameters:
    """The node's parameters; topics and image format come from the profile."""

    robot: str = parameter("sim_widowx", "robot profile: a name or a YAML file", read_only=True)
    folder: str = parameter(
        "", "where to store episodes; empty: ~/openvla_recordings/<robot>", read_only=True
    )
    operator: str = parameter("", "who demonstrates; empty: the login name", read_only=True)
    reserve_mb: int = parameter(256, "disk space to keep free, MB", read_only=True, low=1, high=1_000_000)


class RecorderNode(GuardedNode):
    """Records one episode after another."""

    def __init__(self, **overrides: str) -> None:
        super().__init__("recorder")
        settings = RecorderParameters(**{**vars(declare(self, RecorderParameters)), **overrides})
        self.profile = load_profile(settings.robot)
        self._operator = settings.operator or getpass.getuser()
        folder = settings.folder or f"~/openvla_recordings/{self.profile.name}"
        self.recordings = Recordings(Path(folder).expanduser())
        self.instruction = ""
        self._types: dict[str, tuple[str, str]] = {}  # role → type as it comes, definition
        self._heard_ns: dict[str, int] = {}
        self._monitor: QualityMonitor | None = None
        self._warned: set[str] = set()
        self._lost_before: Counter[str] = Counter()  # messages lost until the episode began
        self._newest: Path | None = None  # the episode that this process finished last
        self._recorder = EpisodeRecorder(
            self.recordings,
            (),
            self._alarm,
            self._now_ns,
            self._inspect,
            RecorderLimits(reserve_bytes=settings.reserve_mb << 20),
            simulated_clock=bool(self.get_parameter("use_sim_time").value),
        )
        for done in self._recorder.recovered:
            self._alarm("warn", f"recovered {done.describe()}")
        streams = recorded_streams(self.profile)
        self._sources = StreamSubscriptions(self, streams, self._found, self._arrived)
        self._names = self._sources.names()  # role → full name
        self._roles = {name: role for role, name in self._names.items()}
        self._sources.refresh()
        self.create_timer(REFRESH_S, self._sources.refresh)
        self.create_timer(WARN_S, self._warn)
        self._make_services()
        self._sole = SoleWatch(self, camera_topics(self.profile))
        self._diagnostics = DiagnosticsPublisher(self, self._healths)

    # The operator's requests; each raises DatasetError with the reason if it fails

    @property
    def recording(self) -> bool:
        """Whether an episode is in progress."""
        return self._recorder.recording

    def missing(self) -> list[str]:
        """Return what an episode started now would lack; empty when ready."""
        now_ns = self._now_ns()
        needed = [f"camera/{camera.name}/image_raw" for camera in self.profile.cameras] + ["joint_states"]
        silent = [
            f"{role} ({self._names[role]})"
            for role in needed
            if not 0 <= now_ns - self._heard_ns.get(role, -(1 << 62)) < FRESH_S * NS_PER_S
        ]
        if not self.instruction:
            silent.append("an instruction (publish it on the topic instruction)")
        return silent

    def _check_ready(self) -> None:
        if missing := self.missing():
            raise DatasetError(f"not ready to record: missing {', '.join(missing)}")

    def begin(self) -> Path:
        """Start an episode; return its folder."""
        self._check_ready()
        metadata = EpisodeMetadata(
            profile=self.profile,
            topics=self._stored_names(),
            instruction=self.instruction,
            operator=self._operator,
            number=self.recordings.next_number(),
            started_ns=self._now_ns(),
        )
        self._monitor = QualityMonitor(self.profile, self._types)
        self._warned.clear()
        self._lost_before = self._sources.lost.copy()
        folder = self._recorder.start(metadata.records())
        self.get_logger().info(f"recording {folder.name.removesuffix(RECORDING)}: {self.instruction}")
        return folder

    def finish(self, outcome: Outcome) -> Path:
        """Finish the episode in progress with everything received so far; return its folder."""
        self._sources.take_waiting()
        self._newest = self._recorder.stop(outcome, self._notes)
        self.get_logger().info("; ".join((f"{self._newest.name}: {outcome}", *self._report().warnings)))
        return self._newest

    def discard(self) -> None:
        """Delete the episode in progress."""
        self._recorder.discard()
        self.get_logger().info("discarded")

    def rerecord(self) -> Path:
        """Delete the episode in progress, or the last finished one, and start a new one.

        Nothing is deleted if the new one could not be started.
        """
        self._check_ready()
        if self._recorder.recording:
            self._recorder.discard()
        elif self._newest is not None and self._newest.is_dir():
            self.recordings.discard(self._newest)
            self._newest = None
        else:
            raise DatasetError("no episode of this session to re-record")
        return self.begin()

    def health(self) -> Health:
        """Return the health of the recording."""
        return self._recorder.health()

    def warnings(self) -> tuple[str, ...]:
        """Return the quality problems of the episode in progress."""
        return self._report().warnings if self.recording else ()

    def stop(self) -> None:
        """Finish an episode in progress with outcome ``unknown``, and unlock the folder."""
        if self._recorder.recording:
            try:
                self.finish("unknown")
            except DatasetError as error:
                self.get_logger().error(str(error))
        self._recorder.close()

    # Messages

    def _found(self, stream: RecordedStream) -> None:
        name = self._names[stream.role]
        kind = type_name(stream.type)
        self._types[stream.role] = (kind, message_definition(kind))
        stored, transform = Topic(name, kind, self._types[stream.role][1], stream.offers), None
        if self._compresses(stream.role, kind):
            kind = cdr.COMPRESSED_IMAGE
            stored = Topic(f"{name}/compressed", kind, message_definition(kind), stream.offers)
            transform = partial(cdr.compress_image, quality=self.profile.recording.jpeg_quality)
        self._recorder.add_topic(RecordedTopic(stored, name, transform, stream.latched))

    def _compresses(self, role: str, kind: str) -> bool:
        return (
            self.profile.recording.image_format == "jpeg" and role.startswith("camera/") and kind == cdr.IMAGE
        )

    def _stored_names(self) -> dict[str, str]:
        """Return role → the topic's name in the bag."""
        compressed = {f"camera/{c.name}/image_raw" for c in self.profile.cameras if not c.compressed}
        if self.profile.recording.image_format != "jpeg":
            compressed = set()
        return {
            role: f"{name}/compressed" if role in compressed else name for role, name in self._names.items()
        }

    def _arrived(self, stream: RecordedStream, data: bytes, sent_ns: int) -> None:
        self._heard_ns[stream.role] = self._now_ns()
        self._recorder.write(self._names[stream.role], data, sent_ns)
        if stream.role in ("instruction", "recorder/instruction", "policy/instruction"):
            self.guard.call(self._names[stream.role], partial(self._note_instruction, stream.role, data))

    def _note_instruction(self, role: str, data: bytes) -> None:
        if len(data) > LARGEST_INSTRUCTION_BYTES:
            raise InvalidValueError(
                f"an instruction of {len(data)} bytes; the limit is {LARGEST_INSTRUCTION_BYTES}"
            )
        words = deserialize_message(data, String).data.strip()
        self.instruction = words if words or role != "policy/instruction" else self.instruction

    def _notes(self) -> dict[str, dict[str, str]]:
        return {QUALITY: self._report().record()}

    def _report(self) -> QualityReport:
        """Return the quality of the episode, including the count of messages that were sent but lost."""
        report = self._monitor.report() if self._monitor else QualityReport(())
        undelivered = self._sources.lost.copy() - self._lost_before
        unstored = Counter({self._roles[name]: count for name, count in self._recorder.lost.items()})
        values: dict[str, str] = {}
        warnings: list[str] = []
        for what, counts in (("undelivered", undelivered), ("unstored", unstored)):
            values |= {f"{role} {what}": str(count) for role, count in sorted(counts.items())}
            if counts:
                listed = ", ".join(f"{count} of {role}" for role, count in sorted(counts.items()))
                warnings.append(f"{counts.total()} messages {what}: {listed}")
        return QualityReport((*report.warnings, *warnings), {**report.values, **values})

    def _inspect(self, topic: str, data: bytes | memoryview, received_ns: int) -> None:
        if self._monitor is not None:
            self._monitor.see(self._roles[topic], data, received_ns)

    # Reporting

    def _alarm(self, level: Level, text: str) -> None:
        # One call site per severity: rclpy does not allow changing it.
        if level == "error":
            self.get_logger().error(text)
        else:
            self.get_logger().warning(text)

    def _warn(self) -> None:
        for warning in self.warnings():
            kind = re.sub(r"[\d.]+", "", warning)
            if kind not in self._warned:
                self._warned.add(kind)
                self._alarm("warn", warning)

    def _healths(self) -> list[Health]:
        healths = [self._recorder.health(), self._sole.health()]
        if self._monitor is not None and self.recording:
            report = self._report()
            text = "; ".join(report.warnings) or "no warnings"
            healths.append(Health("quality", "warn" if report.warnings else "ok", text, dict(report.values)))
        return healths

    def _make_services(self) -> None:
        asked: dict[str, Callable[[], object]] = {
            "start": self.begin,
            "stop_success": partial(self.finish, "success"),
            "stop_failure": partial(self.finish, "failure"),
            "discard": self.discard,
            "rerecord": self.rerecord,
        }
        for name, act in asked.items():
            self.create_service(Trigger, f"~/{name}", partial(self._serve, act))

    def _serve(
        self, act: Callable[[], object], _request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        try:
            done = act()
        except DatasetError as error:
            response.success, response.message = False, str(error)
            self.get_logger().error(str(error))
            return response
        response.success, response.message = True, str(done or "")
        return response

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)


def main() -> None:
    """Run the node."""
    process.main(RecorderNode)


if __name__ == "__main__":
    main()
