"""A folder of recorded episodes: numbering, the state of each episode (its suffix), and recovery.

``episode_000007`` is finished. ``episode_000007.recording`` is being written, or its writer was
killed; ``recover`` turns it into a finished one. Every change of state is a single rename, hence atomic.
Numbers count up and are never reused, except that of a discarded last episode. Knows nothing of ROS.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from openvla_ros.data.bags.mcap_reader import McapFile
from openvla_ros.data.bags.rosbag2_writer import BagWriter, Topic, parse_qos, sync_folder
from openvla_ros.errors import DatasetError

RECORDING, RECOVERING, DISCARDED = ".recording", ".recovering", ".discarded"
OUTCOME = "openvla_ros.outcome"  # the metadata record written last
_NAME = re.compile(r"^episode_(\d{6,})(\.[a-z]+)?$")


@dataclass(frozen=True)
class Recovered:
    """The result of recovering one unfinished episode."""

    folder: Path
    message_count: int
    last_ns: int  # receive stamp of the newest message that was saved
    damage: str | None  # why the rest could not be read, if not simply cut off


class Recordings:
    """One folder of episodes. Creates it if necessary; raises ``DatasetError`` if it cannot."""

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DatasetError(f"cannot create {root}: {error.strerror}") from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder for this process; raises ``DatasetError`` if another is recording into it."""
        path = self.root / ".lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise DatasetError(f"cannot write into {self.root}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise DatasetError(
                f"another process is recording into {self.root} (openvla up --record, or openvla record); "
                "stop it first, or choose another folder"
            ) from error
        try:
            yield
        finally:
            os.close(descriptor)

    def folders(self, suffix: str = "") -> list[Path]:
        """Return the episodes in the state that ``suffix`` names (finished: none), by number."""
        found = []
        for path in self.root.iterdir():
            match = _NAME.match(path.name)
            if match and (match[2] or "") == suffix and path.is_dir():
                found.append((int(match[1]), path))
        return [path for _, path in sorted(found)]

    def next_number(self) -> int:
        """Return the number after the highest one that any episode has, in whatever state."""
        names = (_NAME.match(path.name) for path in self.root.iterdir())
        return 1 + max((int(m[1]) for m in names if m and m[2] != DISCARDED), default=-1)

    @staticmethod
    def number(folder: Path) -> int:
        """Return the number in the name of an episode's folder, in whatever state."""
        match = _NAME.match(folder.name)
        if match is None:
            raise DatasetError(f"{folder} is not the folder of an episode")
        return int(match[1])

    def begin(self) -> Path:
        """Make the folder of the next episode, in state ``.recording``."""
        folder = self.root / f"episode_{self.next_number():06d}{RECORDING}"
        try:
            folder.mkdir()
        except OSError as error:
            raise DatasetError(f"cannot create {folder}: {error.strerror}") from error
        return folder

    def finish(self, folder: Path) -> Path:
        """Rename a closed episode to its final name; return it."""
        return self._rename(folder, self.root / folder.name.partition(".")[0])

    def discard(self, folder: Path) -> None:
        """Delete an episode, finished or not; its number is free again if it was the last."""
        doomed = self._rename(folder, self.root / (folder.name.partition(".")[0] + DISCARDED))
        shutil.rmtree(doomed)

    def recover(self) -> list[Recovered]:
        """Finish every unfinished episode with the messages that were flushed; needs the lock.

        An episode without any flushed message is removed. The unfinished folder is deleted only once the
        recovered one is complete, so this can be killed and repeated. A file that cannot be read at
        all is left as it is and listed in the result.
        """
        for leftover in (*self.folders(RECOVERING), *self.folders(DISCARDED)):
            shutil.rmtree(leftover)
        return [done for folder in self.folders(RECORDING) if (done := self._recover(folder))]

    def _recover(self, folder: Path) -> Recovered | None:
        final = self.root / folder.name.partition(".")[0]
        if final.exists():  # killed after the rename of the recovered one
            shutil.rmtree(folder)
            return None
        files = sorted(folder.glob("*.mcap"))
        if not files or files[0].stat().st_size == 0:
            shutil.rmtree(folder)
            return None
        try:
            file = McapFile(files[0])
        except DatasetError as error:
            return Recovered(folder, 0, 0, str(error))
        with file:
            damage = [*([file.damage] if file.damage else []), *file.drop_damaged_chunks()]
            if not any(len(file.times_ns(channel.id)) for channel in file.channels):
                if damage:
                    return Recovered(folder, 0, 0, "; ".join(damage))
                shutil.rmtree(folder)
                return None
            copy = final.with_name(final.name + RECOVERING)
            count, last = _rewrite(file, copy)
            self._rename(copy, final)
        shutil.rmtree(folder)
        return Recovered(final, count, last, "; ".join(damage) or None)

    def _rename(self, source: Path, target: Path) -> Path:
        if target.exists():
            raise DatasetError(f"{target} already exists; {source.name} is left as it is")
        try:
            source.rename(target)
            sync_folder(self.root)
        except OSError as error:
            raise DatasetError(f"cannot rename {source} to {target.name}: {error.strerror}") from error
        return target


def _rewrite(file: McapFile, folder: Path) -> tuple[int, int]:
    """Write what ``file`` holds into a finished bag; return its messages and the newest one's time."""
    writer: BagWriter | None = None
    try:
        writer = BagWriter(folder)
        return _copy(file, writer)
    except DatasetError as error:
        problem = str(error)  # the error itself would keep views into the file, and so the file, open
    if writer is not None:
        writer.abandon()
    shutil.rmtree(folder)  # room for what is recovered next; the original is untouched
    raise DatasetError(problem)


def _copy(file: McapFile, writer: BagWriter) -> tuple[int, int]:
    numbers = {}
    for channel in file.channels:
        qos = parse_qos(channel.metadata.get("offered_qos_profiles", ""))
        numbers[channel.id] = writer.add_topic(Topic(channel.topic, channel.type, channel.definition, qos))
    for name, values in file.metadata.items():
        if name != "rosbag2":
            writer.add_metadata(name, values)
    last = 0
    for message in file:
        writer.write(numbers[message.channel.id], message.data, message.log_ns, message.publish_ns)
        last = message.log_ns
    writer.flush()
    if OUTCOME not in file.metadata:
        writer.add_metadata(OUTCOME, {"outcome": "unknown", "recovered": "true", "ended_ns": str(last)})
    count = writer.message_count
    writer.close()
    return count, last
