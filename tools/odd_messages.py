"""Unusual but legal messages of any ROS type, which a node must survive.

Every value comes from one seeded generator. Half of the messages are filled field by field with anything that
the field's type allows: empty and absurdly long arrays and strings, NaN and infinities, the integer limits,
stamps before 1970, of zero and in the future. The other half of the joint states, trajectories and images
look right at first sight: the robot's own names, with one thing wrong.

No message requests motion: an executable trajectory or chunk is never made.
"""

from __future__ import annotations

import array
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

LIMITS = {f"{sign}int{bits}": bits for sign in ("", "u") for bits in (8, 16, 32, 64)}
FLOATS = (0.0, -0.0, 1.0, -1.0, float("nan"), float("inf"), -float("inf"), 1e300, -1e-300, 1e9)
# Lengths of arrays and strings: mostly short, some absurd.
LENGTHS = (0, 0, 1, 2, 3, 7, 100)
ABSURD = (5_000, 20_000)
TEXTS = (
    "",
    " ",
    "\n",
    "\x00",
    "a" * 300,
    "ä\u202e😀",
    "NaN",
    "-1",
    "{}",
    "../../etc",
    "%s%n",
    "lift the red cube",
)
SEQUENCE = re.compile(r"sequence<(.+?)(?:, (\d+))?>|(.+)\[(\d+)\]")


@dataclass(frozen=True)
class Robot:
    """The names of one robot, for messages that look right at first sight."""

    joints: tuple[str, ...]  # of the arm
    finger: str
    names: tuple[str, ...]  # of an action's dimensions
    frame_id: str  # of an action
    still: tuple[float, ...]  # (J,) rad, where the arm is


