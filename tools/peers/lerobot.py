"""LeRobot's own tools on datasets that this package writes, and this package on what they leave.

Each operation of ``lerobot-edit-dataset`` is applied through LeRobot's API to a dataset with images and to
one with videos. What comes out is read back and compared with what went in, and LeRobot trains ACT on it for
three steps. LeRobot lives in an environment of its own; ``lerobot_edits.py`` runs there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from openvla_ros.data.datasets.conversion import ConversionRequest, convert
from openvla_ros.data.datasets.open_dataset import SourceRequest
from openvla_ros.data.episodes.encoded_images import ArrayFrames
from openvla_ros.data.hdf.robomimic_writer import Hdf5Writer
from openvla_ros.data.lerobot.lerobot_reader import EDITED
from openvla_ros.data.lerobot.lerobot_writer import Storage
from openvla_ros.errors import ChecksumError, OpenVLARosError
from openvla_ros.integrity.checksums import SUMS
from openvla_ros.profile import load_profile
from openvla_ros.values.episode import OUTCOMES, Episode
from openvla_ros.values.geometry import transform_euler_to_matrix
from peers.environments import interpreter_called
from peers.rows import PeerError, Row

NAME = "lerobot"
VERSION = "0.6.1"
PYTHON = "python3.12"
PROGRAM = Path(__file__).with_name("lerobot_edits.py")
EPISODES = 6  # four in the first dataset, two in the one that is merged with it
SIZE = (48, 64)
NEW_TASK, WORDS = "raise the red block", ("lift the red block", "put it down")
VIDEO_ERROR = 12.0  # mean absolute difference of a channel, 0 .. 255, after a lossy encoding or two
TIMEOUT_S = 1500
CONTROL = "LeRobot's own"


@dataclass(frozen=True)
class Edit:
    """One operation, and what it must leave of the first four episodes (and the two others)."""

    name: str
    kept: Sequence[int]
    storages: Sequence[Storage] = ("image", "av1")
    changed: Callable[[Episode], Episode] = lambda episode: episode
    result: str = ""  # folder below the output, where there are several
    edited: str | None = None  # what the reader must say was edited


EDITS = (
    Edit("as written", range(4)),
    Edit("delete_episodes", (0, 2, 3)),
    Edit("split_dataset, first part", (0, 2), result="first"),
    Edit("split_dataset, second part", (1, 3), result="second"),
    Edit("merge_datasets", range(6)),
    Edit(
        "modify_tasks", range(4), edited="instruction",
        changed=lambda episode: replace(episode, instruction=NEW_TASK),
    ),
    Edit("add_features", range(4)),
    Edit(
        "remove_feature", range(4),
        changed=lambda episode: replace(episode, actions=episode.actions.astype(np.float32)),
    ),
    Edit("recompute_stats", range(4)),
    Edit("convert_image_to_video_dataset", range(4), storages=("image",)),
    Edit("reencode_dataset", range(4), storages=("av1",)),
)  # fmt: skip


def check(build: Path, source: Path | None) -> list[Row]:
    """Return two rows for each operation and storage: read back by this package, trained on by LeRobot."""
    python = environment(source or build / NAME)
    work = build / f"{NAME}-datasets"
    shutil.rmtree(work, ignore_errors=True)
    episodes = [made_episode(number) for number in range(EPISODES)]
    rows: list[Row] = []
    trained = {CONTROL: its_own(python, work)}
    for storage in ("image", "av1"):
        first = written(work / storage / "first", episodes[:4], storage)
        second = written(work / storage / "second", episodes[4:], storage)
        edits = [edit for edit in EDITS if storage in edit.storages]
        done = edited(python, first, second, work / storage / "edits", edits)
        for edit in edits:
            folder, error = done[edit.name]
            label = f"{storage}: {edit.name}"
            wrong = error or compared(folder, edit, episodes, storage)
            rows.append(Row(NAME, VERSION, label, not wrong, wrong or "read back as it was"))
            if not error:
                trained[label] = folder
    errors = train(python, trained)
    own = errors.pop(CONTROL)
    for label, error in errors.items():
        # LeRobot 0.6.1's conversion to video drops the images' statistics, which its training then asks for.
        same = bool(error) and error == own and "convert_image_to_video" in label
        said = f"as with LeRobot's own dataset: {error}" if same else error or "three steps"
        rows.append(Row(NAME, VERSION, f"{label}, ACT", same or not error, said))
    rows.append(refused(work))
    return rows


def its_own(python: Path, work: Path) -> Path:
    """Return a dataset that LeRobot itself wrote and converted to video: what its training makes of that."""
    folder = work / "lerobots_own"
    folder.mkdir(parents=True)
    called([str(python), "-P", str(PROGRAM), "own", str(folder)], "LeRobot's own dataset")
    return folder / "video"


def environment(folder: Path) -> Path:
    """Return the Python of an environment with LeRobot below ``folder``, made if it is not there (5 GB)."""
    python = folder / "venv" / "bin" / "python"
    if not python.is_file():
        called(
            [interpreter_called(PYTHON), "-m", "venv", str(folder / "venv")], "the environment cannot be made"
        )
        pip = [str(python), "-m", "pip", "install", "--quiet", f"lerobot[training]=={VERSION}"]
        called(pip, "LeRobot cannot be installed")
    ask = "import importlib.metadata as m; print(m.version('lerobot'))"
    found = called([str(python), "-P", "-c", ask], f"{python} has no LeRobot").strip()
    if found != VERSION:
        raise PeerError(f"{python} has LeRobot {found}; {VERSION} is compared")
    return python


def called(command: list[str], failed: str) -> str:
    """Return what a command prints; raises ``PeerError`` with the end of its complaint."""
    surroundings = {**os.environ, "PYTHONPATH": "", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=surroundings, timeout=TIMEOUT_S
    )
    if done.returncode:
        raise PeerError(f"{failed}: {done.stderr.strip()[-400:]}")
    return done.stdout


def made_episode(number: int) -> Episode:
    """Return a short episode: a square that wanders over a gradient, joints, poses, a gripper."""
    rng = np.random.default_rng(number)
    space, steps = load_profile("widowx").space(), 8 + number
    height, width = SIZE
    y, x = np.mgrid[0:height, 0:width]
    frames = np.zeros((steps, height, width, 3), np.uint8)
    for step in range(steps):
        frames[step] = np.stack([x * 3, y * 4, np.full_like(x, 20 * number)], axis=-1)
        frames[step, 8:24, 3 * step : 3 * step + 16] = [250, 20, 20]
    poses = np.tile(np.eye(4), (steps, 1, 1))
    poses[:, :3, 3] = np.array([0.3, 0.0, 0.2]) + np.cumsum(rng.normal(0.0, 0.01, (steps, 3)), axis=0)
    poses[:, :3, :3] = transform_euler_to_matrix(np.cumsum(rng.normal(0.0, 0.05, (steps, 3)), axis=0))
    return Episode(
        id=f"episode_{number:06d}",
        instruction=WORDS[number % 2],
        space=space,
        rate_hz=space.rate_hz,
        stamps_ns=1_700_000_000_000_000_000 + number * 10**11 + np.arange(steps) * 200_000_000,
        images={"primary": ArrayFrames(frames)},
        actions=np.column_stack([rng.uniform(-0.04, 0.04, (steps, 6)), rng.integers(0, 2, steps)]),
        joint_positions=rng.uniform(-1.0, 1.0, (steps, 6)),
        poses=poses,
        gripper=rng.uniform(0.0, 1.0, steps),
        intervention=rng.uniform(size=steps) > 0.7,
        outcome=OUTCOMES[number % 3],
        provenance={"robot": "widowx", "operator": "peer"},
    )


def written(folder: Path, episodes: Sequence[Episode], storage: Storage) -> Path:
    """Write a LeRobot dataset as ``openvla convert`` does."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.with_suffix(".hdf5")
    with Hdf5Writer(path) as writer:
        for episode in episodes:
            writer.add(episode)
    convert(ConversionRequest(SourceRequest(path), folder, "lerobot", storage=storage, group_size=3))
    return folder


