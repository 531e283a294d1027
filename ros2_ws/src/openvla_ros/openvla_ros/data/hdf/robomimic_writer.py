"""HDF5 datasets in robomimic's layout, written so that robomimic trains on them.

Beside the layout of ``robomimic_source``: ``mask/train`` and ``mask/valid`` (a tenth, chosen by the
episodes' names), ``next_obs`` (the last observation repeats: nothing was observed after the last action) and
``states`` (the robot's measured state, not a simulator's).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from openvla_ros.data.episodes.episode_columns import episode_columns, episode_metadata, parse_metadata
from openvla_ros.data.hdf.hdf5_output import Hdf5Output
from openvla_ros.data.hdf.robomimic_source import EXACT, demonstration_number
from openvla_ros.errors import InvalidValueError
from openvla_ros.integrity.disk import writing
from openvla_ros.values.arrays import Float
from openvla_ros.values.episode import Episode, ImageSequence
from openvla_ros.values.geometry import transform_matrix_to_quaternion

_VALID_SHARE = 0.1
_NO_ENVIRONMENT = {"env_name": "openvla_ros", "type": 0, "env_kwargs": {}}


class Hdf5Writer:
    """Writes episodes as demonstrations of one file; a context manager.

    Without ``next_obs`` the file has half the size with images; robomimic's offline reinforcement learning
    needs it, its behavioural cloning does not (``hdf5_load_next_obs``). Every method raises ``DatasetError``
    if the disk is full.
    """

    def __init__(self, path: Path, *, next_obs: bool = True) -> None:
        self._path = path
        with writing(path):
            self._output = Hdf5Output(path)
        self._file = h5py.File(self._output, "w")
        self._data = self._file.create_group("data")
        self._data.attrs["total"] = 0
        self._data.attrs["env_args"] = json.dumps(_NO_ENVIRONMENT)
        self._ids: list[str] = []
        self._next_obs = next_obs

    def __enter__(self) -> Hdf5Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._write_masks()
        finally:
            self._file.close()
            self._output.close()
        if kind is None:
            self._check()

    def add(self, episode: Episode) -> None:
        """Append ``episode``; its images are stored as pixels."""
        length = len(episode)
        demo = self._next(episode.id, length)
        demo.attrs[EXACT] = episode_metadata(episode)
        last = np.arange(length) == length - 1
        _store(demo, "actions", episode.actions)
        _store(demo, "dones", last.astype(np.int64))
        _store(demo, "rewards", (last & (episode.outcome == "success")).astype(np.float64))
        for name, column in episode_columns(episode).items():
            _store(demo, f"{EXACT}/{name}", column)
        state = dict(_measured(episode))
        if state:
            _store(demo, "states", np.concatenate(list(state.values()), axis=1))
        _write_observations(demo, episode, state, next_obs=self._next_obs)
        self._check()

    def _check(self) -> None:
        with writing(self._path):
            self._output.check()

    def copy(self, path: Path) -> None:
        """Append every demonstration of another file, renumbered."""
        with h5py.File(path, "r") as other:
            for name in sorted(other["data"], key=demonstration_number):
                demo = other["data"][name]
                other.copy(demo, self._data, name=f"demo_{len(self._ids)}")
                identity = parse_metadata(str(demo.attrs[EXACT]), f"{path}:data/{name}")["id"]
                self._account(identity, int(demo.attrs["num_samples"]))
                self._check()

    def _next(self, identity: str, length: int) -> Any:
        demo = self._data.create_group(f"demo_{len(self._ids)}")
        demo.attrs["num_samples"] = length
        self._account(identity, length)
        return demo

    def _account(self, identity: str, length: int) -> None:
        self._ids.append(identity)
        self._data.attrs["total"] = int(self._data.attrs["total"]) + length

    def _write_masks(self) -> None:
        """Store robomimic's filter keys; one demonstration alone is for training only."""
        valid = held_out(self._ids)
        groups = {"train": [i for i in range(len(self._ids)) if i not in valid], "valid": sorted(valid)}
        for name, numbers in groups.items():
            if numbers:
                names = np.array([f"demo_{number}".encode() for number in numbers])
                self._file.create_dataset(f"mask/{name}", data=names)


def held_out(identities: list[str]) -> set[int]:
    """Return the places of a tenth of ``identities``, drawn by name; at least one of two, never all."""
    draws = [
        int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2.0**64 for name in identities
    ]
    if len(draws) < 2:
        return set()
    chosen = {place for place, draw in enumerate(draws) if draw < _VALID_SHARE} or {int(np.argmin(draws))}
    return chosen - {int(np.argmax(draws))} if len(chosen) == len(draws) else chosen


def _measured(episode: Episode) -> Iterator[tuple[str, Float]]:
    """Yield the measured state (T, N) under robomimic's names of low-dimensional observations."""
    if episode.joint_positions is not None:
        yield "robot0_joint_pos", episode.joint_positions
    if episode.poses is not None:
        yield "robot0_eef_pos", episode.poses[:, :3, 3]
        yield "robot0_eef_quat", transform_matrix_to_quaternion(episode.poses[:, :3, :3])
    if episode.gripper is not None:
        yield "robot0_gripper_opening", episode.gripper[:, None]


def _write_observations(demo: Any, episode: Episode, state: dict[str, Float], *, next_obs: bool) -> None:
    now = demo.create_group("obs")
    later = demo.create_group("next_obs") if next_obs else None
    following = np.minimum(np.arange(len(episode)) + 1, len(episode) - 1)
    for name, column in state.items():
        _store(now, name, column)
        if later is not None:
            _store(later, name, column[following])
    for camera, images in episode.images.items():
        name = f"{camera}_image"
        _write_images(now, name, camera, images)
        if later is not None:
            _copy_images(now[name], later, name, following.tolist())


def _write_images(group: Any, name: str, camera: str, images: ImageSequence) -> None:
    shape = images[0].shape
    frames = _image_array(group, name, (len(images), *shape))
    for index in range(len(images)):
        image = images[index]
        if image.shape != shape:
            raise InvalidValueError(f"image {index} of {camera!r} is {image.shape}, not {shape}")
        frames[index] = image


def _copy_images(frames: Any, group: Any, name: str, order: list[int]) -> None:
    """Store ``frames`` in ``order``: the compressed chunks as they are, one for each image."""
    copies = _image_array(group, name, frames.shape)
    for index, source in enumerate(order):
        mask, chunk = frames.id.read_direct_chunk((source, 0, 0, 0))
        copies.id.write_direct_chunk((index, 0, 0, 0), chunk, mask)


def _image_array(group: Any, name: str, shape: tuple[int, ...]) -> Any:
    chunk = (1, *shape[1:])
    return group.create_dataset(name, shape, np.uint8, chunks=chunk, compression="lzf", fletcher32=True)


def _store(group: Any, name: str, values: NDArray[Any]) -> None:
    """Store an array as one chunk with a checksum, so that damage is detected on reading."""
    group.create_dataset(name, data=values, chunks=values.shape, fletcher32=True)
