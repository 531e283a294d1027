"""Our own protocol of remote policies: observations, chunks and action spaces as messages, and back.

Everything read goes through the usual validating constructors. ``message_codec`` makes bytes of the
messages. Each encoder is next to its decoder.
"""

from __future__ import annotations

import math
from typing import Any, get_args

from openvla_ros.errors import InvalidValueError
from openvla_ros.protocols.message_codec import Message
from openvla_ros.values.action import ActionChunk, ActionKind, ActionSpace, Frame
from openvla_ros.values.geometry import Pose
from openvla_ros.values.observation import Observation
from openvla_ros.values.rotation_numbers import RotationConvention
from openvla_ros.values.time import NS_PER_S

PROTOCOL = 2
# What our clients ask for in the handshake; any other websocket client is openpi's.
SUBPROTOCOL = f"openvla_ros.{PROTOCOL}"
# Five raw 1280x720 images; larger messages, of any protocol, are refused before they are read.
LARGEST_MESSAGE = 16 << 20
# What decoding untrusted data may raise: wrong keys, types, shapes, and out-of-range numbers.
UNFIT = (KeyError, TypeError, ValueError, OverflowError, AttributeError)
# Stamps of ROS: seconds are an int32.
FIRST_NS, LAST_NS = -(2**31) * NS_PER_S, 2**31 * NS_PER_S - 1


def observation_to_message(observation: Observation) -> Message:
    """Return ``observation`` as plain values and arrays."""
    pose = observation.pose
    return {
        "stamp_ns": observation.stamp_ns,
        "images": dict(observation.images),
        "instruction": observation.instruction,
        "joint_positions": observation.joint_positions,
        "pose": None if pose is None else pose.matrix,
        "gripper": observation.gripper,
    }


def observation_from_message(message: Message) -> Observation:
    """Return the observation in ``message``; raises ``InvalidValueError`` on anything else."""
    try:
        pose = message["pose"]
        return Observation(
            stamp_ns=_stamp(message["stamp_ns"]),
            images=dict(message["images"]),
            instruction=_text("instruction", message["instruction"]),
            joint_positions=message["joint_positions"],
            pose=None if pose is None else Pose.from_matrix(pose),
            gripper=None if message["gripper"] is None else _number("gripper", message["gripper"]),
        )
    except UNFIT as error:
        raise InvalidValueError(f"cannot decode the observation: {error!r}") from error


def chunk_to_message(chunk: ActionChunk) -> Message:
    """Return ``chunk`` as plain values and arrays; its space is sent once, in the greeting."""
    return {
        "actions": chunk.actions,
        "stamp_ns": chunk.observation_stamp_ns,
        "probability": chunk.probability,
        "entropy": chunk.entropy,
    }


def chunk_from_message(message: Message, space: ActionSpace) -> ActionChunk:
    """Return the chunk in ``message``; raises ``InvalidValueError`` if it is not one of ``space``."""
    try:
        return ActionChunk(
            actions=message["actions"],
            observation_stamp_ns=_stamp(message["stamp_ns"]),
            space=space,
            probability=message["probability"],
            entropy=message["entropy"],
        )
    except UNFIT as error:
        raise InvalidValueError(f"cannot decode the action chunk: {error!r}") from error


def space_to_message(space: ActionSpace) -> Message:
    """Return an action space as plain values and arrays."""
    return {
        "names": list(space.names), "units": list(space.units), "frame": space.frame,
        "rotation": space.rotation, "gripper_open": space.gripper_open, "lower": space.lower,
        "upper": space.upper, "rate_hz": space.rate_hz,
        # Peers that know only deltas do not know the key.
        **({} if space.kind == "tool_delta" else {"kind": space.kind}),
    }  # fmt: skip


def space_from_message(message: Message) -> ActionSpace:
    """Return the action space in ``message``; raises ``InvalidValueError`` on anything else."""
    try:
        fields = {
            key: tuple(_text(f"a word of {key}", word) for word in message[key]) for key in ("names", "units")
        }
        for key, choices in (
            ("frame", get_args(Frame)),
            ("rotation", get_args(RotationConvention)),
            ("kind", get_args(ActionKind)),
        ):
            if (value := message.get(key, "tool_delta") if key == "kind" else message[key]) not in choices:
                raise InvalidValueError(f"{key} is {value!r}; it must be one of {', '.join(choices)}")
        return ActionSpace(**{**message, **fields})
    except UNFIT as error:
        raise InvalidValueError(f"cannot decode the action space: {error!r}") from error


def _stamp(value: Any) -> int:
    """Return a stamp, nanoseconds; raises ``InvalidValueError`` if it is outside ROS's range."""
    if not isinstance(value, int) or isinstance(value, bool) or not FIRST_NS <= value <= LAST_NS:
        raise InvalidValueError(
            f"stamp_ns is {_shown(value)}; it must be whole nanoseconds within {FIRST_NS} .. {LAST_NS}"
        )
    return value


def _number(name: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise InvalidValueError(f"{name} is {_shown(value)}; it must be a finite number")
    return float(value)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidValueError(f"{name} is {_shown(value)}; it must be text")
    return value


def _shown(value: Any) -> str:
    """Return an untrusted value for an error message, shortened to one line."""
    return repr(value)[:80]
