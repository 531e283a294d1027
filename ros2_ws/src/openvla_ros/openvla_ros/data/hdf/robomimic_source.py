"""HDF5 datasets in robomimic's layout, read with h5py.

One file: ``data/demo_<n>/{actions, rewards, dones, states, obs/…}`` with ``num_samples`` on each
demonstration and ``total`` and ``env_args`` on ``data``
(https://robomimic.github.io/docs/datasets/overview.html). Files that this package wrote also carry
the exact columns; in others the actions must be robosuite's.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from openvla_ros.data.episodes.episode_columns import build_episode, parse_metadata
from openvla_ros.data.hdf.hdf5_images import Hdf5Frames, opened
from openvla_ros.data.hdf.robosuite_demonstration import DemonstrationReader
from openvla_ros.data.hdf.robosuite_environment import Environment
from openvla_ros.errors import DatasetError
from openvla_ros.values.episode import Episode

EXACT = "openvla_ros"


class RobomimicSource:
    """The demonstrations of one file in robomimic's layout."""

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self.path = path
        self._say = say
        with opened(path) as file:
            self._names = sorted(file["data"], key=demonstration_number)
            _check_total(file["data"], self._names, path)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Episode:
        """Return demonstration ``index`` with its images on disk."""
        name = self._names[index]
        origin = f"{self.path}:data/{name}"
        provenance = {"imported_format": "hdf5", "imported_path": origin}
        with opened(self.path) as file:
            demo = file[f"data/{name}"]
            _check_samples(demo, origin)
            if EXACT in demo:
                return self._exact(demo, origin, provenance)
            reader = DemonstrationReader(self.path, Environment.of(file["data"], self.path), self._say)
            return reader.read(demo, name, provenance)

    def _exact(self, demo: Any, origin: str, provenance: dict[str, str]) -> Episode:
        metadata = parse_metadata(str(demo.attrs[EXACT]), origin)
        columns = {name: np.asarray(values) for name, values in demo[EXACT].items()}
        images = {camera: self._frames(demo, f"{camera}_image") for camera in metadata["cameras"]}
        return build_episode(metadata, columns, images, provenance)

    def _frames(self, demo: Any, key: str) -> Hdf5Frames:
        stored = demo[f"obs/{key}"]
        return Hdf5Frames(self.path, stored.name, len(stored))


def _check_total(data: Any, names: list[str], path: Path) -> None:
    """Raise ``DatasetError`` unless the demonstrations have as many samples as ``total`` says."""
    if "total" not in data.attrs:
        return
    found = sum(int(data[name].attrs.get("num_samples", 0)) for name in names)
    if int(data.attrs["total"]) != found:
        raise DatasetError(
            f"{path}: data/total is {data.attrs['total']}; its {len(names)} demonstrations have {found}"
        )


def _check_samples(demo: Any, origin: str) -> None:
    """Raise ``DatasetError`` unless there are ``num_samples`` actions and images."""
    for key in ("actions", "obs"):
        if key not in demo:
            hint = (
                "; robomimic's dataset_states_to_obs.py makes observations of a simulator's states"
                if key == "obs" and "states" in demo
                else ""
            )
            raise DatasetError(f"{origin}: has no {key}; it has {', '.join(sorted(demo))}{hint}")
    count = len(demo["actions"])
    if int(demo.attrs.get("num_samples", count)) != count:
        raise DatasetError(f"{origin}: num_samples is {demo.attrs['num_samples']}; there are {count} actions")
    for key, values in demo["obs"].items():
        if isinstance(values, h5py.Dataset) and values.shape[:1] != (count,):
            raise DatasetError(f"{origin}: obs/{key} has the shape {values.shape}; there are {count} actions")


def demonstration_number(name: str) -> tuple[int, str]:
    """Return the key by which demonstrations are in order: their number."""
    digits = "".join(c for c in name if c.isdigit())
    return (int(digits) if digits else -1, name)
