"""What an RLDS record says of itself outside its steps: where it came from, and its rate."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from openvla_ros.data.formats.tfds_features import Record
from openvla_ros.errors import DatasetError

EXACT = "openvla_ros"  # the group of exact columns in the steps, and of the description beside them
_GROUP = "episode_metadata/"
# What datasets call the steps in a second, without the unit that may follow.
_RATES = {"control_frequency", "control_freq", "control_rate", "control", "frequency", "fps", "rate", "hz"}
_TIMES = ("steps/observation/timestamp", "steps/timestamp")  # seconds
_EXACT = 0.01  # a rate that is written down, as a share
_NEAR = 0.2  # a rate measured by clocks
_POSSIBLE_S = (1e-3, 10.0)  # a step; what lies beyond is in another unit


def metadata(record: Record) -> dict[str, str]:
    """Return each text and number of ``record`` outside the steps; bytes that are not UTF-8 are escaped.

    What is in the group ``episode_metadata`` is called without it if it is the ``file_path``.
    """
    found = {}
    for path in record.outside_steps():
        if path == f"{_GROUP}{EXACT}":
            continue
        value = record.value(path)
        if isinstance(value, bytes):
            text = value.decode("utf-8", errors="backslashreplace")
        else:
            text = f"{value:g}" if isinstance(value, float) else str(value)
        found[path.removeprefix(_GROUP) if path == f"{_GROUP}file_path" else path] = text
    return found


def check_stated_rate(record: Record, found: Mapping[str, str], rate_hz: float, entry: str) -> None:
    """Raise ``DatasetError`` if the metadata ``found`` or the time column states another rate."""
    for path, text in found.items():
        if path.rpartition("/")[2].removesuffix("_hz") in _RATES:
            stated = _number(text)
            if stated is not None and abs(stated - rate_hz) > _EXACT * rate_hz:
                raise DatasetError(_contradiction(record.origin, f"{path} is {text}", rate_hz, entry))
    for path in _TIMES:
        if path in record and record.is_float(path):
            steps = np.diff(np.asarray(record.array(path), np.float64).reshape(-1))
            if not len(steps) or steps.min() <= 0.0:
                continue
            middle = float(np.median(steps))
            if _POSSIBLE_S[0] <= middle <= _POSSIBLE_S[1] and abs(middle * rate_hz - 1.0) > _NEAR:
                stated_text = f"{path} advances by {middle:.4g} s in a step, which is {1.0 / middle:.4g} Hz"
                raise DatasetError(_contradiction(record.origin, stated_text, rate_hz, entry))


def _contradiction(origin: str, stated: str, rate_hz: float, entry: str) -> str:
    return f"{origin}: {stated}; convention {entry} is for {rate_hz:g} Hz, and their deltas differ"


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if np.isfinite(value) and value > 0.0 else None
