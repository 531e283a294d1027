"""The action space in a robot profile, and the check that it is one that the controller carries out.

The part ``action_space`` of ``RobotProfile``. docs/action_spaces.md describes every kind.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic.dataclasses import dataclass

from openvla_ros.driver_profile import STRICT, Metres, Positive, Radians
from openvla_ros.values.action import ActionKind, ActionSpace, Frame
from openvla_ros.values.action_dimensions import DELTA_NAMES, dimension_names, dimension_units
from openvla_ros.values.rotation_numbers import RotationConvention

# The largest bound of one step, by its unit: beyond it, the bounds are in another unit.
LARGEST_STEP = {"m": 1.0, "rad": 3.1416, "1": 1.0}
# The same for values that are targets themselves: reach, two turns, and columns that are not normalised.
LARGEST_TARGET = {"m": 10.0, "rad": 12.57, "1": 2.0}
_STEP_KEYS = ("largest_step_m", "largest_step_rad")


@dataclass(frozen=True, config=STRICT)
class ActionProfile:
    """The action space, as written in the profile file."""

    names: tuple[str, ...]
    units: tuple[str, ...]
    frame: Frame
    rotation: RotationConvention  # none: joints
    gripper_open: Literal[0, 1]
    lower: tuple[float, ...]  # smallest value of each dimension
    upper: tuple[float, ...]
    rate_hz: Positive
    kind: ActionKind = "tool_delta"  # what an action says: see docs/action_spaces.md
    # For ``tool_pose``: how far a target may be from the one before; a farther one is refused.
    largest_step_m: Metres | None = None
    # For ``tool_pose`` (angle of the rotation) and ``joint_position`` (each joint; a slide in metres).
    largest_step_rad: Radians | None = None

    def space(self) -> ActionSpace:
        """Return the action space; raises ``InvalidValueError`` if it contradicts itself."""
        return ActionSpace(
            names=self.names, units=self.units, frame=self.frame, rotation=self.rotation,
            rate_hz=self.rate_hz, gripper_open=float(self.gripper_open), lower=np.array(self.lower),
            upper=np.array(self.upper), kind=self.kind,
        )  # fmt: skip


def check_actions(
    actions: ActionProfile,
    joints: tuple[str, ...],
    joint_lower: tuple[float, ...],
    joint_upper: tuple[float, ...],
) -> None:
    """Check that the action space is one that the controller carries out, whatever the labels say.

    ``joints`` are the arm's, and the others their limits. Raises ``ValueError`` naming the key and the value.
    """
    _check_meaning(actions, joints)
    _check_bounds(actions)
    _check_steps(actions)
    if actions.kind != "joint_position":
        return
    for name, low, high, least, most in zip(
        joints, actions.lower, actions.upper, joint_lower, joint_upper, strict=False
    ):
        if low < least or high > most:
            raise ValueError(
                f"action_space.lower and upper are {low:g} .. {high:g} for {name}; limits.joint_lower and "
                f"joint_upper allow {least:g} .. {most:g}"
            )


def _check_meaning(actions: ActionProfile, joints: tuple[str, ...]) -> None:
    kind, rotation = actions.kind, actions.rotation
    if kind == "joint_position" and joints == DELTA_NAMES[:-1]:
        raise ValueError(
            f"action_space.kind is {kind}, and the joints are called {list(joints)} like the dimensions of "
            "tool_delta: a chunk of one would be taken for the other; use another kind"
        )
    # Which joint slides, the URDF knows; the controller compares the units with it.
    stated = actions.units[: len(joints)]
    slides = tuple("m" if unit == "m" else "rad" for unit in stated)
    joint_units = slides + ("rad",) * (len(joints) - len(slides))
    for key, needed in (
        ("names", dimension_names(kind, rotation, joints)),
        ("units", dimension_units(kind, rotation, joint_units)),
    ):
        if getattr(actions, key) != needed:
            raise ValueError(
                f"action_space.{key} are {list(getattr(actions, key))}; the controller carries out "
                f"{list(needed)}, in this order"
            )


def _check_bounds(actions: ActionProfile) -> None:
    absolute = actions.kind in ("tool_pose", "joint_position")
    largest, what = (LARGEST_TARGET, "a target") if absolute else (LARGEST_STEP, "one step")
    for key in ("lower", "upper"):
        for name, unit, value in zip(actions.names, actions.units, getattr(actions, key), strict=True):
            most = 1.0 if name == actions.names[-1] else largest[unit]
            if abs(value) > most:
                raise ValueError(
                    f"action_space.{key} is {value:g} for {name}; {what} is in {unit} and at most {most:g}"
                )


def _check_steps(actions: ActionProfile) -> None:
    needed = {"tool_pose": _STEP_KEYS, "joint_position": _STEP_KEYS[1:]}.get(actions.kind, ())
    for key in _STEP_KEYS:
        value = getattr(actions, key)
        if value is None and key in needed:
            raise ValueError(
                f"action_space.{key} is missing: {actions.kind} actions are targets, and a target farther "
                "than that from the one before is refused"
            )
        if value is not None and key not in needed:
            raise ValueError(f"action_space.{key} is {value:g}; {actions.kind} actions have no such limit")
