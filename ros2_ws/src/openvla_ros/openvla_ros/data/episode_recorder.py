"""Writes episodes on a thread of its own and says at once when something endangers them.

The caller hands over serialised messages and goes on; compressing, writing and closing happen
here. A disk that fills up, refuses, or is too slow, lost permissions and a clock that jumps each
raise an alarm while the data is still safe. Knows nothing of ROS nor of what the topics mean.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from openvla_ros.data.bag_writer import BagWriter, Topic
from openvla_ros.data.hazards import ClockWatch, WriteRate, free_bytes
from openvla_ros.data.recordings import OUTCOME, Recordings, Recovered
from openvla_ros.episode import OUTCOMES, Outcome
from openvla_ros.errors import DatasetError, InvalidValueError
from openvla_ros.health import Health, Level

Records = Mapping[str, Mapping[str, str]]  # metadata records by name
Transform = Callable[[bytes], bytes]  # serialised message in, as it is stored out
Inspect = Callable[[str, "bytes | memoryview", int], None]  # topic, message as it came, receive stamp


@dataclass(frozen=True)
class RecorderLimits:
    """When to warn and when to stop writing."""

    reserve_bytes: int = 256 << 20  # kept free, so that the episode in progress can be finished
    warn_s: float = 120.0  # warn when the disk is full this soon at the present rate
    backlog_bytes: int = 512 << 20  # memory for what the disk has not taken yet
    clock_jump_s: float = 0.05  # NTP slews by 0.0005 s a second; more at once is a jump
    flush_s: float = 0.5
    sync_s: float = 2.0  # how much a power failure may cost


@dataclass(frozen=True)
class RecordedTopic:
    """A topic, how it is stored, and what is done to each of its messages before."""

    topic: Topic  # as it is stored: a picture that is compressed has another name and type
    source: str = ""  # the topic that messages come from, where its name is another
    transform: Transform | None = None
    latched: bool = False  # its newest message is written at the start of every episode


@dataclass(frozen=True)
class _Item:
    topic: str
    data: bytes
    received_ns: int
    sent_ns: int


@dataclass
class _Open:
    """The episode in progress."""

    folder: Path
    writer: BagWriter
    numbers: dict[str, int] = field(default_factory=dict)  # topics of which a message has come
    clock_jumps: list[str] = field(default_factory=list)
    lost: int = 0
    full: bool = False


class EpisodeRecorder:
    """Records one episode after another into ``recordings``, whose lock it holds until ``close``.

    ``alarm`` is called with a level and a line for people, from either thread. ``inspect`` sees
    each message on the writing thread before it is stored. Unfinished episodes of an earlier
    process are recovered first; ``recovered`` lists them.
    """

    def __init__(
        self,
        recordings: Recordings,
        topics: Sequence[RecordedTopic],
        alarm: Callable[[Level, str], None],
        inspect: Inspect | None = None,
        limits: RecorderLimits | None = None,
        simulated_clock: bool = False,
    ) -> None:
        self.recordings = recordings
        self.limits = limits or RecorderLimits()
        self._topics = {item.source or item.topic.name: item for item in topics}
        self._alarm, self._inspect = alarm, inspect
        self._lock = contextlib.ExitStack()
        self._lock.enter_context(recordings.locked())
        self.recovered: list[Recovered] = recordings.recover()
        self._clock = ClockWatch(self.limits.clock_jump_s, simulated_clock)
        self._latched: dict[str, _Item] = {}
        self._open: _Open | None = None
        self._changed = threading.Condition()
        self._queue: deque[_Item] = deque()
        self._queued_bytes = 0
        self._taking = False  # the caller waits for the episode
        self._stopping = False
        self._raised: dict[str, Level] = {}  # alarms in force
        self._rate = WriteRate()
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

    def add_topic(self, item: RecordedTopic) -> None:
        """Announce a topic, or say anew how it is stored; it is in a bag once a message of it came."""
        self._topics = {**self._topics, item.source or item.topic.name: item}

    def start(self, metadata: Records, now_ns: int) -> Path:
        """Begin an episode with these metadata records inside; return its folder.

        Raises ``DatasetError`` if one is in progress, or the disk has no room or refuses.
        """
        if self._open is not None:
            raise DatasetError(f"{self._open.folder.name} is being recorded; stop it first")
        free = free_bytes(self.recordings.root)
        if free < 2 * self.limits.reserve_bytes:
            raise DatasetError(
                f"{self.recordings.root} has {free / 1e6:.0f} MB free; recording needs at least "
                f"{2 * self.limits.reserve_bytes / 1e6:.0f} MB"
            )
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
        received_ns, _ = self._clock.check(now_ns, time.monotonic_ns())
        with self._changed:
            for item in self._latched.values():
                self._queue.append(replace(item, received_ns=received_ns))
                self._queued_bytes += len(item.data)
            self._open = _Open(folder, writer)
            self._changed.notify()
        self._rate = WriteRate()
        return folder

    def write(self, topic: str, data: bytes, now_ns: int, sent_ns: int) -> None:
        """Hand over one serialised message that arrived at ``now_ns``; never blocks on the disk."""
        received_ns, jump = self._clock.check(now_ns, time.monotonic_ns())
        if jump:
            self._note_jump(received_ns, jump)
        item = _Item(topic, data, received_ns, sent_ns)
        if self._topics[topic].latched:
            self._latched[topic] = item
        with self._changed:
            episode = self._open
            if episode is None or self._taking:
                return
            if self._queued_bytes + len(data) > self.limits.backlog_bytes:
                episode.lost += 1
                lost = episode.lost
            else:
                self._queue.append(item)
                self._queued_bytes += len(data)
                self._changed.notify()
                return
        self._raise("backlog", "error", f"the disk cannot keep up: {lost} messages of this episode are lost")

    def stop(
        self, outcome: Outcome, now_ns: int, notes: Callable[[], Records] = dict[str, Mapping[str, str]]
    ) -> Path:
        """Finish the episode in progress; return its final folder.

        ``notes`` returns further metadata records, once every message is written. Raises
        ``DatasetError`` if there is no episode, or the disk refuses; in the latter case the episode
        stays unfinished and can be recovered.
        """
        if outcome not in OUTCOMES:
            raise DatasetError(f"outcome is {outcome!r}; choose from {', '.join(OUTCOMES)}")
        episode = self._take()
        try:
            for name, values in notes().items():
                episode.writer.add_metadata(name, values)
            episode.writer.add_metadata(OUTCOME, _outcome(episode, outcome, now_ns))
            episode.writer.close()
            return self.recordings.finish(episode.folder)
        except DatasetError as error:
            episode.writer.abandon()
            raise DatasetError(
                f"{error}; what was recorded stays in {episode.folder} and is recovered at the next start "
                "or with 'openvla recover'"
            ) from error

    def discard(self) -> None:
        """Delete the episode in progress; its number is used again."""
        episode = self._take()
        episode.writer.abandon()
        self.recordings.discard(episode.folder)

    def close(self) -> None:
        """End the threads and give back the folder. An episode in progress stays unfinished."""
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
        """Return the worst alarm in force, and figures."""
        with self._changed:
            episode, queued = self._open, self._queued_bytes
        values = {
            "recording": episode.folder.name if episode else "",
            "megabytes": f"{episode.writer.bytes_written / 1e6:.1f}" if episode else "0",
            "messages": str(episode.writer.message_count) if episode else "0",
            "lost": str(episode.lost) if episode else "0",
            "backlog_megabytes": f"{queued / 1e6:.1f}",
        }
        with contextlib.suppress(DatasetError):  # a folder that is gone has raised its alarm already
            values["free_megabytes"] = f"{free_bytes(self.recordings.root) / 1e6:.0f}"
        for level in ("error", "warn"):
            names = [name for name, raised in list(self._raised.items()) if raised == level]
            if names:
                return Health("recording", "error" if level == "error" else "warn", ", ".join(names), values)
        return Health("recording", "ok", "recording" if episode else "idle", values)

    def _take(self) -> _Open:
        """Let the writing thread finish what is queued, and take the episode from it."""
        with self._changed:
            if self._open is None:
                raise DatasetError("no episode is being recorded")
            episode = self._open
            self._taking = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._taking)
            self._raised.clear()
        return episode

    def _hand_over(self) -> None:
        """Give the episode to the caller that waits for it; the writing thread holds the lock."""
        if self._open is not None:
            self._open.lost += len(self._queue)
        self._queue.clear()
        self._queued_bytes = 0
        self._open = None
        self._taking = False
        self._changed.notify_all()

    def _run(self) -> None:
        checked = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._stopping or self._taking, timeout=0.1)
                if self._taking and (not self._queue or "write" in self._raised):
                    self._hand_over()
                    continue
                if self._stopping and not self._queue:
                    return
                batch, episode = list(self._queue), self._open
                self._queue.clear()
                self._queued_bytes = 0
            if episode is not None:
                self._store(episode, batch)
                if time.monotonic() - checked > 0.5:
                    checked = time.monotonic()
                    self._check_disk(episode)

    def _store(self, episode: _Open, batch: list[_Item]) -> None:
        """Write ``batch``; what the disk refuses goes back to the front of the queue."""
        for position, item in enumerate(batch):
            if episode.full:
                episode.lost += 1
                continue
            try:
                self._store_one(episode, item)
            except InvalidValueError as error:
                episode.lost += 1
                self._raise("message", "error", f"a message of {item.topic} cannot be stored: {error}")
            except DatasetError as error:
                self._raise("write", "error", f"{error}; recording waits for the disk")
                with self._changed:
                    rest = batch[position + 1 :]
                    self._queue.extendleft(reversed(rest))
                    self._queued_bytes += sum(len(item.data) for item in rest)
                    if self._stopping:
                        self._queue.clear()
                time.sleep(0.2)
                return
        try:
            episode.writer.flush_if_due()
        except DatasetError as error:
            self._raise("write", "error", f"{error}; recording waits for the disk")
            return
        self._clear("write")

    def _store_one(self, episode: _Open, item: _Item) -> None:
        data = item.data
        if self._inspect is not None:
            self._inspect(item.topic, data, item.received_ns)
        transform = self._topics[item.topic].transform
        if transform is not None:
            data = transform(data)
        self._rate.add(len(data))
        if item.topic not in episode.numbers:
            episode.numbers[item.topic] = episode.writer.add_topic(self._topics[item.topic].topic)
        episode.writer.write(episode.numbers[item.topic], data, item.received_ns, item.sent_ns)

    def _check_disk(self, episode: _Open) -> None:
        root = self.recordings.root
        try:
            free = free_bytes(root)
            reachable = episode.folder.is_dir()
        except DatasetError as error:
            self._raise("folder", "error", str(error))
            return
        if not reachable or not os.access(root, os.W_OK | os.X_OK):
            self._raise(
                "folder", "error", f"{root} can no longer be written: the episode cannot be finished there"
            )
        else:
            self._clear("folder")
        left_s = (free - self.limits.reserve_bytes) / max(self._rate.bytes_per_s(), 1.0)
        if free < self.limits.reserve_bytes:
            if not episode.full:
                episode.full = True
                self._raise("disk full", "error", f"{root} is full: stop this episode, it is complete so far")
        elif left_s < self.limits.warn_s:
            self._raise("disk space", "warn", f"{root} is full in {left_s:.0f} s at this rate")
        with self._changed:
            queued = self._queued_bytes
        if queued > self.limits.backlog_bytes // 4:
            self._raise("backlog", "warn", f"the disk is slow: {queued / 1e6:.0f} MB wait for it")

    def _sync(self) -> None:
        """See the data onto the disk as it grows, so that finishing is quick and little is at risk."""
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
                self._raise("sync", "error", f"cannot write {episode.writer.path}: {error.strerror}")

    def _note_jump(self, received_ns: int, jump: int) -> None:
        if self._open is not None:
            self._open.clock_jumps.append(f"{received_ns}:{jump}")
        self._raised.pop("clock", None)
        self._raise(
            "clock", "error", f"the clock jumped by {jump * 1e-9:+.3f} s: stamps before and after do not fit"
        )

    def _raise(self, name: str, level: Level, text: str) -> None:
        if self._raised.get(name) != level:
            self._raised[name] = level
            self._alarm(level, text)

    def _clear(self, name: str) -> None:
        self._raised.pop(name, None)


def _outcome(episode: _Open, outcome: Outcome, now_ns: int) -> dict[str, str]:
    return {
        "outcome": outcome,
        "ended_ns": str(now_ns),
        "recovered": "false",
        "lost": str(episode.lost),
        "clock_jumps": " ".join(episode.clock_jumps),
        "disk_full": str(episode.full).lower(),
    }
