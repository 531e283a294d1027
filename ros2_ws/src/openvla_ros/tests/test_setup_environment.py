"""``make setup`` leaves one ROS 2 release in .venv, and never counts an unfinished one as complete."""

import importlib.util
import subprocess
from types import SimpleNamespace

import pytest
from support.shared_data import REPOSITORY


@pytest.fixture
def setup(tmp_path, monkeypatch):
    """The program with an environment in ``tmp_path`` that has Jazzy, and no command that is really run."""
    spec = importlib.util.spec_from_file_location(
        "setup_environment", REPOSITORY / "tools" / "setup_environment.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, path in (
        ("VENV", ""),
        ("PYTHON", "bin/python"),
        ("STAMP", ".complete"),
        ("RELEASE", ".ros_release"),
    ):
        monkeypatch.setattr(module, name, tmp_path / path)
    module.RELEASE.write_text("jazzy\n")
    module.STAMP.write_text("jazzy is complete")
    ran: list[list[str]] = []
    monkeypatch.setattr(module, "run", lambda command: ran.append([str(part) for part in command]))
    listed = SimpleNamespace(
        stdout="numpy==2.0\nopenvla-interfaces==0.1.0\nros-fastrtps==2.14.5\nrosbags==0.11\n"
    )
    monkeypatch.setattr(subprocess, "run", lambda *_command, **_options: listed)
    return SimpleNamespace(module=module, ran=ran)


def test_another_release_replaces_all_packages_of_the_one_before(setup):
    setup.module.change_release("kilted")
    assert [command[3:] for command in setup.ran] == [
        ["uninstall", "--quiet", "--yes", "openvla-interfaces", "ros-fastrtps"]
    ]
    assert setup.module.RELEASE.read_text() == "kilted\n"
    del setup.ran[:]
    setup.module.change_release("kilted")
    assert not setup.ran


def test_an_interrupted_set_up_is_not_complete(setup, monkeypatch):
    def interrupt(_name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(setup.module, "install_package", interrupt)
    monkeypatch.setattr(setup.module, "check_machine", lambda _name, _version: None)
    monkeypatch.setattr("sys.argv", ["setup_environment.py", "--ros", "kilted", "--this-python"])
    with pytest.raises(KeyboardInterrupt):
        setup.module.main()
    assert not setup.module.STAMP.exists()
    assert setup.module.chosen_release("") == "kilted"  # the next run goes on with it
