"""A message as a recording of others stores it, and what the recording says of its topic."""

from __future__ import annotations

from dataclasses import dataclass

Key = tuple[int, int, int]  # part, topic or channel in it, message: the place of a message in a recording


@dataclass(frozen=True)
class RecordedTopic:
    """One topic of a recording; ``definition`` is empty where the recording holds none."""

    name: str
    type: str  # package/msg/Type
    definition_encoding: str  # "ros2msg", "ros2idl"; "" or "unknown" without a definition
    definition: str
    encoding: str  # of its messages: "cdr"
    count: int
    publishers: int  # that the recorder knew of; 0 if it is not told


@dataclass(frozen=True)
class StoredMessage:
    """One serialised message."""

    topic: str
    key: Key
    received_ns: int
    sent_ns: int  # the same as ``received_ns`` where it is not stored
    data: bytes | memoryview
