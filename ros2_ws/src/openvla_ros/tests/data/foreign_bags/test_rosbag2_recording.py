"""Recordings of others, whatever stores them: the same messages come out, or a refusal."""

import sqlite3

import pytest
import yaml
import zstandard
from mcap.well_known import SchemaEncoding
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from support.fake_recording import STORE
from support.foreign_bags import CAMERA, JOINTS, turning_run, write_bag, write_run, write_split

from openvla_ros.data.foreign_bags.rosbag2_recording import Recording
from openvla_ros.errors import DatasetError

RUN = turning_run(1.0)
ROWS = RUN.serialised()
TOPICS = {CAMERA, JOINTS}


def read(path):
    with Recording(path) as recording:
        return [(m.received_ns, m.topic, bytes(m.data)) for m in recording.messages(TOPICS)]


def write_mcap(path, compression, chunked=True):
    """What the mcap library writes, as ``mcap compress`` and ``mcap filter`` do: no metadata records."""
    with path.open("wb") as file:
        writer = McapWriter(file, compression=compression, use_chunking=chunked, chunk_size=4096)
        writer.start("ros2", "test")
        channels = {}
        for topic, kind in RUN.types.items():
            text, _ = STORE.generate_msgdef(kind, ros_version=2)
            schema = writer.register_schema(kind, SchemaEncoding.ROS2, text.encode())
            channels[topic] = writer.register_channel(topic, "cdr", schema)
        for at, topic, data in ROWS:
            writer.add_message(channels[topic], at, data, at)
        writer.finish()
    return path


@pytest.mark.parametrize(
    ("storage", "compression"),
    [("sqlite3", c) for c in ("none", "message", "file")]
    + [("mcap", c) for c in ("none", "message", "file", "storage")],
)
@pytest.mark.parametrize("described", [True, False])
@pytest.mark.parametrize("parts", [1, 3])
def test_every_storage_gives_the_messages_that_were_written(tmp_path, storage, compression, described, parts):
    bag = tmp_path / "bag"
    if parts == 1:
        write_run(bag, RUN, storage, compression)
    else:
        write_split(bag, RUN, parts, storage, compression)
    if not described:
        (bag / "metadata.yaml").unlink()
    assert sorted(read(bag)) == sorted(ROWS)
    assert [row[0] for row in read(bag)] == [row[0] for row in ROWS]


@pytest.mark.parametrize("compression", list(CompressionType))
@pytest.mark.parametrize("chunked", [True, False])
def test_what_the_mcap_library_writes_is_read(tmp_path, compression, chunked):
    assert sorted(read(write_mcap(tmp_path / "filtered.mcap", compression, chunked))) == sorted(ROWS)


def test_a_part_of_time_is_read_alone(tmp_path):
    start, stop = ROWS[20][0], ROWS[60][0]
    wanted = sorted(row for row in ROWS if start <= row[0] <= stop)
    for storage in ("sqlite3", "mcap"):
        with Recording(write_run(tmp_path / storage, RUN, storage)) as recording:
            found = [(m.received_ns, m.topic, bytes(m.data)) for m in recording.messages(TOPICS, start, stop)]
        assert sorted(found) == wanted


def test_a_database_of_humble_without_definitions_is_read(tmp_path):
    bag = write_run(tmp_path / "bag", RUN)
    (bag / "metadata.yaml").unlink()
    with sqlite3.connect(bag / "bag.db3") as database:
        database.execute("DROP TABLE message_definitions")
        database.execute("DROP TABLE schema")
        database.execute("ALTER TABLE topics DROP COLUMN type_description_hash")
    database.close()
    assert sorted(read(bag)) == sorted(ROWS)


def test_one_type_that_the_recorder_did_not_know_does_not_cost_the_rest(tmp_path):
    types = {**RUN.types, "/odd": "odd_msgs/msg/Odd"}
    bag = write_bag(tmp_path / "bag", [*ROWS, (ROWS[-1][0], "/odd", bytes(8))], types)
    with sqlite3.connect(bag / "bag.db3") as database:
        database.execute(
            "UPDATE message_definitions SET encoding='unknown', encoded_message_definition='' "
            "WHERE topic_type='odd_msgs/msg/Odd'"
        )
    database.close()
    assert sorted(read(bag)) == sorted(ROWS)


def refuse(path, match):
    with pytest.raises(DatasetError, match=match):
        read(path)


def test_a_missing_part_is_named(tmp_path):
    bag = write_split(tmp_path / "bag", RUN, 3, "mcap")
    (bag / "bag_1.mcap").unlink()
    refuse(bag, "metadata.yaml names files that are missing: bag_1.mcap")
    (bag / "metadata.yaml").unlink()
    refuse(bag, "part 1 of a split recording is missing")


