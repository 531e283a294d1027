"""An emergency stop is remembered for as long as the process that starts the controller."""

import stat
import subprocess
import sys

from openvla_ros.nodes.control.stop_memory import StopMemory

CHILD = """
import sys
from pathlib import Path
from openvla_ros.nodes.control.stop_memory import StopMemory
print(StopMemory("0 /controller", Path(sys.argv[1])).remembered())
"""


def test_a_stop_is_remembered_until_it_is_forgotten(tmp_path):
    memory, other = StopMemory("0 /controller", tmp_path), StopMemory("0 /left/controller", tmp_path)
    assert memory.remembered() is None
    memory.remember("the service e_stop")
    memory.remember("the topic e_stop")
    assert StopMemory("0 /controller", tmp_path).remembered() == "the topic e_stop"
    assert other.remembered() is None
    other.forget()
    memory.forget()
    memory.forget()
    assert memory.remembered() is None


def test_the_children_of_another_process_do_not_inherit_it(tmp_path):
    StopMemory("0 /controller", tmp_path).remember("the service e_stop")
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "None\n"


def test_its_folder_is_the_user_s_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    memory = StopMemory("0 /controller")
    memory.remember("the service e_stop")
    folder = tmp_path / "openvla_ros"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert len(list(folder.iterdir())) == 1


def test_without_a_runtime_folder_it_is_kept_among_temporary_files(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    memory = StopMemory("0 /controller")
    memory.remember("the service e_stop")
    assert memory.remembered() == "the service e_stop"
    memory.forget()
