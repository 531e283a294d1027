"""Reads the configuration of an image transform, with errors that name the file, the key and the value.

A ``preprocessor_config.json`` is written by another program and contains more than is read here, so
unknown keys are allowed unless ``only`` is called. Knows nothing of pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from openvla_ros.errors import CheckpointError


@dataclass(frozen=True)
class ConfigFields:
    """A mapping of JSON values whose errors name its origin and the key."""

    data: Mapping[str, Any]
    origin: str

    def __post_init__(self) -> None:
        if not isinstance(self.data, Mapping):
            raise CheckpointError(f"{self.origin}: expected a mapping, got {self.data!r}")

    def error(self, key: str, problem: str) -> CheckpointError:
        """Return a ``CheckpointError`` about the value under ``key``."""
        return CheckpointError(f"{self.origin}: {key}: {problem}; the value is {self.data.get(key)!r}")

    def get(self, key: str) -> Any:
        """Return the value under ``key``; raises if it is missing."""
        if key not in self.data:
            raise CheckpointError(
                f"{self.origin}: {key} is missing; it has {', '.join(self.data) or 'no keys'}"
            )
        return self.data[key]

    def only(self, *keys: str) -> None:
        """Raise if there are keys other than ``keys``."""
        unknown = [key for key in self.data if key not in keys]
        if unknown:
            raise self.error(unknown[0], f"unknown key; the keys are {', '.join(keys)}")

    def rows(self, key: str) -> Sequence[Any]:
        """Return the list under ``key``; raises if it is empty or not a list."""
        value = self.get(key)
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            raise self.error(key, "expected a list with one entry for each vision tower")
        return value

    def saved(self, key: str, index: int, name: str) -> Any:
        """Return ``key[index][name]`` of the parameters that the processor saved, or None."""
        if self.data.get(key) is None:
            return None
        rows = self.rows(key)
        if index >= len(rows) or not isinstance(rows[index], Mapping):
            raise self.error(key, f"expected a mapping for vision tower {index}")
        return rows[index].get(name)

    def numbers(self, key: str, value: Any, count: int) -> tuple[float, ...]:
        """Return ``value`` as ``count`` finite floats; ``key`` names it in errors."""
        valid = isinstance(value, Sequence) and len(value) == count and all(map(_is_number, value))
        if not valid:
            raise self.error(key, f"expected {count} finite numbers, got {value!r}")
        return tuple(float(number) for number in value)

    def pixels(self, key: str, value: Any) -> int:
        """Return ``value`` as a whole number of pixels above 0; ``key`` names it in errors."""
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.error(key, f"expected a whole number of pixels, got {value!r}")
        return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and bool(np.isfinite(value))
