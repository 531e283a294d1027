"""Writes episodes on a separate thread, and raises an alarm at once when something endangers them.

The caller hands over serialised messages without waiting; compressing, writing and closing happen here.
A disk that fills up, fails or is too slow, lost permissions and a clock that jumps each raise an alarm
while the data is still safe. Knows nothing of ROS or of what the topics mean.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from openvla_ros.data.bags.recording_folder import OUTCOME, Recordings, Recovered
from openvla_ros.data.bags.rosbag2_writer import BagWriter, Topic
from openvla_ros.data.recording.alarms import Alarms, Tell
from openvla_ros.data.recording.disk_and_clock_watch import ClockWatch, DiskWatch, free_bytes
from openvla_ros.data.recording.write_queue import Backlog, ReceivedMessage
from openvla_ros.errors import DatasetError
from openvla_ros.values.episode import OUTCOMES, Outcome
from openvla_ros.values.health import Health
from openvla_ros.values.time import seconds

Records = Mapping[str, Mapping[str, str]]  # metadata records by name
Transform = Callable[[bytes], bytes]  # serialised message in, as it is stored out
Inspect = Callable[[str, "bytes | memoryview", int], None]  # topic, message as it came, receive stamp
BATCH_BYTES = 8 << 20  # of messages stored before checking for other work
CHECK_S = 0.5  # between checks of what is not urgent
RETRY_S = 0.2  # before a failed write is retried


@dataclass(frozen=True)
class RecorderLimits:
    """When to warn and when to stop writing."""

    reserve_bytes: int = 256 << 20  # kept free, so that the episode in progress can be finished
    warn_s: float = 120.0  # warn when the disk will be full this soon at the current rate
    backlog_bytes: int = 512 << 20  # memory for what is not stored yet
    # With flush_s this is what a crash can cost: together at most one second.
    backlog_s: float = 0.5
    flush_s: float = 0.5
    clock_jump_s: float = 0.05  # NTP slews by 0.0005 s a second; more at once is a jump
    sync_s: float = 2.0  # how much a power failure may lose


@dataclass(frozen=True)
class RecordedTopic:
    """A topic, how it is stored, and how each of its messages is transformed first."""

    topic: Topic  # as it is stored: an image that is compressed has another name and type
    source: str = ""  # the topic that messages come from, where its name is another
    transform: Transform | None = None
    latched: bool = False  # its newest message is written at the start of every episode


@dataclass
class _Open:
    """The episode in progress."""

    folder: Path
    writer: BagWriter
    numbers: dict[str, int] = field(default_factory=dict)  # topics of which a message has come
    clock_jumps: list[str] = field(default_factory=list)
    full: bool = False


class EpisodeRecorder:
    """Records one episode after another into ``recordings``, and holds its lock until ``close``.

    ``alarm`` is called with a level and a line of text, from either thread; ``clock`` returns the time of
    receipt, nanoseconds. ``inspect`` is called with each message on the writing thread before it is
    stored. Unfinished episodes of an earlier process are recovered first; ``recovered`` lists them.
    """

    def __init__(
        self,
        recordings: Recordings,
        topics: Sequence[RecordedTopic],
        alarm: Tell,
        clock: Callable[[], int] = time.time_ns,
        inspect: Inspect | None = None,
        limits: RecorderLimits | None = None,
        simulated_clock: bool = False,
    ) -> None:
        self.recordings = recordings
        self.limits = limits or RecorderLimits()
        self._topics = {item.source or item.topic.name: item for item in topics}
        self._alarms, self._inspect = Alarms(alarm), inspect
        self._lock = contextlib.ExitStack()
        self._lock.enter_context(recordings.locked())
        self.recovered: list[Recovered] = recordings.recover()
        self._clock = ClockWatch(clock, self.limits.clock_jump_s, simulated_clock)
        self._latched: dict[str, ReceivedMessage] = {}
        self._open: _Open | None = None
        self._lost: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._backlog = Backlog(self.limits.backlog_bytes)
        self._taking = False  # the caller waits for the episode
        self._stopping = False
        self._disk = DiskWatch(recordings.root, self.limits.reserve_bytes, self.limits.warn_s, self._alarms)
        self._thread = threading.Thread(target=self._run, name="episode writer", daemon=False)
        self._thread.start()
        self._syncer = threading.Thread(target=self._sync, name="episode sync", daemon=False)
        self._syncer.start()

    @property
    def recording(self) -> bool:
        """Whether an episode is in progress."""
        return self._open is not None

    @property
    def folder(self) -> Path | None:
        """The folder of the episode in progress."""
        return self._open.folder if self._open else None

    @property
    def lost(self) -> Counter[str]:
        """Received messages that could not be stored, by topic, in this episode or the last one."""
        with self._changed:
            return self._lost.copy()

    def add_topic(self, item: RecordedTopic) -> None:
        """Add a topic, or change how it is stored; it is in the bag once it has a message."""
        self._topics = {**self._topics, item.source or item.topic.name: item}

    def start(self, metadata: Records) -> Path:
        """Begin an episode with these metadata records; return its folder.

        Raises ``DatasetError`` if one is in progress, the disk is full, or writing fails.
        """
        if self._open is not None:
            raise DatasetError(f"already recording {self._open.folder.name}; stop it first")
        self._disk.begin()
        folder = self.recordings.begin()
        writer = None
        try:
            writer = BagWriter(folder, flush_s=self.limits.flush_s)
            for name, values in metadata.items():
                writer.add_metadata(name, values)
        except DatasetError:
            if writer is not None:
                writer.abandon()
            self.recordings.discard(folder)
            raise
        received_ns = self._now_ns()
        with self._changed:
            self._lost.clear()
            for message in self._latched.values():
                self._backlog.put(replace(message, received_ns=received_ns, taken_s=time.monotonic()))
            self._open = _Open(folder, writer)
            self._changed.notify()
        return folder

    def write(self, topic: str, data: bytes, sent_ns: int = 0) -> None:
        """Hand over one serialised message that has just arrived; never blocks on the disk.

        ``sent_ns`` is the source's stamp, if it has one.
        """
        received_ns = self._now_ns()
        message = ReceivedMessage(topic, data, received_ns, sent_ns or received_ns)
        if self._topics[topic].latched:
            self._latched[topic] = message
        with self._changed:
            if self._open is None or self._taking:
                return
            if self._backlog.put(message):
                self._changed.notify()
                return
        self._lose(topic, "they arrive faster than they can be stored")

    def stop(self, outcome: Outcome, notes: Callable[[], Records] = dict[str, Mapping[str, str]]) -> Path:
        """Finish the episode in progress; return its final folder.

        ``notes`` is called once every message is written, and returns further metadata records. Raises
        ``DatasetError`` if there is no episode, or writing fails; then the episode stays unfinished and
        can be recovered.
        """
        if outcome not in OUTCOMES:
            raise DatasetError(f"outcome is {outcome!r}; choose from {', '.join(OUTCOMES)}")
        ended_ns = self._now_ns()
        episode = self._take()
        try:
            for name, values in notes().items():
                episode.writer.add_metadata(name, values)
            episode.writer.add_metadata(OUTCOME, _outcome(episode, outcome, ended_ns, self._lost))
            episode.writer.close()
            return self.recordings.finish(episode.folder)
        except DatasetError as error:
            episode.writer.abandon()
            raise DatasetError(
                f"{error}; the recording so far is in {episode.folder} and will be recovered at the next "
                "start or with 'openvla recover'"
            ) from error

    def discard(self) -> None:
        """Delete the episode in progress; its number is reused."""
        episode = self._take()
        episode.writer.abandon()
        self.recordings.discard(episode.folder)

    def close(self) -> None:
        """Stop the threads and unlock the folder. An episode in progress stays unfinished."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()
        self._syncer.join()
        if self._open is not None:
            self._open.writer.abandon()
            self._open = None
        self._lock.close()

    def health(self) -> Health:
        """Return the worst active alarm, and figures."""
        with self._changed:
            episode, waiting, age_s = self._open, self._backlog.bytes, self._backlog.age_s()
            lost = self._lost.total()
        values = {
            "recording": episode.folder.name if episode else "",
            "megabytes": f"{episode.writer.bytes_written / 1e6:.1f}" if episode else "0",
            "messages": str(episode.writer.message_count) if episode else "0",
            "lost": str(lost) if episode else "0",
            "backlog_megabytes": f"{waiting / 1e6:.1f}",
            "backlog_s": f"{age_s:.2f}",
        }
        with contextlib.suppress(DatasetError):  # a folder that is gone has raised its alarm already
            values["free_megabytes"] = f"{free_bytes(self.recordings.root) / 1e6:.0f}"
        level, text = self._alarms.worst()
        return Health("recording", level, text or ("recording" if episode else "idle"), values)

    # The caller's side

    def _now_ns(self) -> int:
        """Return the current stamp; a clock jump raises an alarm and is noted in the episode."""
        received_ns, jump_ns = self._clock.read()
        if jump_ns:
            if self._open is not None:
                self._open.clock_jumps.append(f"{received_ns}:{jump_ns}")
            self._alarms.end("clock")  # each jump is told
            text = f"the clock jumped by {seconds(jump_ns):+.3f} s: stamps before and after do not match"
            self._alarms.set_off("clock", "error", text)
        return received_ns

    def _take(self) -> _Open:
        """Wait until the writing thread has written its queue, and take the episode from it."""
        with self._changed:
            if self._open is None:
                raise DatasetError("no episode is being recorded")
            episode = self._open
            self._taking = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._taking)
            self._alarms.end_all()
        return episode

    # The writing thread

    def _run(self) -> None:
        checked = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._backlog or self._stopping or self._taking, timeout=0.1)
                if self._taking and (not self._backlog or "write" in self._alarms):
                    self._hand_over()
                    continue
                if self._stopping and not self._backlog:
                    return
                # Small batches, so that the reserve is not used up between checks of the disk.
                batch = self._backlog.take(min(BATCH_BYTES, self.limits.reserve_bytes // 4))
                episode = self._open
            if episode is not None:
                episode.full = episode.full or self._disk.is_full()
                self._store(episode, batch)
                if time.monotonic() - checked > CHECK_S:
                    checked = time.monotonic()
                    self._disk.check_access(episode.folder)
                    self._check_backlog()

    def _hand_over(self) -> None:
        """Pass the episode to the waiting caller; the writing thread holds the lock."""
        left = self._backlog.take(self.limits.backlog_bytes)
        self._lost.update(message.topic for message in left)
        self._open = None
        self._taking = False
        self._changed.notify_all()

    def _store(self, episode: _Open, batch: list[ReceivedMessage]) -> None:
        """Write ``batch``; messages that cannot be written go back to the front of the queue."""
        for position, message in enumerate(batch):
            if episode.full:
                self._count_lost(message.topic)  # the full disk is the alarm
                continue
            written = episode.writer.message_count
            try:
                self._store_one(episode, message)
            except DatasetError as error:
                # The writer keeps a message that it has counted, and retries it by itself.
                self._wait_for_disk(error, batch[position + (episode.writer.message_count > written) :])
                return
            except Exception as error:  # noqa: BLE001 - told and counted; it must not cost the other messages
                self._lose(message.topic, f"a message on {message.topic} cannot be stored: {error}")
        try:
            episode.writer.flush_if_due()
        except DatasetError as error:
            self._wait_for_disk(error, ())
            return
        self._alarms.end("write")

    def _store_one(self, episode: _Open, message: ReceivedMessage) -> None:
        recorded = self._topics[message.topic]
        if message.topic not in episode.numbers:
            episode.numbers[message.topic] = episode.writer.add_topic(recorded.topic)
        self._look_at(message)
        data = message.data if recorded.transform is None else recorded.transform(message.data)
        self._disk.wrote(len(data))
        episode.writer.write(episode.numbers[message.topic], data, message.received_ns, message.sent_ns)

    def _look_at(self, message: ReceivedMessage) -> None:
        """Run the inspector; the message is stored even if it fails."""
        if self._inspect is None:
            return
        try:
            self._inspect(message.topic, message.data, message.received_ns)
        except Exception as error:  # noqa: BLE001 - told, and the message is stored
            text = f"inspection of a message on {message.topic} failed: {error}"
            self._alarms.set_off(f"inspection of {message.topic}", "warn", text)

    def _wait_for_disk(self, error: DatasetError, rest: Sequence[ReceivedMessage]) -> None:
        self._alarms.set_off("write", "error", f"{error}; buffering until the disk works again")
        with self._changed:
            if not self._stopping:
                self._backlog.give_back(rest)
        time.sleep(RETRY_S)

    def _lose(self, topic: str, why: str) -> None:
        lost = self._count_lost(topic)
        self._alarms.set_off("lost", "error", f"{lost} messages of this episode are lost: {why}")

    def _count_lost(self, topic: str) -> int:
        """Count a message of ``topic`` as lost; return how many are."""
        with self._changed:
            self._lost[topic] += 1
            return self._lost.total()

    def _check_backlog(self) -> None:
        with self._changed:
            waiting, age_s = self._backlog.bytes, self._backlog.age_s()
        if age_s > self.limits.backlog_s:
            text = f"{age_s:.1f} s of messages ({waiting / 1e6:.0f} MB) are not stored yet"
            self._alarms.set_off("backlog", "warn", f"{text}: a crash would lose them")
        else:
            self._alarms.end("backlog")

    def _sync(self) -> None:
        """Fsync the data as it grows, so that finishing is quick and little is at risk."""
        while True:
            with self._changed:
                if self._changed.wait_for(lambda: self._stopping, timeout=self.limits.sync_s):
                    return
                episode = self._open
            if episode is None:
                continue
            try:
                with episode.writer.path.open("rb") as file:
                    os.fdatasync(file.fileno())
            except OSError as error:
                if self._open is episode:  # else it has been finished in the meantime, and renamed
                    text = f"cannot write {episode.writer.path}: {error.strerror}"
                    self._alarms.set_off("sync", "error", text)


def _outcome(episode: _Open, outcome: Outcome, ended_ns: int, lost: Counter[str]) -> dict[str, str]:
    return {
        "outcome": outcome,
        "ended_ns": str(ended_ns),
        "recovered": "false",
        "lost": str(lost.total()),
        "lost_by_topic": ", ".join(f"{topic} {count}" for topic, count in sorted(lost.items())),
        "clock_jumps": " ".join(episode.clock_jumps),
        "disk_full": str(episode.full).lower(),
    }
