"""RLDS datasets in array_record files: a small one in the tests' data, written with array_record 0.8.6."""

from __future__ import annotations

import builtins
import shutil
from pathlib import Path

import pytest
from support.generated_episodes import assert_same_episode, make_episode

from openvla_ros.data.formats.rlds_reader import RldsSource
from openvla_ros.errors import DatasetError, MissingDependencyError

STORED = Path(__file__).parents[1] / "rlds_array_record"


def needed():
    pytest.importorskip("array_record.python", reason="needs array-record (the extra [array_record])")


def test_its_episodes_are_read():
    needed()
    source = RldsSource(STORED)
    assert len(source) == 2
    for index in range(2):
        assert_same_episode(source[index], make_episode(index, 3, jpeg=True))


def test_damage_is_found(tmp_path):
    needed()
    shutil.copytree(STORED, tmp_path / "copy")
    (shard,) = (tmp_path / "copy").glob("*.array_record*")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])
    with pytest.raises(DatasetError, match="hash mismatch"):
        RldsSource(tmp_path / "copy")[0]
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match=r"array_record.*(contains 0 records|damaged)"):
        RldsSource(tmp_path / "copy")[0]


def test_without_the_package_it_is_named(monkeypatch):
    original = builtins.__import__

    def without(name, *rest):
        if name.startswith("array_record"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError, match=r"pip install 'openvla_ros\[array_record\]'"):
        RldsSource(STORED)[0]
