"""Calls of a service, from the events that service introspection publishes and rosbag2 records.

The topic ``<service>/_service_event`` carries for each call up to four events (request sent and received,
response sent and received; service_msgs/ServiceEventInfo). Their beginning is the same for every service
and is read straight from the bytes, since recordings hold no definition of these types. Request and
response are there only where the service was set to publish contents; the two of std_srvs are read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from openvla_ros.data.foreign_bags.stored_message import RecordedTopic
from openvla_ros.errors import DatasetError

EVENTS = "/_service_event"
_SET_BOOL = "std_srvs/srv/SetBool_Event"
_WITH_SUCCESS = (_SET_BOOL, "std_srvs/srv/Trigger_Event")
# Behind the encapsulation (4 bytes): kind, stamp, the client's id (16 bytes), number of the call.
_INFO = "4x B3x iI 16s 4x q"
_INFO_SIZE = struct.calcsize("<" + _INFO)


@dataclass(frozen=True)
class ServiceCall:
    """One call: when it was made first, what it asked for, and whether it succeeded."""

    received_ns: int
    value: bool | None  # of SetBool's request, None where the service has none or did not publish it
    success: bool | None  # None: not recorded


def event_topic(service: str) -> str:
    """Return the topic that a service's calls are recorded on."""
    return service if service.endswith(EVENTS) else service.rstrip("/") + EVENTS


def read_calls(topic: RecordedTopic, events: Iterable[tuple[int, bytes]]) -> list[ServiceCall]:
    """Return the calls in ``events`` (receipt, message), in order.

    Raises ``DatasetError`` if one is cut off, or lacks what says whether it begins or ends something.
    """
    calls: dict[tuple[bytes, int], ServiceCall] = {}
    for received_ns, data in events:
        order = "<" if data[1] & 1 else ">"
        try:
            _, _, _, client, number = struct.unpack_from(order + _INFO, data)
            value, success = _contents(topic.type, data, order)
        except (struct.error, IndexError) as error:
            raise DatasetError(f"{topic.name}: an event of {len(data)} bytes is cut off") from error
        known = calls.get((client, number), ServiceCall(received_ns, None, None))
        calls[(client, number)] = ServiceCall(
            min(known.received_ns, received_ns),
            known.value if value is None else value,
            known.success if success is None else success,
        )
    if topic.type == _SET_BOOL and any(call.value is None for call in calls.values()):
        raise DatasetError(
            f"{topic.name}: its events were published without contents, which say whether a call begins or "
            "ends something; service introspection must be set to 'contents' while recording"
        )
    return sorted(calls.values(), key=lambda call: call.received_ns)


def _contents(kind: str, data: bytes, order: str) -> tuple[bool | None, bool | None]:
    """Return the request's value and the response's success, where the event carries them."""
    if kind not in _WITH_SUCCESS:
        return None, None
    position = _INFO_SIZE
    value: bool | None = None
    (requests,) = struct.unpack_from(f"{order}I", data, position)
    position += 4
    if requests:  # at most one; Trigger's request is one byte that means nothing
        value = bool(data[position]) if kind == _SET_BOOL else None
        position += 1
    position += -position % 4
    (responses,) = struct.unpack_from(f"{order}I", data, position)
    return value, bool(data[position + 4]) if responses else None
