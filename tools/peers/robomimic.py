"""robomimic on the HDF5 files that this package writes: its dataset class, and an epoch of its training.

Every sample that its ``SequenceDataset`` gives is compared with the episodes that went in: actions,
observations, next observations and the masks. Then behavioural cloning is trained and validated, on states
and on images. robomimic lives in an environment of its own; ``robomimic_training.py`` runs there.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from openvla_ros.data.datasets.conversion import ConversionRequest, convert
from openvla_ros.data.datasets.open_dataset import SourceRequest
from openvla_ros.data.hdf.robomimic_writer import Hdf5Writer
from openvla_ros.values.episode import Episode
from openvla_ros.values.geometry import transform_matrix_to_quaternion
from peers.environments import called, with_packages
from peers.lerobot import made_episode
from peers.rows import PeerError, Row

NAME, VERSION = "robomimic", "0.3.0"
PYTHON = "python3.11"
# What robomimic imports, without the simulators that its own requirements bring.
PACKAGES = (
    "torch==2.13.0", "numpy", "h5py", "tqdm", "psutil", "tensorboard", "tensorboardX", "termcolor", "imageio",
    "imageio-ffmpeg", "matplotlib", "pillow", "six", "setuptools<81",
)  # fmt: skip
ALONE = (f"{NAME}=={VERSION}", "torchvision==0.28.0")
PROGRAM = Path(__file__).with_name("robomimic_training.py")
EPISODES = 12


def check(build: Path, source: Path | None) -> list[Row]:
    """Return a row for each thing that robomimic reads, and for each training."""
    python = with_packages(source or build / NAME, PYTHON, PACKAGES, ALONE)
    work = build / f"{NAME}-datasets"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    episodes = [made_episode(number) for number in range(EPISODES)]
    path = written(work, episodes)
    read = work / "read.npz"
    called([str(python), "-P", str(PROGRAM), "read", str(path), str(read)], "SequenceDataset")
    with np.load(read) as samples:
        rows = [Row(NAME, VERSION, *row) for row in compared(episodes, path, dict(samples))]
    for kind in ("states", "images"):
        rows.append(trained(python, path, kind, work))
    return rows


def written(work: Path, episodes: list[Episode]) -> Path:
    """Write ``episodes`` as ``openvla convert --to hdf5`` does, from several parts."""
    first = work / "first.hdf5"
    with Hdf5Writer(first) as writer:
        for episode in episodes:
            writer.add(episode)
    convert(ConversionRequest(SourceRequest(first), work / "converted", "hdf5", group_size=5))
    return work / "converted" / "converted.hdf5"


def compared(
    episodes: list[Episode], path: Path, samples: dict[str, np.ndarray]
) -> Iterator[tuple[str, bool, str]]:
    """Yield what was compared, whether it is equal, and how many values are."""
    expected: dict[str, list[np.ndarray]] = {}
    for episode in episodes:
        for name, column in columns(episode).items():
            expected.setdefault(f"obs/{name}", []).append(column)
            expected.setdefault(f"next_obs/{name}", []).append(np.concatenate([column[1:], column[-1:]]))
        expected.setdefault("actions", []).append(episode.actions.astype(np.float32))
    for name, parts in expected.items():
        joined = np.concatenate(parts)
        same = name in samples and np.array_equal(samples[name].astype(joined.dtype), joined)
        yield name, same, f"{len(joined)} samples equal" if same else "differs"
    with h5py.File(path) as file:
        masks = {name: len(file[f"mask/{name}"]) for name in file["mask"]}
    whole = sum(masks.values()) == EPISODES and set(masks) == {"train", "valid"}
    yield "masks", whole, ", ".join(f"{count} {name}" for name, count in masks.items())


def columns(episode: Episode) -> dict[str, np.ndarray]:
    """Return the observations of ``episode`` by robomimic's names."""
    assert episode.poses is not None
    assert episode.gripper is not None
    assert episode.joint_positions is not None
    count = len(episode)
    images = {f"{name}_image": np.stack([i[k] for k in range(count)]) for name, i in episode.images.items()}
    return {
        "robot0_joint_pos": episode.joint_positions,
        "robot0_eef_pos": episode.poses[:, :3, 3],
        "robot0_eef_quat": transform_matrix_to_quaternion(episode.poses[:, :3, :3]),
        "robot0_gripper_opening": episode.gripper[:, None],
        **images,
    }


def trained(python: Path, path: Path, kind: str, work: Path) -> Row:
    """Return whether robomimic trained and validated for an epoch."""
    command = [str(python), "-P", str(PROGRAM), "train", str(path), kind, str(work / f"run_{kind}")]
    try:
        losses = json.loads(called(command, f"training on {kind}").splitlines()[-1])
    except (PeerError, subprocess.TimeoutExpired) as error:
        return Row(NAME, VERSION, f"BC on {kind}", False, str(error))
    finite = all(np.isfinite(loss) for loss in losses.values())
    said = ", ".join(f"{name} loss {loss:.3f}" for name, loss in losses.items())
    return Row(NAME, VERSION, f"BC on {kind}, with next_obs", finite, said)
