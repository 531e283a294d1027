"""A folder of recorded episodes: numbering, the state of each episode (its suffix), and recovery.

``episode_000007`` is finished. ``episode_000007.recording`` is being written, or its writer was
killed; ``recover`` turns it into a finished one. Every change of state is a single rename, hence atomic.
Numbers count up and are never reused, except that of a discarded last episode. Knows nothing of ROS.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from openvla_ros.data.bags.mcap_reader import McapFile, Message
from openvla_ros.data.bags.rosbag2_writer import BagWriter, Topic, parse_qos, sync_folder
from openvla_ros.errors import DatasetError
from openvla_ros.integrity.folder_lock import locked

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
    was: str | None = None  # name of its unfinished folder, if another episode had its number

    def describe(self) -> str:
        """Return one line for a person."""
        moved = f" (from {self.was}: another episode has that number)" if self.was else ""
        damage = f" ({self.damage})" if self.damage else ""
        return f"{self.folder.name}: {self.message_count} messages{moved}{damage}"


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
        taken = (
            f"another process is recording into {self.root} (openvla up --record, or openvla record); "
            "stop it first, or choose another folder"
        )
        with locked(self.root, DatasetError, taken):
            yield

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
        recovered one is complete, so this can be killed and repeated. If another episode has the number, the
        next free one is taken. What cannot be read at all is left as it is and listed in the result.
        """
        for leftover in self.folders(DISCARDED):
            shutil.rmtree(leftover)
        for copy in self.folders(RECOVERING):
            self._remove_copy(copy)
        return [done for folder in self.folders(RECORDING) if (done := self._recover(folder))]

    def _remove_copy(self, copy: Path) -> None:
        """Delete what a killed recovery had written so far; if it is not a copy, it becomes a recording."""
        original = copy.with_suffix(RECORDING)
        if not original.exists():
            self._rename(copy, original)
        elif _is_torn(copy) or _is_part(copy, original):
            shutil.rmtree(copy)
        else:
            self._renumber(copy)

    def _renumber(self, folder: Path) -> Path:
        return self._rename(folder, self.root / f"episode_{self.next_number():06d}{RECORDING}")

    def _recover(self, folder: Path) -> Recovered | None:
        files = [path for path in sorted(folder.glob("*.mcap")) if path.stat().st_size]
        if not files:
            shutil.rmtree(folder)
            return None
        if files[1:]:
            return Recovered(folder, 0, 0, f"it has {len(files)} MCAP files; a recording has one")
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
            was, final = None, folder.with_suffix("")
            if final.exists():
                if _is_part(folder, final):  # killed after the rename of the recovered one
                    shutil.rmtree(folder)
                    return None
                was, folder = folder.name, self._renumber(folder)
                final = folder.with_suffix("")
            copy = final.with_suffix(RECOVERING)
            count, last = _rewrite(file, copy)
            self._rename(copy, final)
        shutil.rmtree(folder)
        return Recovered(final, count, last, "; ".join(damage) or None, was)

    def _rename(self, source: Path, target: Path) -> Path:
        if target.exists():
            raise DatasetError(f"{target} already exists; {source.name} is left as it is")
        try:
            source.rename(target)
            sync_folder(self.root)
        except OSError as error:
            raise DatasetError(f"cannot rename {source} to {target.name}: {error.strerror}") from error
        return target


def _is_torn(folder: Path) -> bool:
    """Return whether ``folder`` has no recording in it that can be opened."""
    try:
        with McapFile(_only_file(folder)):
            return False
    except DatasetError:
        return True


def _is_part(folder: Path, other: Path) -> bool:
    """Return whether ``other`` begins with all messages that can be read in ``folder``."""
    try:
        with McapFile(_only_file(folder)) as part, McapFile(_only_file(other)) as whole:
            part.drop_damaged_chunks()
            whole.drop_damaged_chunks()
            return all(mine is None or _same(mine, theirs) for mine, theirs in zip_longest(part, whole))
    except DatasetError:  # another kind of folder
        return False


def _only_file(folder: Path) -> Path:
    files = sorted(folder.glob("*.mcap"))
    if len(files) != 1:
        raise DatasetError(f"{folder} has {len(files)} MCAP files; a recording has one")
    return files[0]


def _same(mine: Message, theirs: Message | None) -> bool:
    return (
        theirs is not None
        and (mine.log_ns, mine.publish_ns) == (theirs.log_ns, theirs.publish_ns)
        and mine.channel.topic == theirs.channel.topic
        and mine.data == theirs.data
    )


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
