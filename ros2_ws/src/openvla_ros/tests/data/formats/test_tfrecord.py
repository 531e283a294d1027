"""TFRecord and tf.train.Example without TensorFlow, checked against published checksums and real files."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openvla_ros.data.formats.tf_example import parse_example, serialise_example
from openvla_ros.data.formats.tfrecord import (
    crc32c,
    index_records,
    iterate_records,
    read_record,
    write_record,
)
from openvla_ros.errors import DatasetError


def write(path, records):
    with path.open("wb") as file:
        for record in records:
            write_record(file, record)
    return path


# RFC 3720 section B.4 and the usual check value
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_crc32c_of_published_vectors(data, expected):
    assert crc32c(data) == expected


@settings(max_examples=40, deadline=None)
@given(length=st.integers(500, 9000), seed=st.integers(0, 2**31))
def test_crc32c_is_the_plain_one(length, seed):
    data = np.random.default_rng(seed).bytes(length)
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
    assert crc32c(data) == register ^ 0xFFFFFFFF


def test_records_round_trip(tmp_path):
    records = [b"", b"a", bytes(70_000), b"last\x00\x00"]
    path = write(tmp_path / "x.tfrecord", records)
    assert list(iterate_records(path)) == records


@pytest.mark.parametrize("cut", [1, 4, 60, 104])
def test_a_truncated_file_names_the_byte(tmp_path, cut):
    path = write(tmp_path / "x.tfrecord", [b"a" * 84, b"b" * 90])
    path.write_bytes(path.read_bytes()[:-cut])
    index = index_records(path)
    assert [place.length for place in index.places] == [84]
    assert "byte 100" in index.damage
    with pytest.raises(DatasetError, match="byte 100"):
        list(iterate_records(path))


@pytest.mark.parametrize(
    ("byte", "message"), [(0, "length of the record at byte 0"), (20, "checksum.*84 bytes")]
)
def test_a_flipped_bit_is_found(tmp_path, byte, message):
    path = write(tmp_path / "x.tfrecord", [b"a" * 84])
    data = bytearray(path.read_bytes())
    data[byte] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(DatasetError, match=message):
        list(iterate_records(path))


FEATURES = st.dictionaries(
    st.text(min_size=1, max_size=20),
    st.one_of(
        st.lists(st.binary(max_size=30), min_size=1, max_size=4),
        st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20).map(lambda v: np.array(v, np.int64)),
        st.lists(st.floats(width=32), min_size=1, max_size=20).map(lambda v: np.array(v, np.float32)),
    ),
    max_size=6,
)


@settings(max_examples=100, deadline=None)
@given(features=FEATURES)
def test_examples_round_trip(features):
    back = parse_example(serialise_example(features), "test")
    assert back.keys() == features.keys()
    for name, values in features.items():
        if isinstance(values, list):
            assert back[name] == values
        else:
            np.testing.assert_array_equal(back[name], values)
            assert back[name].dtype == values.dtype


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=60))
def test_any_bytes_are_an_example_or_a_dataset_error(data):
    with contextlib.suppress(DatasetError):  # any other exception fails the test
        assert isinstance(parse_example(data, "noise"), dict)


def test_the_bridge_file_reads_whole(bridge_folder):
    (path,) = bridge_folder.glob("*.tfrecord*")
    places = index_records(path).places
    assert len(places) == 25
    assert sum(place.length for place in places) == 3474742  # numBytes of dataset_info.json
    for place in places:
        data = read_record(place)
        example = parse_example(data, str(place))
        assert len(example["steps/observation/image_0"]) == len(example["steps/is_first"]) == 10
        assert parse_example(serialise_example(example), "")["steps/reward"].dtype == np.float32
