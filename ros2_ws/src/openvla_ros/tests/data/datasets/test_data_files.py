"""Files that are missing, miscounted or of impossible size are errors, not fewer episodes."""

import json
import shutil
import struct
import zlib
from pathlib import Path

import cv2
import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from support.fake_recording import steady_run
from support.generated_episodes import make_episode
from support.openvla_program import run
from support.shared_data import DATA
from support.tiny_training_run import make_base

from openvla_ros.data.bags.mcap_reader import McapFile
from openvla_ros.data.bags.recording_folder import Recordings
from openvla_ros.data.datasets.conversion import ConversionRequest, convert
from openvla_ros.data.datasets.open_dataset import SourceRequest
from openvla_ros.data.hdf.robomimic_writer import Hdf5Writer
from openvla_ros.errors import CheckpointError, ChecksumError, DatasetError, InvalidValueError
from openvla_ros.integrity.checksums import SUMS
from openvla_ros.integrity.image_size import image_size
from openvla_ros.model.checkpoints.safetensors import stored_tensors
from openvla_ros.preprocessing.image_encoding import decode_compressed, encode_jpeg
from openvla_ros.preprocessing.image_file import read_image


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> dict[str, Path]:
    """Three episodes in every format, with and without what this package adds."""
    root = tmp_path_factory.mktemp("files")
    with Hdf5Writer(root / "set.hdf5") as writer:
        for seed in range(3):
            writer.add(make_episode(seed, jpeg=True, size=32))
    for target in ("bag", "rlds", "lerobot", "hdf5"):
        request = ConversionRequest(
            SourceRequest(root / "set.hdf5"), root / target, target, storage="h264", group_size=2
        )
        convert(request)
    return {name: root / name for name in ("bag", "rlds", "lerobot", "hdf5")}


def copy(source: Path, folder: Path, *, sums: bool = False) -> Path:
    """Copy a dataset, by default as one of others: without its checksums."""
    return shutil.copytree(source, folder, ignore=None if sums else shutil.ignore_patterns(SUMS))


def edit(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refused(path: Path, match: str) -> None:
    with pytest.raises(DatasetError, match=match):
        list(summaries(path))


def summaries(path: Path):
    source = SourceRequest(path).open()
    return (source[index] for index in range(len(source)))


@pytest.mark.parametrize("target", ["bag", "rlds", "lerobot", "hdf5"])
def test_every_file_that_is_deleted_is_missed(written, tmp_path, target):
    names = [p.relative_to(written[target]) for p in sorted(written[target].rglob("*")) if p.is_file()]
    for name in names:
        if name.name in (SUMS, "conversion_report.json"):
            continue
        folder = copy(written[target], tmp_path / str(name).replace("/", "_"), sums=True)
        (folder / name).unlink()
        refused(folder, "missing|unknown format")


def test_what_is_left_of_a_dataset_is_listed(written, tmp_path):
    folder = copy(written["bag"], tmp_path / "bag", sums=True)
    shutil.rmtree(folder / "episode_000001")
    listed = run("episodes", folder, code=2).stdout
    assert "2 episodes, 12 steps" in listed
    assert f"missing: {folder}/episode_000001/episode_0.mcap" in listed
    assert len(json.loads(run("episodes", folder, "--json", code=2).stdout)) == 2


def test_episodes_says_with_its_exit_code_what_could_be_read(written, tmp_path):
    run("episodes", written["bag"])
    folder = copy(written["bag"], tmp_path / "bag")
    for number in (0, 1, 2):
        path = folder / f"episode_00000{number}" / "episode_0.mcap"
        path.write_bytes(path.read_bytes()[:-100])
        listed = run("episodes", folder, code=1 if number == 2 else 2)
        assert f"cannot be read: episode {number}: " in listed.stdout
        found = json.loads(run("episodes", folder, "--json", code=1 if number == 2 else 2).stdout)
        assert [entry["problem"] is None for entry in found] == [number < i for i in range(3)]


# -- LeRobot


def test_a_lerobot_dataset_without_its_episodes_is_no_empty_one(written, tmp_path):
    folder = copy(written["lerobot"], tmp_path / "set")
    shutil.rmtree(folder / "meta" / "episodes")
    refused(folder, r"meta/episodes lists 0 episodes \(none\); meta/info\.json says 3")


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"total_episodes": 10**12}, "lists 3 episodes"),
        ({"total_episodes": 4}, "lists 3 episodes .*says 4"),
        ({"total_frames": 17}, "have 18 frames; meta/info.json says 17"),
        ({"total_episodes": True}, "total_episodes is True"),
        ({"total_frames": -18}, "total_frames is -18"),
    ],
)
def test_a_lerobot_dataset_with_other_counts_is_refused(written, tmp_path, values, match):
    folder = copy(written["lerobot"], tmp_path / "set")
    edit(folder / "meta" / "info.json", **values)
    refused(folder, match)


