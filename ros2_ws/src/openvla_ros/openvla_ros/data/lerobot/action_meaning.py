"""What the actions of a LeRobot dataset mean: written where every edit keeps it, and never guessed.

LeRobot's own tools keep every feature's entry in ``meta/info.json`` through delete, split, merge and the
rest, and refuse to merge datasets whose entries differ; columns of ``meta/episodes`` that they do not know
they drop. So the action space stands in the entry of ``action``, and how an episode ended in a column of its
frames, together with who commanded.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla_ros.data.episodes.episode_columns import space_from_json, space_to_json
from openvla_ros.data.episodes.profile_rate import rates_differ
from openvla_ros.data.lerobot.action_names import contradictions
from openvla_ros.data.lerobot.dataset_info import EXACT, Info
from openvla_ros.errors import DatasetError
from openvla_ros.values.action import ActionSpace
from openvla_ros.values.arrays import Bool, Float
from openvla_ros.values.episode import Outcome

VERSION = 1
MOTION_NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
FLAGS = "flags"  # column: one for a person's step; at the last frame the outcome besides, so never constant
_OUTCOMES: dict[int, Outcome] = {2: "unknown", 4: "failure", 6: "success"}
FLAGS_SAID = "1 where a person had taken over; added at the last frame: 2 unknown, 4 failure, 6 success"
_GRIPPER_TOLERANCE = 0.01
_RANGE_TOLERANCE = 0.1  # of a joint's range


def meaning_entry(space: ActionSpace) -> dict[str, Any]:
    """Return what the entry of ``action`` says beside LeRobot's own keys."""
    return {EXACT: {"version": VERSION, "action_space": space_to_json(space)}}


def noted_space(info: Info, key: str) -> ActionSpace | None:
    """Return the action space in the entry of feature ``key``, or None; raises ``DatasetError``."""
    entry = info.features.get(key, {}).get(EXACT)
    if entry is None:
        return None
    if entry.get("version") != VERSION:
        raise DatasetError(
            f"{info.path}: {EXACT} of feature {key!r} has version {entry.get('version')!r}; "
            f"this reads {VERSION}"
        )
    return space_from_json(entry["action_space"])


def foreign_space(info: Info, key: str, asked: ActionSpace | None, *, any_rate: bool) -> ActionSpace:
    """Return the space of actions that nobody described, at the dataset's own rate.

    ``asked`` is the robot profile's. Raises ``DatasetError`` if there is none and the names are not the
    usual seven, if the names contradict it, or, unless ``any_rate``, if its rate is not the dataset's.
    """
    names = info.names(key)
    if asked is None:
        if any(feature.startswith(f"{EXACT}.") for feature in info.features):
            raise DatasetError(
                f"{info.path}: this package's own dataset, whose description was lost when another tool "
                "edited it: units, rotation convention and gripper sign are unknown; give the robot profile "
                "that it was recorded with"
            )
        if names != MOTION_NAMES:
            raise DatasetError(
                f"{info.path}: the actions {names or 'without names'} are not {MOTION_NAMES}; give a robot "
                "profile whose action_space defines them"
            )
        return _named_space(info.rate_hz)
    lines = contradictions(names, info.name_groups(key), asked)
    if lines:
        raise DatasetError(
            f"{info.path}: {key} does not match the profile's action space ({', '.join(asked.names)}): "
            + "; ".join(lines)
        )
    if asked.rate_hz != info.rate_hz and not any_rate:
        raise DatasetError(f"{info.path}: {rates_differ(info.rate_hz, asked.rate_hz)}")
    return replace(asked, rate_hz=info.rate_hz)


def _named_space(rate_hz: float) -> ActionSpace:
    """Return the action space of the usual seven names: deltas in the base frame, gripper 1 open."""
    return ActionSpace(
        names=MOTION_NAMES,
        units=("m", "m", "m", "rad", "rad", "rad", "1"),
        frame="base",
        rotation="euler_xyz",
        gripper_open=1.0,
        lower=np.array([-1.0] * 3 + [-3.15] * 3 + [0.0]),
        upper=np.array([1.0] * 3 + [3.15] * 3 + [1.0]),
        rate_hz=rate_hz,
    )


def check_gripper(actions: Float, space: ActionSpace, origin: str) -> None:
    """Raise ``DatasetError`` if the gripper's commands (last of D) are no openings within 0 .. 1."""
    if actions.ndim != 2 or actions.shape[1] != space.width:
        raise DatasetError(
            f"{origin}: actions of shape {actions.shape}; the action space has {space.width} dimensions: "
            f"{', '.join(space.names)}"
        )
    low, high = float(actions[:, -1].min()), float(actions[:, -1].max())
    if low < -_GRIPPER_TOLERANCE or high > 1.0 + _GRIPPER_TOLERANCE:
        raise DatasetError(
            f"{origin}: the gripper's commands span {low:g} .. {high:g}; here they are openings within 0 .. 1"
        )


def check_joint_targets(actions: Float, space: ActionSpace, origin: str) -> None:
    """Raise ``DatasetError`` if joint targets (T, D) that nobody described are in another unit or scale.

    Degrees, or LeRobot's percent of each joint's range, lie far beyond the bounds of ``space``.
    """
    if space.kind != "joint_position":
        return
    slack = _RANGE_TOLERANCE * (space.upper - space.lower)
    beyond = np.flatnonzero(np.any((actions < space.lower - slack) | (actions > space.upper + slack), axis=0))
    if len(beyond):
        i = int(beyond[0])
        low, high = float(actions[:, i].min()), float(actions[:, i].max())
        raise DatasetError(
            f"{origin}: the targets of {space.names[i]} span {low:g} .. {high:g}; the profile's are within "
            f"{space.lower[i]:g} .. {space.upper[i]:g} {space.units[i]}: another unit, scale or arm"
        )


def flags_column(outcome: Outcome, intervention: Bool) -> NDArray[np.int64]:
    """Return the frames' column (T,) of an episode: who commanded, and how it ended."""
    column = intervention.astype(np.int64)
    column[-1] += next(code for code, name in _OUTCOMES.items() if name == outcome)
    return column


def read_flags(column: NDArray[Any], origin: str) -> tuple[Outcome, Bool]:
    """Return how an episode with this column (T,) ended, and where a person had taken over (T,).

    Raises ``DatasetError`` for a number that means nothing.
    """
    ended = column & ~1
    if ended[:-1].any() or int(ended[-1]) not in {0, *_OUTCOMES}:
        raise DatasetError(f"{origin}: {EXACT}.{FLAGS} has unknown values; the known ones are {FLAGS_SAID}")
    return _OUTCOMES.get(int(ended[-1]), "unknown"), (column & 1).astype(np.bool_)
