"""Our recording after what other programs do to bags: every cell gives the right values, or is refused.

``rosbags-convert`` rewrites it in each storage and compression, the mcap library filters and recompresses it,
it is split and loses its metadata. ``openvla import-bag`` must then give the episode that was recorded, to
the last pixel; what damages it must be refused.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
from mcap.reader import make_reader
from mcap.writer import CompressionType, Writer

from openvla_ros.data.bags.bag_source import BagSource
from openvla_ros.data.foreign_bags.episode_writing import write_episodes
from openvla_ros.data.foreign_bags.import_plan import plan_import
from openvla_ros.data.foreign_bags.import_request import ImportRequest
from openvla_ros.data.foreign_bags.rosbag2_recording import Recording
from openvla_ros.errors import DatasetError, InvalidValueError
from openvla_ros.profile import load_profile
from openvla_ros.values.episode import Episode
from peers.rows import PeerError, Row

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "ros2_ws/src/openvla_ros/tests"))

from support.fake_recording import steady_run  # noqa: E402

NAME, MCAP = "rosbags", "mcap"
COMPRESSIONS = ("none", "message", "file", "storage")
ARRAYS = ("stamps_ns", "actions", "joint_positions", "poses", "gripper", "intervention")


def check(build: Path, source: Path | None) -> list[Row]:
    """Return a row for each way in which another program leaves our recording."""
    folder = build / NAME
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    ours = steady_run().write(folder / "episode_000000")
    right = BagSource(ours)[0]
    cells = [*converted(ours, folder), *rewritten(ours, folder), *damaged(ours, folder)]
    return [row(right, *cell) for cell in cells]


Cell = tuple[str, str, Path, bool]  # peer, what it did, the bag, whether it must be refused


def row(right: Episode, peer: str, compared: str, bag: Path, refuse: bool) -> Row:
    """Import ``bag`` and compare; one that must be refused passes only if it is."""
    try:
        found = imported(bag)
    except (DatasetError, InvalidValueError) as error:
        return Row(peer, version(peer), compared, refuse, f"refused: {str(error)[:120]}")
    wrong = differences(found, right)
    detail = f"differs in {', '.join(wrong)}" if wrong else f"{len(found)} steps, every value and pixel equal"
    return Row(peer, version(peer), compared, not wrong and not refuse, detail)


def imported(bag: Path) -> Episode:
    """Return the one episode that an import makes of ``bag``."""
    output = bag.with_name(f"{bag.name}.imported")
    with Recording(bag) as recording:
        plan = plan_import(ImportRequest(bag, load_profile("sim_widowx")), recording)
        result = write_episodes(plan, recording, output)
    if result.skipped:
        raise DatasetError(result.skipped[0].reason)
    return BagSource(result.episodes[0].folder)[0]


def differences(found: Episode, right: Episode) -> list[str]:
    """Return what differs between two episodes."""
    wrong = [name for name in ARRAYS if not np.array_equal(getattr(found, name), getattr(right, name))]
    if found.instruction != right.instruction:
        wrong.append("instruction")
    for camera, images in right.images.items():
        other = found.images[camera]
        if len(images) != len(other) or any(
            not np.array_equal(images[i], other[i]) for i in range(len(other))
        ):
            wrong.append(f"images of {camera}")
    return wrong


def converted(ours: Path, folder: Path) -> Iterator[Cell]:
    """Let ``rosbags-convert`` rewrite the recording in every way it has."""
    program = Path(sys.executable).with_name("rosbags-convert")
    if not program.is_file():
        raise PeerError("no rosbags-convert beside python: pip install rosbags")
    for storage in ("sqlite3", "mcap"):
        for compression in COMPRESSIONS:
            if compression == "storage" and storage == "sqlite3":
                continue
            bag = folder / f"{storage}_{compression}"
            options = [] if compression == "none" else ["--compress", "zstd", "--compress-mode", compression]
            command = [
                str(program),
                "--src",
                str(ours),
                "--dst",
                str(bag),
                "--dst-storage",
                storage,
                *options,
            ]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            if done.returncode:
                raise PeerError(f"rosbags-convert failed: {(done.stderr or done.stdout)[-200:]}")
            yield NAME, f"{storage}, compression {compression}", bag, False
            bare = folder / f"{bag.name}_bare"
            shutil.copytree(bag, bare, ignore=shutil.ignore_patterns("metadata.yaml"))
            yield NAME, f"{storage}, compression {compression}, bare", bare, False


def rewritten(ours: Path, folder: Path) -> Iterator[Cell]:
    """Filter, recompress and split the recording with the mcap library."""
    source = next(ours.glob("*.mcap"))
    for compression in CompressionType:
        for chunked in (True, False):
            target = folder / f"recompressed_{compression.name}_{chunked}.mcap"
            copy_mcap(source, target, compression, chunked)
            yield MCAP, f"recompressed {compression.name}{'' if chunked else ', no chunks'}", target, False
    target = folder / "filtered.mcap"
    wanted = ("/camera/", "/joint_states", "/instruction", "/policy/", "/controller/verdict")
    copy_mcap(source, target, keep=lambda topic: topic.startswith(wanted))
    yield MCAP, "filtered to what is needed", target, False
    split = folder / "split"
    split.mkdir()
    for part in range(3):
        copy_mcap(source, split / f"split_{part}.mcap", part=(part, 3))
    yield MCAP, "split into 3, no metadata.yaml", split, False


def damaged(ours: Path, folder: Path) -> Iterator[Cell]:
    """Take away what an import needs, or flip a bit of it."""
    source = next(ours.glob("*.mcap"))
    target = folder / "no_camera.mcap"
    copy_mcap(source, target, keep=lambda topic: not topic.startswith("/camera/"))
    yield MCAP, "filtered: no camera", target, True
    lost = folder / "part_lost"
    lost.mkdir()
    for part in (0, 2):
        copy_mcap(source, lost / f"split_{part}.mcap", part=(part, 3))
    yield MCAP, "split, one part lost", lost, True
    flipped = folder / "flipped.mcap"
    copy_mcap(source, flipped, CompressionType.NONE)
    data = bytearray(flipped.read_bytes())
    data[len(data) // 2] ^= 1
    flipped.write_bytes(bytes(data))
    yield MCAP, "one bit flipped", flipped, True


def copy_mcap(
    source: Path,
    target: Path,
    compression: CompressionType = CompressionType.ZSTD,
    chunked: bool = True,
    keep: Callable[[str], bool] = lambda topic: True,
    part: tuple[int, int] = (0, 1),
) -> None:
    """Write part ``part[0]`` of ``part[1]`` of the chosen topics anew, without metadata records."""
    with source.open("rb") as stream, target.open("wb") as sink:
        reader = make_reader(stream)
        rows = [row for row in reader.iter_messages() if keep(row[1].topic)]
        writer = Writer(sink, compression=compression, use_chunking=chunked)
        writer.start("ros2", "mcap")
        numbers: dict[str, int] = {}
        size = -(-len(rows) // part[1])
        for schema, channel, message in rows[part[0] * size : (part[0] + 1) * size]:
            if schema is None:
                continue
            if channel.topic not in numbers:
                kind = writer.register_schema(schema.name, schema.encoding, schema.data)
                numbers[channel.topic] = writer.register_channel(
                    channel.topic, channel.message_encoding, kind, channel.metadata
                )
            number = numbers[channel.topic]
            writer.add_message(number, message.log_time, message.data, message.publish_time)
        writer.finish()
