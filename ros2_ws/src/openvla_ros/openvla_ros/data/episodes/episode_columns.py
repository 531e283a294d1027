"""An episode as numeric columns and one JSON text, stored by every export alongside its own fields.

Formats fix names and float32 for the fields that learning code reads. These columns keep what
those fields cannot hold (nanosecond stamps, float64, interventions, the action space), so that an
import gives the same numbers. Images are not part of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from openvla_ros.errors import DatasetError
from openvla_ros.values.action import ActionSpace
from openvla_ros.values.episode import Episode, ImageSequence

Columns = dict[str, NDArray[Any]]

VERSION = 1
COLUMNS = ("stamp_ns", "action", "intervention", "joint_positions", "pose", "gripper")


def episode_columns(episode: Episode) -> Columns:
    """Return every number of ``episode`` as (T, …) arrays; a pose is its 16 numbers row by row."""
    columns: Columns = {
        "stamp_ns": episode.stamps_ns,
        "action": episode.actions,
        "intervention": episode.intervention,
    }
    if episode.joint_positions is not None:
        columns["joint_positions"] = episode.joint_positions
    if episode.poses is not None:
        columns["pose"] = episode.poses.reshape(len(episode), 16)
    if episode.gripper is not None:
        columns["gripper"] = episode.gripper
    return columns


def space_to_json(space: ActionSpace) -> dict[str, Any]:
    """Return ``space`` as plain values; deltas without their kind, which older versions do not know."""
    values = {field.name: getattr(space, field.name) for field in fields(space)}
    if space.kind == "tool_delta":
        del values["kind"]
    return {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in values.items()}


def space_from_json(values: Mapping[str, Any]) -> ActionSpace:
    """Return the action space of ``space_to_json``."""
    tuples = {name: tuple(values[name]) for name in ("names", "units")}
    return ActionSpace(**{**values, **tuples})


def episode_metadata(episode: Episode) -> str:
    """Return everything in ``episode`` that is not a column or an image, as JSON."""
    return json.dumps(
        {
            "version": VERSION,
            "id": episode.id,
            "instruction": episode.instruction,
            "rate_hz": episode.rate_hz,
            "outcome": episode.outcome,
            "cameras": list(episode.images),
            "provenance": dict(episode.provenance),
            "action_space": space_to_json(episode.space),
        },
        ensure_ascii=False,
    )


def parse_metadata(text: str, origin: str) -> dict[str, Any]:
    """Return the values of ``episode_metadata``; raises ``DatasetError`` naming ``origin``."""
    try:
        values = cast("dict[str, Any]", json.loads(text))
    except json.JSONDecodeError as error:
        raise DatasetError(f"{origin}: the episode's description is not JSON: {error}") from error
    if values.get("version") != VERSION:
        raise DatasetError(f"{origin}: description version {values.get('version')!r}; supported is {VERSION}")
    return values


def build_episode(
    metadata: Mapping[str, Any],
    columns: Columns,
    images: Mapping[str, ImageSequence],
    provenance: Mapping[str, str],
) -> Episode:
    """Return the episode of ``episode_metadata`` and ``episode_columns``.

    ``provenance`` is where it was read from; it is added to the episode's own, and overrides it.
    """
    pose = columns.get("pose")
    return Episode(
        id=metadata["id"],
        instruction=metadata["instruction"],
        space=space_from_json(metadata["action_space"]),
        rate_hz=metadata["rate_hz"],
        stamps_ns=columns["stamp_ns"],
        images=images,
        actions=columns["action"],
        joint_positions=columns.get("joint_positions"),
        poses=None if pose is None else np.asarray(pose).reshape(-1, 4, 4),
        gripper=columns.get("gripper"),
        intervention=columns["intervention"],
        outcome=metadata["outcome"],
        provenance={**metadata["provenance"], **provenance},
    )