class OddMessages:
    """Makes messages; the same seed gives the same messages (except stamps near now)."""

    def __init__(self, seed: int, robot: Robot) -> None:
        self._rng = np.random.default_rng(seed)
        self._robot = robot

    def make(self, kind: type) -> Any:
        """Return a message of the class ``kind``."""
        nearly = self._nearly_right().get(kind.__name__)
        if nearly is not None and self._rng.random() < 0.5:
            return nearly(kind)
        message = self._fill(kind, absurd=self._rng.random() < 0.05)
        if kind.__name__ == "Joy":
            message.buttons = [0] * len(message.buttons)  # nobody holds the dead man's switch
        return message

    # Any type

    def _fill(self, kind: type, absurd: bool = False, depth: int = 0) -> Any:
        message = kind()
        if kind.__name__ == "Time":
            message.sec, message.nanosec = self._time()
            return message
        for name, type_name in kind.get_fields_and_field_types().items():
            setattr(message, name, self._value(type_name, absurd, depth))
        return message

    def _value(self, type_name: str, absurd: bool, depth: int) -> Any:
        found = SEQUENCE.fullmatch(type_name)
        if found is not None:
            bound = found[2] or found[4]
            fixed = int(found[4]) if found[4] else None
            length = (
                fixed if fixed is not None else self._length(absurd, depth, int(bound) if bound else None)
            )
            return self._array(found[1] or found[3], length, depth)
        return self._single(type_name, absurd, depth)

    def _array(self, item: str, length: int, depth: int) -> Any:
        if item in ("octet", "byte"):
            return [bytes([int(v)]) for v in self._rng.integers(0, 256, length)]
        if item in ("uint8", "char"):
            return array.array("B", self._rng.integers(0, 256, length, dtype=np.uint8).tobytes())
        one = self._single(item, False, depth + 1)
        # A long array of one value: making each element separately would take longer than sending it.
        values = [self._single(item, False, depth + 1) for _ in range(min(length, 20))]
        return values + [one] * (length - len(values))

    def _single(self, name: str, absurd: bool, depth: int) -> Any:
        if name == "boolean":
            return bool(self._rng.integers(2))
        if name in ("octet", "byte"):
            return bytes([int(self._rng.integers(256))])
        if name in ("float", "double"):
            value = float(self._rng.choice(FLOATS))
            return value if name == "double" or abs(value) < 3e38 or not np.isfinite(value) else 3e38
        if name.startswith(("string", "wstring")):
            return self._text(absurd)
        if name in LIMITS:
            bits = LIMITS[name]
            low, high = (0, 2**bits - 1) if name[0] == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
            return int([low, high, max(low, -1), 0, 1, min(high, 7)][self._rng.integers(6)])
        return self._fill(_nested(*name.split("/")), absurd, depth + 1)

    def _length(self, absurd: bool, depth: int, bound: int | None) -> int:
        choices = ABSURD if absurd and depth < 1 else LENGTHS if depth < 2 else LENGTHS[:4]
        length = int(self._rng.choice(choices))
        return length if bound is None else min(length, bound)

    def _text(self, absurd: bool) -> str:
        if absurd and self._rng.random() < 0.3:
            return "word " * 50_000
        words = (*TEXTS, *self._robot.joints, *self._robot.names, self._robot.frame_id)
        return words[self._rng.integers(len(words))]

    def _time(self) -> tuple[int, int]:
        now_s = int(time.time())
        seconds = (0, 1, -1, -(2**31), 2**31 - 1, now_s, now_s - 1, now_s + 1, now_s + 3600)
        return seconds[self._rng.integers(len(seconds))], int(
            self._rng.choice((0, 1, 999_999_999, 2**32 - 1))
        )

    # Right at first sight

    def _nearly_right(self) -> dict[str, Callable[[type], Any]]:
        return {
            "JointState": self._joint_state,
            "JointTrajectory": self._trajectory,
            "Image": self._image,
        }

    def _joint_state(self, kind: type) -> Any:
        robot, rng = self._robot, self._rng
        names = [*robot.joints, robot.finger]
        message = kind(name=names, position=[*robot.still, 0.03])
        match rng.integers(9):
            case 0:
                message = kind(name=[robot.finger], effort=[0.1])
            case 1:
                message.position = []
            case 2:
                message.position = message.position[:-1]
            case 3:
                message.position[int(rng.integers(len(names)))] = float("nan")
            case 4:
                message.name = [*names, names[0]]
                message.position = [*message.position, 9.0]
            case 5:
                message = kind(name=["left_wheel", "mast"], position=[float("nan"), 1.0])
            case 6:
                message.velocity = [float("inf")] * len(names)
            case 7:
                message.effort = [1.0]
            case 8:
                message.name = names * 3000
        message.header.stamp.sec, message.header.stamp.nanosec = self._time()
        return message

    def _trajectory(self, kind: type) -> Any:
        """A chunk or a trajectory of the arm that cannot be executed."""
        robot, rng = self._robot, self._rng
        chunk = bool(rng.integers(2))
        names, row = (robot.names, [0.0] * len(robot.names)) if chunk else (robot.joints, list(robot.still))
        point_type = import_module("trajectory_msgs.msg").JointTrajectoryPoint
        point = point_type(positions=row)
        point.time_from_start.nanosec = 200_000_000
        message = kind(joint_names=list(names), points=[point])
        message.header.frame_id = robot.frame_id
        match rng.integers(9):
            case 0:
                return kind()
            case 1:
                message.points = []
            case 2:
                point.positions = row[:-1]
            case 3:
                point.positions[int(rng.integers(len(row)))] = float(rng.choice([np.nan, np.inf, -np.inf]))
            case 4:
                message.joint_names = [names[0]] * len(names)
            case 5:
                message.joint_names = [f"name_{i}" for i in range(20_000)]
            case 6:
                message.points = [point_type()] * 5_000
            case 7:
                message.joint_names, point.positions = [], []
            case 8:
                point.velocities, point.accelerations = [float("nan")], [1.0] * 500
                message.points = [point, point]
        message.header.stamp.sec, message.header.stamp.nanosec = self._time()
        return message

    def _image(self, kind: type) -> Any:
        rng = self._rng
        data = array.array("B", bytes(64 * 64 * 3))
        message = kind(height=64, width=64, step=192, encoding="rgb8", data=data)
        match rng.integers(6):
            case 0:
                message.data = array.array("B")
            case 1:
                message.height = 2**32 - 1
            case 2:
                message.step = 0
            case 3:
                message.encoding = str(rng.choice(["", "64FC4", "bayer_rggb8", "yuv422", "rgb8 "]))
            case 4:
                message.data = array.array("B", bytes(3_000_000))
            case 5:
                message.width = 0
        message.header.stamp.sec, message.header.stamp.nanosec = self._time()
        return message


def _nested(package: str, name: str) -> type:
    """Return the class of a field's type; those of an action are named ``Action_Goal``."""
    action, _, part = name.rpartition("_")
    found: type = (
        getattr(getattr(import_module(f"{package}.action"), action), part)
        if action
        else getattr(import_module(f"{package}.msg"), name)
    )
    return found