def test_fewer_rows_and_shorter_videos_are_refused(written, tmp_path):
    folder = copy(written["lerobot"], tmp_path / "rows")
    path = next((folder / "data").rglob("file-000.parquet"))
    pq.write_table(pq.read_table(path).slice(1), path)
    refused(folder, "episode 0 has 5 rows; the metadata say 6")
    folder = copy(written["lerobot"], tmp_path / "video")
    videos = sorted((folder / "videos").rglob("*.mp4"))
    shutil.copyfile(videos[1], videos[0])  # of one episode, where two are expected
    refused(folder, r"file-000\.mp4: contains 6 images; the episode needs 12")


# -- RLDS


@pytest.mark.parametrize("lengths", [[True, "1"], ["-1", "1"], [1.5, "1"], ["x", "1"], [None, "1"]])
def test_impossible_lengths_of_shards_are_refused(written, tmp_path, lengths):
    folder = copy(written["rlds"], tmp_path / "set")
    info = next(folder.rglob("dataset_info.json"))
    splits = json.loads(info.read_text())["splits"]
    splits[0]["shardLengths"] = lengths
    edit(info, splits=splits)
    refused(folder, r"shardLengths contains .*; it must be whole numbers")


@pytest.mark.parametrize("count", [0, 10**12])
def test_more_or_fewer_episodes_than_a_file_can_hold_are_refused_at_once(written, tmp_path, count):
    folder = copy(written["rlds"], tmp_path / "set")
    info = next(folder.rglob("dataset_info.json"))
    splits = json.loads(info.read_text())["splits"]
    splits[0]["shardLengths"] = [str(count), "1"]
    edit(info, splits=splits)
    refused(folder, f"says {count} episodes, but the file has")


def test_a_shard_with_more_records_than_announced_is_refused(written, tmp_path):
    folder = copy(written["rlds"], tmp_path / "set")
    info = next(folder.rglob("dataset_info.json"))
    splits = json.loads(info.read_text())["splits"]
    splits[0]["shardLengths"] = ["1", "1"]
    edit(info, splits=splits)
    refused(folder, "contains 2 records; dataset_info.json says 1 episodes")
    next(folder.rglob("*00001-of-00002")).unlink()
    refused(folder, "these files are missing")


def test_exchanged_shards_are_refused_and_damaged_ones_read_as_far_as_they_are_whole(written, tmp_path):
    folder = copy(written["rlds"], tmp_path / "set", sums=True)
    first, second = sorted(folder.rglob("*.tfrecord*"))
    data = bytearray(first.read_bytes())
    data[-100] ^= 1  # in the second record
    first.write_bytes(data)
    source = SourceRequest(folder).open()
    assert source[0].id == "episode_0000"
    with pytest.raises(DatasetError, match="checksum of the record's"):
        source[1]
    shutil.copyfile(second, first)
    refused(folder, "was damaged or changed")


# -- HDF5


def test_an_hdf5_file_with_other_counts_is_refused(written, tmp_path):
    path = next(written["hdf5"].glob("*.hdf5"))
    for name, change, match in (
        ("total", lambda file: file["data"].attrs.modify("total", 19), "data/total is 19"),
        ("deleted", lambda file: file["data"].pop("demo_1"), "its 2 demonstrations have 12"),
        ("samples", lambda file: file["data/demo_1"].attrs.modify("num_samples", 6.5), None),
    ):
        target = tmp_path / f"{name}.hdf5"
        shutil.copyfile(path, target)
        with h5py.File(target, "r+") as file:
            change(file)
        if match:
            refused(target, match)


# -- recordings


@pytest.fixture
def recordings(tmp_path) -> Path:
    for seed in range(2):
        steady_run(0.5, seed=seed).write(tmp_path / "runs" / f"episode_{seed:06d}")
    return tmp_path / "runs"


@pytest.mark.parametrize("name", ["metadata.yaml", "episode_000001_0.mcap"])
def test_a_recording_that_lost_a_file_is_named(recordings, name):
    (recordings / "episode_000001" / name).unlink()
    listed = run("episodes", recordings, code=2).stdout
    assert "1 episodes" in listed
    assert "cannot be read: episode 1: " in listed
    assert "episode_000001" in listed


