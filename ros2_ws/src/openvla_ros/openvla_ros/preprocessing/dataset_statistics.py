"""Dataset statistics, the basis of every normalisation, in the published file format.

Reads and writes ``dataset_statistics.json`` and the ``norm_stats`` of a checkpoint's config, which
share one layout: dataset key → ``{"action": {...}, "proprio": {...}, "num_transitions",
"num_trajectories"}``. Knows nothing of tokens; ``action_tokens`` applies these numbers, and
``statistics_accumulator`` computes them from episodes.
"""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from openvla_ros.errors import StatisticsError
from openvla_ros.integrity.checksums import verify
from openvla_ros.values.action import ActionSpace
from openvla_ros.values.arrays import Bool, Float, read_only

logger = logging.getLogger(__name__)

STATISTICS = "dataset_statistics.json"
_REQUIRED = ("q01", "q99")
_OPTIONAL = ("mean", "std", "min", "max")  # inference never reads them; absent in some fine-tunes


@dataclass(frozen=True, eq=False)
class FieldStatistics:
    """The distribution of each dimension of an action or a proprioceptive state over all frames.

    A number that the checkpoint does not have, or that is not finite, is NaN. Decoding an action needs only
    the quantiles within the mask, which ``check_quantiles`` checks.
    """

    mean: Float  # (D,) in the units of the field, as all the arrays below
    std: Float  # (D,) population standard deviation
    min: Float  # (D,)
    max: Float  # (D,)
    q01: Float  # (D,) 1% quantile
    q99: Float  # (D,) 99% quantile
    mask: Bool  # (D,) true where the dimension is normalised; false for the gripper
    quantile_rank_error: float = (
        0.0  # largest error of a quantile's rank as a share of all frames; 0 is exact
    )

    def __post_init__(self) -> None:
        width = int(np.size(self.q01))
        object.__setattr__(self, "mask", _mask(self.mask, width))
        for name in (*_REQUIRED, *_OPTIONAL):
            object.__setattr__(self, name, _array(name, getattr(self, name), width))
        for low, high in (("q01", "q99"), ("min", "max")):
            reversed_ = np.flatnonzero(getattr(self, low) > getattr(self, high))
            if reversed_.size:
                raise StatisticsError(f"dimension {reversed_[0]}: {low} is larger than {high}")

    @property
    def width(self) -> int:
        """Number of dimensions."""
        return len(self.q01)

    @property
    def has_extremes(self) -> bool:
        """Whether ``min`` and ``max`` are known; normalising needs them, decoding does not."""
        return bool(np.isfinite(self.min).all() and np.isfinite(self.max).all())

    def check_quantiles(self) -> None:
        """Raise ``StatisticsError`` unless the quantiles of all normalised dimensions are known."""
        for name in _REQUIRED:
            unknown = np.flatnonzero(self.mask & np.isnan(getattr(self, name)))
            if unknown.size:
                raise StatisticsError(f"{name}[{unknown[0]}] is not a finite number, but it is needed")

    def check_space(self, space: ActionSpace, origin: str) -> None:
        """Raise ``StatisticsError`` unless these statistics have the width of ``space``."""
        if self.width != space.width:
            raise StatisticsError(
                f"{origin}: the action statistics have {self.width} dimensions, but the action space has "
                f"{space.width}: {', '.join(space.names)}"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the published layout of one field, without unknown values."""
        known = {name: getattr(self, name) for name in (*_OPTIONAL, *_REQUIRED)}
        out: dict[str, Any] = {
            name: [None if np.isnan(value) else value for value in values.tolist()]
            for name, values in known.items()
            if name in _REQUIRED or not np.isnan(values).any()
        }
        out["mask"] = self.mask.tolist()
        if self.quantile_rank_error > 0.0:
            out["quantile_rank_error"] = self.quantile_rank_error
        return out


@dataclass(frozen=True, eq=False)
class DatasetStatistics:
    """The statistics of one dataset; the counts are ``None`` if the checkpoint does not have them."""

    action: FieldStatistics
    proprio: FieldStatistics | None = None
    num_transitions: int | None = None  # frames over which the statistics were taken
    num_trajectories: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the published layout of one dataset."""
        out: dict[str, Any] = {"action": self.action.to_json()}
        if self.proprio is not None:
            out["proprio"] = self.proprio.to_json()
        for name in ("num_transitions", "num_trajectories"):
            if getattr(self, name) is not None:
                out[name] = getattr(self, name)
        return out

    def differences(self, other: DatasetStatistics) -> list[str]:
        """Return one line for each value that differs: its name, the value here, and the one in ``other``."""
        here, there = dict(_leaves(self.to_json())), dict(_leaves(other.to_json()))
        return [
            f"{name} is {here.get(name)} and {there.get(name)}"
            for name in {**here, **there}
            if here.get(name) != there.get(name)
        ]


def _leaves(data: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the value of everything in nested JSON values."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from _leaves(value, f"{name}.{key}" if name else key)
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from _leaves(value, f"{name}[{index}]")
    else:
        yield name, data


def mask_of(space: ActionSpace) -> Bool:
    """Return the normalisation mask (D,) of ``space``: all but the gripper's dimensions."""
    mask: Bool = np.array([not name.startswith("gripper") for name in space.names])
    return mask


def parse_norm_stats(
    norm_stats: Mapping[str, Any], origin: str = "norm_stats"
) -> dict[str, DatasetStatistics]:
    """Return the statistics of each dataset key in the published layout.

    A missing mask means that all dimensions are normalised. Top-level entries without ``action`` beside real
    ones are left out, which is logged once. Raises ``StatisticsError`` naming
    ``origin``, the dataset, the field and what is wrong.
    """
    if not isinstance(norm_stats, Mapping) or not norm_stats:
        raise StatisticsError(
            f"{origin}: expected a mapping of dataset keys to statistics, got {norm_stats!r}"
        )
    others = [
        key for key, value in norm_stats.items() if not (isinstance(value, Mapping) and "action" in value)
    ]
    if others and len(others) < len(norm_stats):
        _say_left_out(origin, ", ".join(map(str, others)))
        norm_stats = {key: value for key, value in norm_stats.items() if key not in others}
    return {key: _dataset(value, f"{origin}: {key}") for key, value in norm_stats.items()}


def read_statistics(path: str | Path) -> dict[str, DatasetStatistics]:
    """Return the statistics in a ``dataset_statistics.json``; raises ``StatisticsError``.

    Its checksum is verified first, if it has one: raises ``ChecksumError``.
    """
    if Path(path).is_file():
        verify(Path(path))
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StatisticsError(f"{path}: cannot read JSON statistics: {error}") from error
    return parse_norm_stats(data, str(path))


def write_statistics(path: str | Path, norm_stats: Mapping[str, DatasetStatistics]) -> None:
    """Write ``norm_stats`` as a ``dataset_statistics.json`` that the original code can read too."""
    data = {key: statistics.to_json() for key, statistics in norm_stats.items()}
    Path(path).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def select_statistics(
    norm_stats: Mapping[str, DatasetStatistics], unnorm_key: str | None
) -> tuple[str, DatasetStatistics]:
    """Return the dataset key to decode with, and its statistics.

    ``None`` is allowed only if there is exactly one dataset. Raises ``StatisticsError`` listing the keys.
    """
    choices = ", ".join(norm_stats) or "none"
    if unnorm_key is None:
        if len(norm_stats) == 1:
            return next(iter(norm_stats.items()))
        raise StatisticsError(
            f"the checkpoint has statistics of {len(norm_stats)} datasets: give an unnorm_key; "
            f"the choices are {choices}"
        )
    if unnorm_key not in norm_stats:
        near = difflib.get_close_matches(unnorm_key, norm_stats, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise StatisticsError(
            f"no statistics for unnorm_key {unnorm_key!r} in the checkpoint{hint}; the choices are {choices}"
        )
    return unnorm_key, norm_stats[unnorm_key]


@cache
def _say_left_out(origin: str, names: str) -> None:
    logger.warning("%s: not the statistics of a dataset, left out: %s", origin, names)


def _dataset(data: Any, origin: str) -> DatasetStatistics:
    if not isinstance(data, Mapping) or "action" not in data:
        raise StatisticsError(f"{origin}: expected a mapping with the key 'action', got {_keys(data)}")
    proprio = data.get("proprio")
    action = _field(data["action"], f"{origin}: action")
    try:
        action.check_quantiles()
    except StatisticsError as error:
        raise StatisticsError(f"{origin}: action: {error}") from error
    return DatasetStatistics(
        action=action,
        proprio=None if proprio is None else _field(proprio, f"{origin}: proprio"),
        num_transitions=_count(data, "num_transitions", origin),
        num_trajectories=_count(data, "num_trajectories", origin),
    )


def _field(data: Any, origin: str) -> FieldStatistics:
    missing = [name for name in _REQUIRED if not isinstance(data, Mapping) or name not in data]
    if missing:
        raise StatisticsError(f"{origin}: {' and '.join(missing)} missing; it has {_keys(data)}")
    width = int(np.size(data["q01"]))
    unknown = np.full(width, np.nan)
    mask = data.get("mask")
    try:
        return FieldStatistics(
            **{name: data[name] for name in _REQUIRED},
            **{name: unknown if data.get(name) is None else data[name] for name in _OPTIONAL},
            mask=np.ones(width, dtype=np.bool_) if mask is None else np.asarray(mask),
            quantile_rank_error=float(data.get("quantile_rank_error", 0.0)),
        )
    except (ValueError, TypeError) as error:
        raise StatisticsError(f"{origin}: {error}") from error


def _count(data: Mapping[str, Any], name: str, origin: str) -> int | None:
    value = data.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise StatisticsError(f"{origin}: {name} is {value!r}; it must be a whole number of at least 0")
    return value


def _mask(value: Any, width: int) -> Bool:
    """Return booleans (D,), from booleans or from 0 and 1 as the original code accepts them."""
    given = np.asarray(value)
    mask = (
        given.astype(np.bool_) if given.dtype.kind in "iuf" and np.isin(given, (0, 1)).all() else given.copy()
    )
    if mask.dtype != np.bool_ or mask.shape != (width,):
        raise StatisticsError(f"mask {given.tolist()} must be {width} booleans, or 0 and 1")
    return read_only(mask)


def _array(name: str, value: Any, width: int) -> Float:
    """Return values (D,); what is not finite becomes NaN: unknown."""
    array = np.array(value, dtype=np.float64)
    if array.shape != (width,):
        raise StatisticsError(f"{name} has shape {array.shape}; it must be ({width},)")
    array[~np.isfinite(array)] = np.nan
    return read_only(array)


def _keys(data: Any) -> str:
    return ", ".join(map(str, data)) if isinstance(data, Mapping) else repr(data)