def edited(
    python: Path, first: Path, second: Path, output: Path, edits: Sequence[Edit]
) -> dict[str, tuple[Path, str]]:
    """Return, by name of the edit, the folder that LeRobot left and what it complained of."""
    found: dict[str, tuple[Path, str]] = {}
    wanted = []
    for edit in edits:
        operation = edit.name.partition(",")[0]
        folder = output / operation
        if edit.name == "as written":
            found[edit.name] = (first, "")
        else:
            wanted.append(operation)
            found[edit.name] = (folder / edit.result, "")
    output.mkdir(parents=True)
    command = [str(python), "-P", str(PROGRAM), "edit", str(first), str(second), str(output)]
    errors = json.loads(called([*command, *dict.fromkeys(wanted)], "editing").splitlines()[-1])
    return {
        name: (folder, error or errors.get(name.partition(",")[0], ""))
        for name, (folder, error) in found.items()
    }


def train(python: Path, folders: dict[str, Path]) -> dict[str, str]:
    """Return what LeRobot's training complained of, by label; empty where it took its three steps."""
    command = [str(python), "-P", str(PROGRAM), "train", *(str(folder) for folder in folders.values())]
    errors = json.loads(called(command, "training").splitlines()[-1])
    return {label: errors[str(folder)] for label, folder in folders.items()}


