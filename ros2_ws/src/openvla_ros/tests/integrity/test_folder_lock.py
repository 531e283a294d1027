"""A folder has one writer at a time, and is free once that one ends."""

import subprocess
import sys

import pytest

from openvla_ros.errors import DatasetError, TrainingError
from openvla_ros.integrity.folder_lock import LOCK, locked

TAKEN = "somebody else"
HOLDS = """
import sys
from pathlib import Path
from openvla_ros.errors import DatasetError
from openvla_ros.integrity.folder_lock import locked
with locked(Path(sys.argv[1]), DatasetError, "taken"):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_the_lock_of_a_killed_process_is_free_again(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "locked\n"
        with (
            pytest.raises(TrainingError, match=TAKEN),
            locked(tmp_path, TrainingError, TAKEN),
        ):
            pass
        other.kill()
    with locked(tmp_path, TrainingError, TAKEN):
        pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / LOCK).mkdir()
    with (
        pytest.raises(DatasetError, match=f"cannot write into {tmp_path}: "),
        locked(tmp_path, DatasetError, "no"),
    ):
        pass