def test_a_file_that_metadata_does_not_name_is_named(tmp_path):
    bag = write_run(tmp_path / "bag", RUN)
    (bag / "other.db3").write_bytes((bag / "bag.db3").read_bytes())
    refuse(bag, "does not name: other.db3")
    (bag / "metadata.yaml").unlink()
    refuse(bag, "not the numbered parts of one recording")


@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
def test_fewer_messages_than_metadata_counts_are_refused(tmp_path, storage):
    bag = write_run(tmp_path / "bag", RUN, storage)
    said = yaml.safe_load((bag / "metadata.yaml").read_text())
    information = said["rosbag2_bagfile_information"]
    information["message_count"] += 5
    information["topics_with_message_count"][0]["message_count"] += 5
    (bag / "metadata.yaml").write_text(yaml.safe_dump(said))
    refuse(bag, r"counts 105 messages of /arm/joint_states; its files hold 100")


def test_another_compression_is_refused_by_name(tmp_path):
    bag = write_run(tmp_path / "bag", RUN, "sqlite3", "file")
    text = (bag / "metadata.yaml").read_text().replace("compression_format: zstd", "compression_format: lz4")
    (bag / "metadata.yaml").write_text(text)
    refuse(bag, "compression 'lz4' is not supported; zstd is")


@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
def test_a_compressed_file_that_was_cut_off_is_refused(tmp_path, storage):
    bag = write_run(tmp_path / "bag", RUN, storage, "file")
    (file,) = bag.glob("*.zstd")
    file.write_bytes(file.read_bytes()[:-200])
    refuse(bag, "is truncated: its last zstd frame")


def test_a_cut_off_database_is_refused(tmp_path):
    bag = write_run(tmp_path / "bag", RUN)
    file = bag / "bag.db3"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    refuse(bag, "bag.db3 is damaged")
    file.write_bytes(b"no database" * 100)
    refuse(bag, "bag.db3 is damaged or not a rosbag2 database")


def test_messages_that_wait_in_a_journal_are_not_overlooked(tmp_path):
    bag = write_run(tmp_path / "bag", RUN)
    (bag / "bag.db3-wal").write_bytes(bytes(100))
    refuse(bag, "holds changes that are not in bag.db3 yet")


def test_a_flipped_bit_in_a_chunk_is_refused(tmp_path):
    path = write_mcap(tmp_path / "bag.mcap", CompressionType.NONE)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    refuse(path, "damaged")


def test_a_recording_whose_recorder_was_killed_is_read_as_far_as_it_goes_and_that_is_said(tmp_path):
    path = write_mcap(tmp_path / "bag.mcap", CompressionType.ZSTD)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with Recording(path) as recording:
        found = [(m.received_ns, m.topic, bytes(m.data)) for m in recording.messages(TOPICS)]
        assert "is truncated" in recording.notes[0]
    assert 20 < len(found) < len(ROWS)
    assert not set(found) - set(ROWS)


def test_one_topic_of_two_types_is_refused(tmp_path):
    one = write_bag(tmp_path / "bag_0", ROWS, RUN.types, "mcap")
    other = {**RUN.types, JOINTS: "std_msgs/msg/String"}
    rows = [row for row in ROWS if row[1] == CAMERA]
    two = write_bag(tmp_path / "bag_1", rows, other, "mcap")
    bag = tmp_path / "bag"
    bag.mkdir()
    (one / "bag_0.mcap").rename(bag / "bag_0.mcap")
    (two / "bag_1.mcap").rename(bag / "bag_1.mcap")
    refuse(bag, "recorded with two types: 'sensor_msgs/msg/JointState' and 'std_msgs/msg/String'")


def test_several_frames_of_zstd_are_one_file(tmp_path):
    bag = write_run(tmp_path / "bag", RUN, "mcap")
    (bag / "metadata.yaml").unlink()
    data = (bag / "bag.mcap").read_bytes()
    half = len(data) // 2
    compressor = zstandard.ZstdCompressor()
    (bag / "bag.mcap.zstd").write_bytes(compressor.compress(data[:half]) + compressor.compress(data[half:]))
    (bag / "bag.mcap").unlink()
    assert sorted(read(bag)) == sorted(ROWS)


def test_what_is_no_recording_is_named(tmp_path):
    refuse(tmp_path / "nothing", "does not exist")
    refuse(tmp_path, "contains no rosbag2 storage file")
    (tmp_path / "a.txt").write_text("")
    refuse(tmp_path / "a.txt", "not a rosbag2 storage file")
