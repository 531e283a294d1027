"""Dataset statistics, the basis of every normalisation, in the published file format.

Reads and writes ``dataset_statistics.json`` and the ``norm_stats`` of a checkpoint's config, which
share one layout: dataset key → ``{"action": {...}, "proprio": {...}, "num_transitions",
"num_trajectories"}``. Knows nothing of tokens; ``action_tokens`` applies these numbers, and
``statistics_accumulator`` computes them from episodes.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from openvla_ros.errors import InvalidValueError, StatisticsError
from openvla_ros.integrity.checksums import verify
from openvla_ros.values.action import ActionSpace
from openvla_ros.values.arrays import Bool, Float, float_array, read_only

_REQUIRED = ("q01", "q99")
_OPTIONAL = ("mean", "std", "min", "max")  # inference never reads them; absent in some fine-tunes


@dataclass(frozen=True, eq=False)
class FieldStatistics:
    """The distribution of each dimension of an action or a proprioceptive state over all frames.

    ``mean``, ``std``, ``min`` and ``max`` are NaN if the checkpoint does not have them: decoding an action
    needs only the quantiles and the mask.
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
        for name in _REQUIRED:
            object.__setattr__(self, name, _array(name, getattr(self, name), width))
        for name in _OPTIONAL:
            object.__setattr__(self, name, _array(name, getattr(self, name), width, may_be_unknown=True))
        mask = np.array(self.mask)
        if mask.dtype != np.bool_ or mask.shape != (width,):
            raise StatisticsError(f"mask {mask.tolist()} must be {width} booleans")
        object.__setattr__(self, "mask", read_only(mask))
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
        return not (np.isnan(self.min).any() or np.isnan(self.max).any())

    def check_space(self, space: ActionSpace, origin: str) -> None:
        """Raise ``StatisticsError`` unless these statistics have the width of ``space``."""
        if self.width != space.width:
            raise StatisticsError(
                f"{origin}: the action statistics have {self.width} dimensions, but the action space has "
                f"{space.width}: {', '.join(space.names)}"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the published layout of one field, without unknown values."""
        names = (*_OPTIONAL, *_REQUIRED)
        out: dict[str, Any] = {
            name: values.tolist() for name in names if not np.isnan(values := getattr(self, name)).any()
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


def mask_of(space: ActionSpace) -> Bool:
    """Return the normalisation mask (D,) of ``space``: all but the gripper's dimensions."""
    mask: Bool = np.array([not name.startswith("gripper") for name in space.names])
    return mask


def parse_norm_stats(
    norm_stats: Mapping[str, Any], origin: str = "norm_stats"
) -> dict[str, DatasetStatistics]:
    """Return the statistics of each dataset key in the published layout.

    A missing mask means that all dimensions are normalised. Raises ``StatisticsError`` naming
    ``origin``, the dataset, the field and what is wrong.
    """
    if not isinstance(norm_stats, Mapping) or not norm_stats:
        raise StatisticsError(
            f"{origin}: expected a mapping of dataset keys to statistics, got {norm_stats!r}"
        )
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


def _dataset(data: Any, origin: str) -> DatasetStatistics:
    if not isinstance(data, Mapping) or "action" not in data:
        raise StatisticsError(f"{origin}: expected a mapping with the key 'action', got {_keys(data)}")
    proprio = data.get("proprio")
    return DatasetStatistics(
        action=_field(data["action"], f"{origin}: action"),
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


def _array(name: str, value: Any, width: int, *, may_be_unknown: bool = False) -> Float:
    array = np.asarray(value, dtype=np.float64)
    if may_be_unknown and array.shape == (width,) and np.isnan(array).all():
        return read_only(array.copy())
    try:
        return float_array(name, array, (width,))
    except InvalidValueError as error:
        raise StatisticsError(str(error)) from error


def _keys(data: Any) -> str:
    return ", ".join(map(str, data)) if isinstance(data, Mapping) else repr(data)
