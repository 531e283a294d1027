"""The messages of one ``.mcap`` file that other software wrote, compared with its checksums first.

One topic may have several channels (files that were merged). A file without an end, whose recorder was
killed, is read as far as it goes, and that is said.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from openvla_ros.data.bags.mcap_reader import ChannelInfo, McapFile
from openvla_ros.data.foreign_bags.recording_files import count_offers
from openvla_ros.data.foreign_bags.stored_message import RecordedTopic, StoredMessage
from openvla_ros.errors import DatasetError
from openvla_ros.integrity.checksums import verify


class McapPart:
    """One MCAP file, open for reading; raises ``DatasetError`` if it is damaged."""

    def __init__(self, path: Path, name: str, number: int) -> None:
        self.name, self._number = name, number
        bytes_verified = verify(path)
        self._file = McapFile(path)
        try:
            self.notes = self._verify(bytes_verified)
            self.topics = [self._topic(channel) for channel in self._file.channels]
        except DatasetError as error:
            problem = str(error).replace(str(path), name)  # the error would keep views into the file open
        else:
            return
        self._file.close()
        raise DatasetError(problem)

    def _verify(self, bytes_verified: bool) -> tuple[str, ...]:
        if self._file.damage or self._file.finished:
            self._file.verify(bytes_verified=bytes_verified)
            return ()
        damaged = self._file.drop_damaged_chunks()
        if damaged:
            raise DatasetError("; ".join(damaged))
        return (f"{self.name} is truncated (was its recorder killed?); it is read up to that point",)

    def _topic(self, channel: ChannelInfo) -> RecordedTopic:
        return RecordedTopic(
            channel.topic,
            channel.type,
            channel.definition_encoding,
            channel.definition,
            channel.encoding,
            len(self._file.times_ns(channel.id)),
            count_offers(channel.metadata.get("offered_qos_profiles", "")),
        )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def span_ns(self) -> tuple[int, int] | None:
        """The first and the last receipt of all topics; None if there is no message."""
        times = [t for channel in self._file.channels if len(t := self._file.times_ns(channel.id))]
        return (min(int(t[0]) for t in times), max(int(t[-1]) for t in times)) if times else None

    def messages(self, topics: Collection[str], start_ns: int, stop_ns: int) -> Iterator[StoredMessage]:
        """Yield the messages of ``topics`` received within ``start_ns`` .. ``stop_ns``, both included."""
        channels = [channel for channel in self._file.channels if channel.topic in topics]
        rows = heapq.merge(*(self._indices(channel, start_ns, stop_ns) for channel in channels))
        topic_of = {channel.id: channel.topic for channel in channels}
        for at_ns, channel, index in rows:
            found = self._file.message(channel, index)
            key = (self._number, channel, index)
            yield StoredMessage(topic_of[channel], key, at_ns, found.publish_ns, found.data)

    def _indices(self, channel: ChannelInfo, start_ns: int, stop_ns: int) -> Iterator[tuple[int, int, int]]:
        times = self._file.times_ns(channel.id)
        first, last = np.searchsorted(times, start_ns, "left"), np.searchsorted(times, stop_ns, "right")
        return ((int(times[i]), channel.id, i) for i in range(int(first), int(last)))
