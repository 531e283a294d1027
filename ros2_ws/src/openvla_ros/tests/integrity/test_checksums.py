"""SHA256SUMS beside files, and the hub's blobs that are named by their content."""

import hashlib
import os
import shutil
import subprocess
import time
import zlib

import pytest
from mcap.reader import make_reader
from mcap.stream_reader import StreamReader
from support.fake_recording import steady_run

from openvla_ros.errors import CheckpointError, ChecksumError, DatasetError
from openvla_ros.integrity.checksums import (
    SUMS,
    absent,
    expected_digest,
    read_sums,
    sha256,
    verify,
    verify_all,
    write_sums,
)
from openvla_ros.integrity.crc import join_crc32


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / "deep/er/values.bin").write_bytes(bytes(range(200)))
    (tmp_path / "ä b.json").write_text("{}")
    write_sums(tmp_path, [tmp_path / "ä b.json", tmp_path / "deep/er/values.bin"])
    return tmp_path


def test_sums_are_those_of_sha256sum(folder):
    done = subprocess.run(["sha256sum", "-c", SUMS], cwd=folder, capture_output=True, check=True, text=True)
    assert done.stdout.count(": OK") == 2
    assert verify(folder / "deep/er/values.bin")
    assert verify_all([folder / "ä b.json", folder / SUMS]) == [folder / SUMS]  # which lists not itself
    (folder / "star").write_bytes(b"x")
    (folder / SUMS).write_text(f"{hashlib.sha256(b'x').hexdigest()} *star\n")
    assert verify(folder / "star")


@pytest.mark.parametrize(
    "damage", [b"", b"\x01" + bytes(range(1, 200)), bytes(range(199)), bytes(range(200)) + b"\0"]
)
def test_another_content_is_refused(folder, damage):
    path = folder / "deep/er/values.bin"
    assert verify(path)
    path.write_bytes(damage)
    for kind in (DatasetError, CheckpointError, ChecksumError):
        with pytest.raises(kind, match=r"values\.bin was damaged or changed"):
            verify(path)


def test_what_was_verified_is_remembered_while_it_does_not_change(folder, monkeypatch):
    path = folder / "deep/er/values.bin"
    verify(path)
    read = []
    monkeypatch.setattr("openvla_ros.integrity.checksums.sha256", lambda p: (read.append(p), sha256(p))[1])
    verify(path)
    assert len(read) == 1  # it was written a moment ago, and could change within one tick of the clock
    now = time.time_ns()
    monkeypatch.setattr("openvla_ros.integrity.checksums.time.time_ns", lambda: now + 10**10)
    verify(path)
    verify(path)
    assert len(read) == 2
    path.write_bytes(bytes(200))
    with pytest.raises(ChecksumError):
        verify(path)


def test_missing_files_are_named(folder):
    assert absent(folder) == []
    (folder / "ä b.json").unlink()
    assert absent(folder) == ["ä b.json"]
    with pytest.raises(ChecksumError, match="cannot be read"):
        verify(folder / "ä b.json")


def test_a_list_that_lost_the_line_of_a_file_is_refused(folder):
    """Cut at the end of a line, it still looks whole."""
    (folder / "a.json").write_text("[]")
    write_sums(folder, [folder / "a.json", folder / "ä b.json", folder / "deep/er/values.bin"])
    path = folder / SUMS
    path.write_text("".join(line for line in path.read_text().splitlines(True) if "ä b" not in line))
    assert verify(folder / "a.json")
    assert verify(folder / "deep/er/values.bin")
    with pytest.raises(ChecksumError, match=r"b\.json was added or changed: .*SHA256SUMS has checksums of"):
        verify(folder / "ä b.json")
    (folder / "deep/er/new.bin").write_bytes(b"new")
    with pytest.raises(ChecksumError, match=r"new\.bin was added"):
        verify(folder / "deep/er/new.bin")


def test_a_list_does_not_cover_folders_of_which_it_lists_nothing(folder):
    (folder / "deep/other.bin").write_bytes(b"of another program")
    assert not verify(folder / "deep/other.bin")
    write_sums(folder, [folder / "deep/er/values.bin"])
    assert not verify(folder / "ä b.json")


@pytest.mark.parametrize(
    "text", [b"", b"abc  file\n", b"\xff\xfe", b"0" * 64 + b"  cut", b"0" * 64 + b" file\n\n"]
)
def test_a_damaged_list_is_refused(folder, text):
    (folder / SUMS).write_bytes(text)
    with pytest.raises(ChecksumError, match=SUMS):
        read_sums(folder)


def test_files_of_the_hubs_cache_are_named_by_their_content(tmp_path):
    """The layout of huggingface_hub: large files by SHA-256, small ones by git's SHA-1."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    weights, config = b"weights" * 99, b"{}\n"
    large = blobs / hashlib.sha256(weights).hexdigest()
    small = blobs / "0967ef424bce6791893e9a57bb952f80fd536e93"  # printf '{}\n' | git hash-object --stdin
    large.write_bytes(weights)
    small.write_bytes(config)
    for name, blob in (("model.safetensors", large), ("config.json", small)):
        (snapshot / name).symlink_to(os.path.relpath(blob, snapshot))
        assert verify(snapshot / name)
    large.write_bytes(weights.replace(b"s", b"t", 1))
    with pytest.raises(ChecksumError, match=r"model\.safetensors was damaged"):
        verify(snapshot / "model.safetensors")
    shutil.copyfile(large, tmp_path / "copy")
    assert expected_digest(tmp_path / "copy") is None


def test_joined_checksums_are_zlibs():
    data = os.urandom(70_000)
    for cut in (0, 1, 17, 65_536, 69_999, 70_000):
        first, second = zlib.crc32(data[:cut]), zlib.crc32(data[cut:])
        assert join_crc32(first, second, len(data) - cut) == zlib.crc32(data)


def test_a_recordings_data_section_has_the_checksum_of_the_format(tmp_path):
    """mcap's own reader compares it, and refuses a flipped bit outside of the chunks too."""
    path = next(steady_run(0.5).write(tmp_path / "episode_000000").glob("*.mcap"))

    def read():
        with path.open("rb") as file:
            return list(StreamReader(file, validate_crcs=True).records)

    assert next(r for r in read() if type(r).__name__ == "DataEnd").data_section_crc != 0
    with path.open("rb") as file:
        assert make_reader(file, validate_crcs=True).get_summary().statistics.message_count > 50
    data = bytearray(path.read_bytes())
    data[data.index(b"lift the cube")] ^= 1  # in a metadata record
    path.write_bytes(data)
    with pytest.raises(Exception, match="crc validation failed in DataEnd"):
        read()
