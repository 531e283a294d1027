"""Bytes that were flipped, blanked, cut off or inserted: every reader says so, and does nothing else."""

import random
import shutil
from pathlib import Path

import pytest
from episode_factory import make_episode
from recorded_run import steady_run

from openvla_ros.data.conversion import ConversionRequest, convert
from openvla_ros.data.detect import SourceRequest
from openvla_ros.data.hdf5 import Hdf5Writer
from openvla_ros.data.source import Checksummed
from openvla_ros.errors import DatasetError, InvalidValueError

KINDS = ("hdf5", "rlds", "lerobot", "video", "bag", "recording")


@pytest.fixture(scope="module")
def datasets(tmp_path_factory) -> dict[str, Path]:
    """Two episodes in every format."""
    root = tmp_path_factory.mktemp("whole")
    source = root / "hdf5" / "set.hdf5"
    source.parent.mkdir()
    with Hdf5Writer(source) as writer:
        for i in range(2):
            writer.add(make_episode(i, jpeg=True, size=32))
    for name, target, storage in (
        ("rlds", "rlds", "image"),
        ("lerobot", "lerobot", "image"),
        ("video", "lerobot", "h264"),
        ("bag", "bag", "image"),
    ):
        convert(ConversionRequest(SourceRequest(source), root / name, target, storage=storage, group_size=1))
    for i in range(2):
        steady_run(1.0, seed=i).write(root / "recording" / f"episode_00000{i}")
    return {name: root / name for name in KINDS}


def read(path: Path) -> list[tuple[bytes, str] | None]:
    """Return each episode's numbers and instruction; None for one that is reported as damaged."""
    source = SourceRequest(path).open()
    found: list[tuple[bytes, str] | None] = []
    for index in range(len(source)):
        try:
            episode = source[index]
            if isinstance(source, Checksummed):
                source.verify(index)
            for pictures in episode.images.values():
                for i in range(len(pictures)):
                    assert pictures[i].ndim == 3
            found.append((episode.actions.tobytes(), episode.instruction))
        except (DatasetError, InvalidValueError):
            found.append(None)
    return found


def damage(data: bytes, rng: random.Random) -> bytes:
    changed, at = bytearray(data), rng.randrange(len(data))
    match rng.choice(("flip", "flip", "blank", "cut", "insert")):
        case "flip":
            for _ in range(rng.choice((1, 4, 30))):
                changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        case "blank":
            end = min(at + rng.randrange(1, 200), len(changed))
            changed[at:end] = bytes(end - at)
        case "cut":
            del changed[at:]
        case "insert":
            changed[at:at] = rng.randbytes(rng.randrange(1, 40))
    return bytes(changed)


def check(datasets: dict[str, Path], folder: Path, kind: str, times: int) -> None:
    rng, whole = random.Random(times), read(datasets[kind])
    assert None not in whole
    reported = 0
    for _ in range(times):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(datasets[kind], folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
        victim = rng.choice(files)
        victim.write_bytes(damage(victim.read_bytes(), rng))
        try:
            found = read(folder)
        except (DatasetError, InvalidValueError):
            reported += 1
            continue
        reported += None in found
        # What is not reported is what was written: no wrong number passes as a right one.
        assert all(episode is None or episode in whole for episode in found), victim
    assert reported


@pytest.mark.filterwarnings("ignore")  # of the libraries, about the damage
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_reported(datasets, tmp_path, kind):
    check(datasets, tmp_path / "set", kind, times=15)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_reported_500_times(datasets, tmp_path, kind):
    check(datasets, tmp_path / "set", kind, times=500)