def test_a_metadata_yaml_that_describes_another_file_is_refused(recordings):
    path = recordings / "episode_000001" / "metadata.yaml"
    whole = path.read_text()

    def check(match, **changes):
        values = yaml.safe_load(whole)
        values["rosbag2_bagfile_information"] |= changes
        path.write_text(yaml.safe_dump(values))
        refused(recordings, match)

    information = yaml.safe_load(whole)["rosbag2_bagfile_information"]
    check("message_count is 1; episode_000001_0.mcap has", message_count=1)
    check("lists the files", relative_file_paths=["other.mcap"])
    check("starting_time is 7", starting_time={"nanoseconds_since_epoch": 7})
    topics = information["topics_with_message_count"]
    check("the list of topics is", topics_with_message_count=topics[1:])
    topics[1]["message_count"] += 1
    check("message_count of /", topics_with_message_count=topics)
    check("cannot be read", topics_with_message_count=3)
    path.write_text(whole)
    run("episodes", recordings)


def test_a_flipped_bit_outside_of_the_chunks_is_found(recordings):
    """The robot profile lies in a metadata record, which the format gives no checksum of its own."""
    path = recordings / "episode_000000" / "episode_000000_0.mcap"
    data = bytearray(path.read_bytes())
    at = data.index(b"gripper_open")
    data[data.index(b"1.0", at) + 2] ^= 1
    path.write_bytes(data)
    refused(recordings, "the checksum of its data section is wrong")


def test_what_is_damaged_in_an_unfinished_recording_is_left_out_and_named(tmp_path):
    folder = steady_run(2.0).write(tmp_path / "runs" / "episode_000000.recording")
    path = next(folder.glob("*.mcap"))
    with McapFile(path) as file:
        chunks, whole = len(file._chunks), len(list(file))
        at = file._chunks[0].start + 500
    assert chunks == 1
    data = bytearray(path.read_bytes())
    (footer,) = struct.unpack_from("<Q", data, len(data) - 28)
    path.write_bytes(data[: footer - 13])  # killed before the end
    assert Recordings(tmp_path / "runs").recover()[0].message_count == whole
    shutil.rmtree(tmp_path / "runs")
    folder.mkdir(parents=True)
    data[at] ^= 1
    path.write_bytes(data[: footer - 13])
    (done,) = Recordings(tmp_path / "runs").recover()
    assert done.message_count == 0
    assert "chunk 0 is damaged (its checksum is wrong)" in str(done.damage)
    assert path.is_file()  # nothing could be saved, so nothing is thrown away


# -- images


def png_of(width: int, height: int) -> bytes:
    """A PNG that announces a size and holds one row."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 64))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (2**31 - 1, 2**31 - 1), (0, 5)])
def test_a_image_that_announces_too_many_pixels_is_refused(tmp_path, width, height):
    data = png_of(width, height)
    path = tmp_path / "bomb.png"
    path.write_bytes(data)
    base = make_base(tmp_path / "base")
    with pytest.raises(InvalidValueError, match=rf"bomb\.png: an image of {width} x {height} pixels"):
        run("predict", base, path, "lift", "--offline")
    with pytest.raises(InvalidValueError, match=f"{width} x {height} pixels"):
        decode_compressed("png", data)


def test_a_jpeg_that_announces_too_many_pixels_is_refused(tmp_path):
    data = bytearray(encode_jpeg(np.zeros((16, 24, 3), np.uint8), 90))
    assert image_size(bytes(data)) == (16, 24)
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 65_000, 65_000)
    with pytest.raises(InvalidValueError, match="65000 x 65000 pixels"):
        decode_compressed("jpeg", bytes(data))


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "txt"])
def test_a_image_that_was_cut_off_is_refused(tmp_path, suffix):
    path = tmp_path / f"image.{suffix}"
    image = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "whole.png"), image)
    if suffix == "txt":
        path.write_text("no image")
    else:
        cv2.imwrite(str(path), image)
        path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InvalidValueError, match=rf"image\.{suffix} is not a readable image"):
        read_image(path)


# -- checkpoints


def test_a_file_that_a_checkpoint_lost_is_missed(tmp_path):
    base = make_base(tmp_path / "base")
    (base / "dataset_statistics.json").unlink()  # config.json holds other ones, which would be taken instead
    with pytest.raises(ChecksumError, match=r"lists files that are missing: dataset_statistics\.json"):
        run("inspect", base)


def test_an_index_of_another_size_is_refused(tmp_path):
    reference = DATA / "openvla_reference" / "checkpoint"
    folder = shutil.copytree(reference, tmp_path / "checkpoint")
    path = folder / "model.safetensors.index.json"
    edit(path, metadata={"total_size": 17})
    with pytest.raises(CheckpointError, match="total_size is 17; the shards contain"):
        stored_tensors(folder)
