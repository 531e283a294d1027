"""HDF5 datasets in robomimic's layout, read and written with h5py.

One file: ``data/demo_<n>/{actions, rewards, dones, states, obs/…}`` with ``num_samples`` on each
demonstration and ``total`` and ``env_args`` on ``data``
(https://robomimic.github.io/docs/datasets/overview.html). Files that this package wrote also carry
the exact columns; in others the state must be robosuite's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from openvla_ros.data.episodes.episode_columns import (
    build_episode,
    episode_columns,
    episode_metadata,
    parse_metadata,
)
from openvla_ros.data.episodes.episode_source import stamps_from_seconds
from openvla_ros.errors import DatasetError, InvalidValueError
from openvla_ros.integrity.checksums import SUMS, say_unverified, verify
from openvla_ros.integrity.damage import reading
from openvla_ros.values.action import ActionSpace
from openvla_ros.values.arrays import Image, image_array
from openvla_ros.values.episode import Episode
from openvla_ros.values.geometry import transform_matrix_to_quaternion, transform_quaternion_to_matrix

EXACT = "openvla_ros"
SUFFIXES = (".hdf5", ".h5")


@lru_cache(maxsize=16)
def _shared(path: Path, modified_ns: int, process: int) -> Any:
    """Return ``path`` open for reading, cached: opening takes as long as reading several images.

    The other arguments are cache keys: a replaced file, or a forked process, opens it again.
    """
    return h5py.File(path, "r")


class Hdf5Frames:
    """Images of one camera inside an HDF5 file."""

    def __init__(self, path: Path, dataset: str, count: int) -> None:
        self._path, self._dataset, self._count = path, dataset, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Image:
        place = range(self._count)[index]
        with reading(self._path):
            file = _shared(self._path, self._path.stat().st_mtime_ns, os.getpid())
            return image_array(self._dataset, np.asarray(file[self._dataset][place]))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if path.is_file() and not verify(path):
        say_unverified(
            str(path), f"not listed in {SUMS}; only arrays with a fletcher32 filter have a checksum"
        )
    with reading(path), h5py.File(path, "r") as file:
        yield file


class Hdf5Source:
    """The demonstrations of one robomimic file, in the order of their numbers."""

    format = "hdf5"

    def __init__(self, path: Path) -> None:
        self.path = path
        with _opened(path) as file:
            if "data" not in file:
                raise DatasetError(f"{path}: has no group 'data'; it contains {sorted(file)}")
            self._names = sorted(file["data"], key=_number)
            self._environment = str(file["data"].attrs.get("env_args", "{}"))
            _check_total(file["data"], self._names, path)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Episode:
        """Return demonstration ``index`` with its images on disk."""
        name = self._names[index]
        origin = f"{self.path}:data/{name}"
        provenance = {"imported_format": self.format, "imported_path": origin}
        with _opened(self.path) as file:
            demo = file[f"data/{name}"]
            _check_samples(demo, origin)
            if EXACT in demo:
                return self._exact(demo, origin, provenance)
            return self._robosuite(demo, name, provenance)

    def _exact(self, demo: Any, origin: str, provenance: dict[str, str]) -> Episode:
        metadata = parse_metadata(str(demo.attrs[EXACT]), origin)
        columns = {name: np.asarray(values) for name, values in demo[EXACT].items()}
        images = {camera: self._frames(demo, f"{camera}_image") for camera in metadata["cameras"]}
        return build_episode(metadata, columns, images, provenance)

    def _frames(self, demo: Any, key: str) -> Hdf5Frames:
        stored = demo[f"obs/{key}"]
        return Hdf5Frames(self.path, stored.name, len(stored))

    def _robosuite(self, demo: Any, name: str, provenance: dict[str, str]) -> Episode:
        """Return a demonstration of robosuite's OSC_POSE controller, as robomimic and LIBERO store them."""
        environment = json.loads(self._environment)
        actions = np.asarray(demo["actions"], np.float64)
        space = robosuite_space(environment, actions.shape[1], str(self.path))
        observations = demo["obs"]
        keys = sorted(
            k for k in observations if observations[k].dtype == np.uint8 and observations[k].ndim == 4
        )
        length = len(actions)
        return Episode(
            id=name,
            instruction=_instruction(environment),
            space=space,
            rate_hz=space.rate_hz,
            stamps_ns=stamps_from_seconds(np.arange(length) / space.rate_hz),
            images={key.removesuffix("_image"): self._frames(demo, key) for key in keys},
            actions=np.concatenate([actions[:, :6], robosuite_opening(actions[:, 6:])], axis=1),
            joint_positions=_optional(observations, "robot0_joint_pos"),
            poses=_robosuite_poses(observations),
            outcome="success" if float(np.asarray(demo["rewards"])[-1]) > 0 else "unknown",
            provenance={"environment": str(environment.get("env_name", "")), **provenance},
        )


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
    count = len(demo["actions"])
    if int(demo.attrs.get("num_samples", count)) != count:
        raise DatasetError(f"{origin}: num_samples is {demo.attrs['num_samples']}; there are {count} actions")
    for key, values in demo["obs"].items():
        if isinstance(values, h5py.Dataset) and values.shape[:1] != (count,):
            raise DatasetError(f"{origin}: obs/{key} has the shape {values.shape}; there are {count} actions")


