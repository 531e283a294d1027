"""Actions: the meaning of each number (``ActionSpace``), and a sequence of them (``ActionChunk``).

Knows nothing of messages, models or robots. The whole path uses these values: a policy returns chunks, the
codec and the statistics are checked against the space, the controller refuses a chunk of another space.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

from openvla_ros.errors import InvalidValueError
from openvla_ros.values.arrays import Float, float_array
from openvla_ros.values.rotation_numbers import ROTATION_NAMES, RotationConvention

ActionKind = Literal["tool_delta", "tool_pose", "joint_delta", "joint_position"]
Frame = Literal["base", "tool"]
_UNIT = re.compile(r"(?:(\d+(?:\.\d+)?) )?(?:m|rad)$")  # "m", or "0.075 m" where 1 stands for that much
# Which rotation conventions the actions of each kind may have; joints have none.
ROTATIONS: dict[ActionKind, tuple[RotationConvention, ...]] = {
    "tool_delta": ("euler_xyz", "rotation_vector"),
    "tool_pose": ("matrix", "quaternion_xyzw", "rotation_vector", "rotation_6d", "euler_xyz"),
    "joint_delta": ("none",),
    "joint_position": ("none",),
}


@dataclass(frozen=True, eq=False)
class ActionSpace:
    """The meaning of an action: names, units, frame, rotation convention, gripper sign, bounds, rate.

    ``kind`` says what the dimensions before the last are; the last is the absolute gripper opening.

    - ``tool_delta``: a translation (3) and a rotation (3) relative to the previous commanded target.
      ``frame`` defines the axes: the robot's base (BridgeData V2) or the tool. The rotation is about the
      tool point.
    - ``tool_pose``: the tool's position (3) and rotation (3, 4, 6 or 9 numbers) in the base frame.
    - ``joint_delta``: a change of each joint relative to the previous commanded target.
    - ``joint_position``: a position of each joint.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    frame: Frame
    rotation: RotationConvention
    gripper_open: float  # the command that opens the gripper: 1 (BridgeData V2) or 0 (DROID)
    lower: Float  # (D,) smallest command of one step, in the units above
    upper: Float  # (D,) largest command of one step
    rate_hz: float  # action rate, Hz
    kind: ActionKind = "tool_delta"

    def __post_init__(self) -> None:
        width = len(self.names)
        if len(set(self.names)) != width or len(self.units) != width:
            raise InvalidValueError(
                f"action names {self.names} must be unique, with one unit each: {self.units}"
            )
        object.__setattr__(self, "lower", float_array("action lower bound", self.lower, (width,)))
        object.__setattr__(self, "upper", float_array("action upper bound", self.upper, (width,)))
        if np.any(self.lower >= self.upper):
            raise InvalidValueError(f"action bounds {self.lower} .. {self.upper} are empty or reversed")
        if self.gripper_open not in (0.0, 1.0):
            raise InvalidValueError(f"gripper_open is {self.gripper_open}; it must be 0 or 1")
        if not 0.0 < self.rate_hz <= 1000.0:
            raise InvalidValueError(f"action rate is {self.rate_hz} Hz; it must lie within 0 .. 1000")
        self._check_kind()

    def _check_kind(self) -> None:
        if self.kind not in ROTATIONS:
            raise InvalidValueError(f"action kind is {self.kind!r}; it must be one of {', '.join(ROTATIONS)}")
        if self.rotation not in ROTATIONS[self.kind]:
            raise InvalidValueError(
                f"the rotation of {self.kind} actions is {self.rotation!r}; it must be one of "
                f"{', '.join(ROTATIONS[self.kind])}"
            )
        if self.kind == "tool_delta":
            return
        if self.frame != "base":
            raise InvalidValueError(f"the frame of {self.kind} actions is {self.frame!r}; it must be 'base'")
        needed = 3 + len(ROTATION_NAMES[self.rotation]) + 1
        if self.kind == "tool_pose" and self.width != needed:
            raise InvalidValueError(
                f"{self.kind} actions with rotation {self.rotation} have {needed} dimensions, gripper "
                f"included; the names are {self.names}"
            )

    @property
    def width(self) -> int:
        """Number of dimensions D."""
        return len(self.names)

    def describe(self) -> dict[str, object]:
        """Return the space as JSON values, by its attributes' names."""
        return {
            "names": list(self.names),
            "units": list(self.units),
            "frame": self.frame,
            "rotation": self.rotation,
            "gripper_open": self.gripper_open,
            "lower": self.lower.tolist(),
            "upper": self.upper.tolist(),
            "rate_hz": self.rate_hz,
            "kind": self.kind,
        }

    @property
    def step_s(self) -> float:
        """Seconds from one action to the next."""
        return 1.0 / self.rate_hz

    @property
    def is_absolute(self) -> bool:
        """Whether an action states a target itself, not a change of the target before it."""
        return self.kind in ("tool_pose", "joint_position")

    def check_kind(self, needed: ActionKind, what: str) -> None:
        """Raise ``InvalidValueError`` unless the actions are of the kind that ``what`` needs.

        Args:
            needed: The kind.
            what: Who needs it, as the message's subject.

        Raises:
            InvalidValueError: They are of another kind; names both.
        """
        if self.kind != needed:
            raise InvalidValueError(
                f"{what} needs {needed} actions; these are {self.kind} actions ({', '.join(self.names)})"
            )

    @property
    def si_factors(self) -> Float:
        """Metres or radians (6,) that 1 stands for in each motion dimension of ``tool_delta`` actions.

        Raises:
            InvalidValueError: A unit does not say: some datasets never published theirs. Or the actions are
                of another kind.
        """
        self.check_kind("tool_delta", "scaling by units")
        matches = [_UNIT.match(unit) for unit in self.units[:6]]
        for name, unit, match in zip(self.names, self.units, matches, strict=False):
            if match is None:
                raise InvalidValueError(
                    f"the unit of {name!r} is {unit!r}, which does not say how many metres or radians 1 is"
                )
        return np.array([float(match[1] or 1.0) for match in matches if match is not None])

    def opening(self, gripper: float) -> float:
        """Return the gripper opening for a gripper command of this space.

        The opening is g where ``gripper_open`` is 1, else 1 - g, with g clipped to 0 .. 1.

        Args:
            gripper: The last number of an action, g.

        Returns:
            0 (closed) .. 1 (open).
        """
        value = float(np.clip(gripper, 0.0, 1.0))
        return value if self.gripper_open == 1.0 else 1.0 - value

    def differences(self, other: ActionSpace) -> list[str]:
        """Return how ``other`` differs in what an action means.

        Bounds are not compared: the controller checks every chunk against its own.

        Args:
            other: The space to compare with.

        Returns:
            One line for each field that differs, with both values; empty if actions mean the same.
        """
        lines = []
        for name in ("kind", "names", "units", "frame", "rotation", "gripper_open", "rate_hz"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                lines.append(f"action_space.{name}: {mine!r} here, {theirs!r} there")
        return lines


@dataclass(frozen=True, eq=False)
class ActionChunk:
    """Consecutive actions computed from one observation, oldest first."""

    actions: Float  # (T, D) in the units of ``space``
    observation_stamp_ns: int  # header stamp of the newest image that the policy used
    space: ActionSpace
    probability: Float | None = None  # (T, D) probability of each chosen bin, 0..1
    entropy: Float | None = None  # (T, D) entropy of each bin distribution, nats

    def __post_init__(self) -> None:
        actions = float_array("actions", self.actions, (None, self.space.width))
        if not len(actions):
            raise InvalidValueError("an action chunk must contain at least one action")
        object.__setattr__(self, "actions", actions)
        for name in ("probability", "entropy"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, float_array(name, value, actions.shape))

    def __len__(self) -> int:
        return len(self.actions)