def compared(folder: Path, edit: Edit, episodes: Sequence[Episode], storage: Storage) -> str:
    """Return what differs from the episodes that the edit must leave, or nothing."""
    if edit.name in ("modify_tasks", "reencode_dataset"):  # in place: the files are no longer the sums'
        (folder / SUMS).unlink(missing_ok=True)
    try:
        source = SourceRequest(folder).open()
        got = [source[index] for index in range(len(source))]
    except OpenVLARosError as error:
        return str(error)
    if len(got) != len(edit.kept):
        return f"{len(got)} episodes for {len(edit.kept)}"
    lines = []
    for read, number in zip(got, edit.kept, strict=True):
        expected = edit.changed(episodes[number])
        lines += [f"episode {number}: {line}" for line in differences(read, expected, edit, storage)]
    return "; ".join(lines[:4])


def differences(got: Episode, expected: Episode, edit: Edit, storage: Storage) -> list[str]:
    """Return what differs between two episodes, one line for each thing."""
    lines = got.space.differences(expected.space)
    for name in ("instruction", "outcome", "rate_hz"):
        if getattr(got, name) != getattr(expected, name):
            lines.append(f"{name} {getattr(got, name)!r} for {getattr(expected, name)!r}")
    if got.provenance.get("robot") != expected.provenance["robot"]:
        lines.append(f"robot {got.provenance.get('robot')!r}")
    if got.provenance.get(EDITED) != (edit.edited if got.id == expected.id else None):
        lines.append(f"said to be edited: {got.provenance.get(EDITED)}")
    for name in ("stamps_ns", "actions", "joint_positions", "poses", "gripper", "intervention"):
        if not np.array_equal(getattr(got, name), getattr(expected, name)):
            lines.append(f"{name} differ")
    if not np.array_equal(got.space.lower, expected.space.lower):
        lines.append("bounds differ")
    if lines:
        return lines
    exact = storage == "image" and "video" not in edit.name
    recorded = [expected.images["primary"][step].astype(float) for step in range(len(expected))]
    for step in range(len(got)):
        errors = [np.abs(got.images["primary"][step] - image).mean() for image in recorded]
        if int(np.argmin(errors)) != step or errors[step] > (0.0 if exact else VIDEO_ERROR):
            lines.append(f"image {step} is another")
    return lines


def refused(work: Path) -> Row:
    """Return whether an edit in place, with the sums still there, is refused by name."""
    folder = work / "image" / "edits" / "sums_left"
    try:
        SourceRequest(folder).open()[0]
    except ChecksumError as error:
        return Row(NAME, VERSION, "edited in place, sums left", True, str(error).rpartition("; ")[2])
    except OpenVLARosError as error:
        return Row(NAME, VERSION, "edited in place, sums left", False, str(error))
    return Row(NAME, VERSION, "edited in place, sums left", False, "was read without a word")
