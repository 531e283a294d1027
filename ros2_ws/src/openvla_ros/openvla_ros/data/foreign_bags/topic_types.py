"""Decoders of recorded topics, each by the definition that its own recording holds.

Where there is none (SQLite before Iron), the definition comes from the ROS installation or from ``rosbags``.
"""

from __future__ import annotations

from typing import Any

from rosbags.typesys import Stores, TypesysError, get_types_from_idl, get_types_from_msg, get_typestore

from openvla_ros.data.bags.cdr import Bytes, MessageDecoder
from openvla_ros.data.bags.message_definition import SEPARATOR, message_definition
from openvla_ros.data.foreign_bags.stored_message import RecordedTopic
from openvla_ros.errors import DatasetError


class TopicDecoder:
    """Decodes the messages of one topic; raises ``DatasetError`` if its type is known nowhere."""

    def __init__(self, topic: RecordedTopic) -> None:
        if topic.encoding != "cdr":
            raise DatasetError(f"{topic.name} is encoded as {topic.encoding!r}; only 'cdr' is supported")
        self.topic = topic
        self._decode = MessageDecoder({topic.type: definition_text(topic)})

    def __call__(self, data: Bytes) -> Any:
        """Return the message; raises ``DatasetError`` if it does not fit its type."""
        try:
            return self._decode(self.topic.type, data)
        except DatasetError as error:
            raise DatasetError(f"{self.topic.name}: {error}") from error


def definition_text(topic: RecordedTopic) -> str:
    """Return the definition of ``topic``'s type as a recording of ours holds it (``ros2msg``)."""
    try:
        match topic.definition_encoding:
            case "ros2msg" if topic.definition:
                get_types_from_msg(topic.definition, topic.type)
                return topic.definition
            case "ros2idl" if topic.definition:
                return _from_idl(topic)
    except (TypesysError, ValueError, KeyError, AssertionError) as error:
        raise DatasetError(f"{topic.name}: the definition of {topic.type} is not usable: {error}") from error
    return message_definition(topic.type)


def _from_idl(topic: RecordedTopic) -> str:
    store = get_typestore(Stores.EMPTY)
    heading = f"{SEPARATOR}\nIDL: "
    if topic.definition.startswith(heading):
        parts = [part.partition("\n")[2] for part in topic.definition.split(heading)[1:]]
    else:
        parts = [topic.definition]
    for part in parts:
        found = get_types_from_idl(part)
        store.register({name: fields for name, fields in found.items() if name not in store.types})
    return str(store.generate_msgdef(topic.type, ros_version=2)[0])
