"""One DROID episode as its robots record it: ``trajectory.h5`` beside ``recordings/MP4/<serial>.mp4``.

An action is a Cartesian velocity: 1 stands for 0.075 m or 0.15 rad in a step, along the base's axes, longer
ones are shortened to that (droid/robot_ik/robot_ik_solver.py). The gripper is 0 open .. 1 closed. Steps in
which the operator did not move the arm are marked as skipped and left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from openvla_ros.data.episodes.episode_source import stamps_from_seconds
from openvla_ros.data.episodes.followed_commands import REACHED, noted_share
from openvla_ros.data.episodes.video_files import VideoFrames, video_length
from openvla_ros.data.hdf.hdf5_images import attribute_text, opened
from openvla_ros.data.hdf.hdf5_layouts import trajectory_files
from openvla_ros.errors import DatasetError
from openvla_ros.values.action import ActionSpace
from openvla_ros.values.arrays import Bool, Float, Int
from openvla_ros.values.episode import Episode, ImageSequence, Outcome
from openvla_ros.values.geometry import transform_euler_to_matrix

RATE_HZ = 15.0
MOVE_M, TURN_RAD = 0.075, 0.15  # one step at full velocity
_SKIPPED = "observation/timestamp/skip_action"
_STARTS = "observation/timestamp/control/step_start"  # milliseconds
_HAND = 0  # camera_type of the camera at the hand
_NS_PER_MS = 1_000_000


class DroidSource:
    """The DROID episodes at a path: one ``trajectory.h5``, its folder, or a folder of such folders."""

    format = "hdf5"

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self.path, self._say = path, say
        self._files = trajectory_files(path)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Episode:
        """Return episode ``index`` with its images in their videos."""
        path = self._files[index]
        with opened(path) as file:
            return _episode(file, path, self._say)


def _episode(file: Any, path: Path, say: Callable[[str], None]) -> Episode:
    velocity = _column(file, "action/cartesian_velocity", 6, path)
    state = _column(file, "observation/robot_state/cartesian_position", 6, path)
    poses = np.tile(np.eye(4), (len(state), 1, 1))
    poses[:, :3, :3], poses[:, :3, 3] = transform_euler_to_matrix(state[:, 3:]), state[:, :3]
    deltas = np.concatenate([_step(velocity[:, :3], MOVE_M), _step(velocity[:, 3:], TURN_RAD)], axis=1)
    closed = _column(file, "action/gripper_position", 1, path)
    moving = _moving(file, len(velocity), path)
    episode = Episode(
        id=path.parent.name,
        instruction=(attribute_text(file, "current_task") or "").strip(),
        space=droid_space(),
        rate_hz=RATE_HZ,
        stamps_ns=_stamps(file, len(velocity)),
        images=_cameras(file, path, len(velocity), say),
        actions=np.concatenate([deltas, 1.0 - np.clip(closed, 0.0, 1.0)], axis=1),
        joint_positions=_column(file, "observation/robot_state/joint_positions", None, path),
        poses=poses,
        gripper=1.0
        - np.clip(_column(file, "observation/robot_state/gripper_position", 1, path)[:, 0], 0.0, 1.0),
        outcome=_outcome(file),
        provenance={
            "imported_format": "hdf5",
            "imported_path": str(path),
            REACHED: noted_share(deltas, state[:, :3]),
        },
    )
    if moving.all():
        return episode
    provenance = {**episode.provenance, "steps_left_out": str(int((~moving).sum()))}
    return replace(episode.take(np.flatnonzero(moving)), provenance=provenance)


def droid_space() -> ActionSpace:
    """Return the action space of imported episodes: metres and fixed-axis angles in the base frame."""
    return ActionSpace(
        names=("x", "y", "z", "roll", "pitch", "yaw", "gripper"),
        units=("m", "m", "m", "rad", "rad", "rad", "1"),
        frame="base",
        rotation="euler_xyz",
        gripper_open=1.0,
        lower=np.array([-MOVE_M] * 3 + [-TURN_RAD] * 3 + [0.0]),
        upper=np.array([MOVE_M] * 3 + [TURN_RAD] * 3 + [1.0]),
        rate_hz=RATE_HZ,
    )


def _step(velocity: Float, full: float) -> Float:
    """Return the motion (T, 3) of one step: velocities longer than 1 are shortened to 1."""
    length = np.linalg.norm(velocity, axis=1, keepdims=True)
    motion: Float = full * velocity / np.maximum(length, 1.0)
    return motion


def _column(file: Any, name: str, width: int | None, path: Path) -> Float:
    """Return a column (T, width); raises ``DatasetError`` if it is missing or has another shape."""
    if name not in file:
        raise DatasetError(f"{path}: has no {name}")
    values = np.asarray(file[name], np.float64)
    values = values.reshape(len(values), -1)
    steps = len(file["action/cartesian_velocity"])
    if len(values) != steps or (width is not None and values.shape[1] != width):
        raise DatasetError(f"{path}: {name} has the shape {file[name].shape}; there are {steps} steps")
    return values


def _moving(file: Any, steps: int, path: Path) -> Bool:
    if _SKIPPED not in file:
        return np.ones(steps, np.bool_)
    moving = ~np.asarray(file[_SKIPPED]).reshape(-1).astype(np.bool_)
    if len(moving) != steps or not moving.any():
        raise DatasetError(f"{path}: {_SKIPPED} leaves no step of {steps}")
    return moving


def _stamps(file: Any, steps: int) -> Int:
    """Return when each step began, nanoseconds: as recorded, else at the nominal rate."""
    if _STARTS not in file:
        return stamps_from_seconds(np.arange(steps) / RATE_HZ)
    stamps: Int = np.asarray(file[_STARTS]).reshape(-1).astype(np.int64) * _NS_PER_MS
    return stamps


def _outcome(file: Any) -> Outcome:
    if bool(file.attrs.get("success", False)):
        return "success"
    return "failure" if bool(file.attrs.get("failure", False)) else "unknown"


def _cameras(file: Any, path: Path, steps: int, say: Callable[[str], None]) -> dict[str, ImageSequence]:
    """Return the left images of each camera: ``wrist``, and ``exterior_1``, … by serial number."""
    folder = path.parent / "recordings" / "MP4"
    images: dict[str, ImageSequence] = {}
    exterior = 0
    for video in sorted(folder.glob("*.mp4")) if folder.is_dir() else ():
        if video.stem.endswith("-stereo"):
            continue
        kind = f"observation/camera_type/{video.stem}"
        at_hand = kind in file and int(file[kind][0]) == _HAND
        exterior += not at_hand
        count, rate_hz = video_length(video)
        if count != steps:
            say(f"left out: {video.name} ({count} images for {steps} steps, not one for each)")
            continue
        images["wrist" if at_hand else f"exterior_{exterior}"] = VideoFrames(video, 0.0, count, rate_hz)
    if not images:
        say(f"no images: {folder} has no video with an image for each step (SVO files are not read)")
    return images
