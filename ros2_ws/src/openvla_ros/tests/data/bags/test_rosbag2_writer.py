"""Bags that rosbags and the mcap library read, with every checksum right; a cut one is read up to the cut."""

import os

import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore
from support.recorder_process import NAMES, TYPE, number_of, payload

from openvla_ros.data.bags.mcap_reader import McapFile
from openvla_ros.data.bags.message_definition import message_definition
from openvla_ros.data.bags.rosbag2_writer import BagWriter, QualityOfService, Topic, parse_qos
from openvla_ros.errors import DatasetError

STORE = get_typestore(Stores.ROS2_KILTED)


def test_rosbags_reads_what_was_written(tmp_path):
    qos = (QualityOfService("best_effort", "transient_local", 3),)
    writer = BagWriter(tmp_path / "bag", chunk_bytes=5000)
    joint_type = "sensor_msgs/msg/JointState"
    topic = writer.add_topic(Topic("/joint_states", joint_type, message_definition(joint_type), qos))
    store_type = STORE.types[joint_type]
    header = STORE.types["std_msgs/msg/Header"]
    stamp = STORE.types["builtin_interfaces/msg/Time"]
    rng = np.random.default_rng(0)
    sent = []
    for i in range(300):
        message = store_type(
            header(stamp(5, i), "base"), ["a", "b"], rng.normal(size=2), np.zeros(0), np.zeros(0)
        )
        sent.append(message)
        writer.write(topic, STORE.serialize_cdr(message, joint_type), 10**9 + i, 10**9 - i)
    writer.close()
    with AnyReader([tmp_path / "bag"]) as reader:
        (connection,) = reader.connections
        assert connection.msgcount == 300
        assert connection.ext.offered_qos_profiles[0].durability.name == "TRANSIENT_LOCAL"
        got = [(t, reader.deserialize(data, joint_type)) for _, t, data in reader.messages()]
    assert [t for t, _ in got] == [10**9 + i for i in range(300)]
    for expected, (_, message) in zip(sent, got, strict=True):
        np.testing.assert_array_equal(message.position, expected.position)
        assert message.header.stamp.nanosec == expected.header.stamp.nanosec


def test_the_mcap_library_finds_every_checksum_and_index_right(tmp_path):
    from mcap.reader import make_reader

    writer = BagWriter(tmp_path / "bag", chunk_bytes=1000)
    topics = [writer.add_topic(Topic(name, TYPE, message_definition(TYPE))) for name in NAMES]
    writer.add_metadata("note", {"key": "value"})
    for i in range(500):
        writer.write(topics[i % 2], payload(i, 30), i, i)
    writer.close()
    with writer.path.open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        summary = reader.get_summary()
        assert summary.statistics.message_count == 500
        assert summary.statistics.chunk_count == len(summary.chunk_indexes) > 10
        assert [number_of(m.data) for _, _, m in reader.iter_messages()] == list(range(500))
        assert {m.name: m.metadata for m in reader.iter_metadata()}["note"] == {"key": "value"}
    with McapFile(writer.path) as opened:
        opened.verify()


def test_qos_survives_its_text():
    offers = (
        QualityOfService("best_effort", "volatile", 7),
        QualityOfService("reliable", "transient_local", 1),
    )
    from openvla_ros.data.bags.rosbag2_writer import dump_qos

    assert parse_qos(dump_qos(offers)) == offers
    assert parse_qos("") == ()
    assert parse_qos("- {reliability: best_effort, durability: volatile, depth: 7}") == offers[:1]


@pytest.mark.parametrize("cut", [1, 9, 100, 1234, 5000])
def test_a_file_cut_anywhere_gives_every_message_before_the_cut(tmp_path, cut):
    writer = BagWriter(tmp_path / "bag", chunk_bytes=3000)
    topic = writer.add_topic(Topic("/counted", TYPE, message_definition(TYPE)))
    for i in range(400):
        writer.write(topic, payload(i, 50), i, i)
    writer.flush()
    writer.abandon()
    size = writer.path.stat().st_size
    os.truncate(writer.path, size - cut)
    with McapFile(writer.path) as file:
        assert not file.finished
        numbers = [number_of(m.data) for m in file]
    assert numbers == list(range(len(numbers)))
    # A message takes at most 100 bytes of the file; a cut in the index of a chunk costs nothing.
    assert 400 - cut // 80 - 1 <= len(numbers) <= 400


def test_one_wrong_byte_is_found_by_the_checksum(tmp_path):
    writer = BagWriter(tmp_path / "bag")
    topic = writer.add_topic(Topic("/counted", TYPE, message_definition(TYPE)))
    for i in range(100):
        writer.write(topic, payload(i, 50), i, i)
    writer.close()
    data = bytearray(writer.path.read_bytes())
    data[data.index(b"57 ")] = 0x35 + 1
    writer.path.write_bytes(data)
    with McapFile(writer.path) as file, pytest.raises(DatasetError, match="damaged"):
        file.verify()