def _number(name: str) -> tuple[int, str]:
    digits = "".join(c for c in name if c.isdigit())
    return (int(digits) if digits else -1, name)


def _optional(observations: Any, key: str) -> NDArray[np.float64] | None:
    return np.asarray(observations[key], np.float64) if key in observations else None


def _instruction(environment: dict[str, Any]) -> str:
    """LIBERO keeps the instruction in its environment; robomimic only a task's name."""
    return str(environment.get("language_instruction", environment.get("env_name", "")))


def robosuite_space(environment: dict[str, Any], width: int, origin: str) -> ActionSpace:
    """Return the action space of robosuite's OSC_POSE: 7 numbers, 1 means the controller's ``output_max``.

    Raises ``DatasetError`` for another controller or width: the meaning of its numbers is unknown.
    """
    arguments = environment.get("env_kwargs", {})
    controller = arguments.get("controller_configs", {})
    kind = controller.get("type")
    if kind != "OSC_POSE" or not controller.get("control_delta", True) or width != 7:
        raise DatasetError(
            f"{origin}: actions of width {width} for controller {kind!r}; supported are OSC_POSE with 7 "
            "deltas and files written by openvla_ros"
        )
    reach = np.broadcast_to(np.asarray(controller.get("output_max", [0.05] * 3 + [0.5] * 3)), (6,))
    return ActionSpace(
        names=("x", "y", "z", "roll", "pitch", "yaw", "gripper"),
        units=(*(f"{r:g} m" for r in reach[:3]), *(f"{r:g} rad" for r in reach[3:]), "1"),
        frame="base",
        rotation="rotation_vector",
        gripper_open=1.0,
        lower=np.array([-1.0] * 6 + [0.0]),
        upper=np.ones(7),
        rate_hz=float(arguments.get("control_freq", 20)),
    )


def robosuite_opening(command: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return robosuite's gripper command, -1 open .. 1 closed, as an opening 1 open .. 0 closed."""
    opening: NDArray[np.float64] = np.clip((1.0 - command) / 2.0, 0.0, 1.0)
    return opening


def _robosuite_poses(observations: Any) -> NDArray[np.float64] | None:
    position = _optional(observations, "robot0_eef_pos")
    quaternion = _optional(observations, "robot0_eef_quat")  # x, y, z, w
    if position is None or quaternion is None:
        return None
    poses = np.tile(np.eye(4), (len(position), 1, 1))
    poses[:, :3, :3], poses[:, :3, 3] = transform_quaternion_to_matrix(quaternion), position
    return poses


class Hdf5Writer:
    """Writes episodes as demonstrations of one file; a context manager."""

    def __init__(self, path: Path) -> None:
        self._file = h5py.File(path, "w")
        self._data = self._file.create_group("data")
        self._data.attrs["total"] = 0
        self._data.attrs["env_args"] = json.dumps({"env_name": "openvla_ros", "type": 0, "env_kwargs": {}})
        self._count = 0

    def __enter__(self) -> Hdf5Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, episode: Episode) -> None:
        """Append ``episode``; its images are stored as pixels."""
        length = len(episode)
        demo = self._next(length)
        demo.attrs[EXACT] = episode_metadata(episode)
        last = np.arange(length) == length - 1
        _store(demo, "actions", episode.actions)
        _store(demo, "dones", last.astype(np.int64))
        _store(demo, "rewards", (last & (episode.outcome == "success")).astype(np.float64))
        for name, column in episode_columns(episode).items():
            _store(demo, f"{EXACT}/{name}", column)
        self._observations(demo.create_group("obs"), episode)

    def copy(self, path: Path) -> None:
        """Append every demonstration of another file, renumbered."""
        with h5py.File(path, "r") as other:
            for name in sorted(other["data"], key=_number):
                demo = other["data"][name]
                target = self._data
                other.copy(demo, target, name=f"demo_{self._count}")
                self._account(int(demo.attrs["num_samples"]))

    def _next(self, length: int) -> Any:
        demo = self._data.create_group(f"demo_{self._count}")
        demo.attrs["num_samples"] = length
        self._account(length)
        return demo

    def _account(self, length: int) -> None:
        self._count += 1
        self._data.attrs["total"] = int(self._data.attrs["total"]) + length

    def _observations(self, group: Any, episode: Episode) -> None:
        if episode.joint_positions is not None:
            _store(group, "robot0_joint_pos", episode.joint_positions)
        if episode.poses is not None:
            _store(group, "robot0_eef_pos", episode.poses[:, :3, 3])
            _store(group, "robot0_eef_quat", transform_matrix_to_quaternion(episode.poses[:, :3, :3]))
        if episode.gripper is not None:
            _store(group, "robot0_gripper_opening", episode.gripper[:, None])
        for camera, images in episode.images.items():
            shape = images[0].shape
            frames = group.create_dataset(
                f"{camera}_image",
                (len(images), *shape),
                np.uint8,
                chunks=(1, *shape),
                compression="lzf",
                fletcher32=True,
            )
            for index in range(len(images)):
                image = images[index]
                if image.shape != shape:
                    raise InvalidValueError(f"image {index} of {camera!r} is {image.shape}, not {shape}")
                frames[index] = image


def _store(group: Any, name: str, values: NDArray[Any]) -> None:
    """Store an array as one chunk with a checksum, so that damage is detected on reading."""
    group.create_dataset(name, data=values, chunks=values.shape, fletcher32=True)
