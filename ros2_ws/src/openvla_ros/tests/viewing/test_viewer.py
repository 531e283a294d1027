"""Which viewer is opened, and what is refused before anything is read or shown."""

import subprocess
import sys

import pytest
from support.fake_recording import steady_run
from support.import_graph import packages_to_import
from support.openvla_program import run

from openvla_ros.errors import InvalidValueError, OpenVLARosError
from openvla_ros.viewing.viewer import ViewerRequest, is_loopback

BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("rerun", "rerun_cli", "foxglove"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
from openvla_ros.cli.main import main
main()
"""


@pytest.fixture
def no_display(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "neither DISPLAY nor WAYLAND_DISPLAY is set; use --serve .* or --save FILE.rrd"),
        ({"save": "x.mcap"}, r"--save .*x.mcap: a file for rerun is called \*.rrd"),
        ({"save": "x.rrd", "program": "foxglove"}, r"a file for foxglove is called \*.mcap"),
        ({"save": "old.rrd"}, "the file exists; choose a new name"),
        ({"save": "none/x.rrd"}, "there is no folder .*none"),
        ({"save": "x.rrd", "serve": True}, "exclude each other"),
        ({"program": "rviz"}, "viewer is 'rviz'; it must be one of rerun, foxglove"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused(tmp_path, no_display, options, said):
    (tmp_path / "old.rrd").touch()
    if "save" in options:
        options = {**options, "save": tmp_path / options["save"]}
    with pytest.raises(InvalidValueError, match=said):
        ViewerRequest(**options)


def test_a_window_is_opened_where_there_is_a_display(no_display, monkeypatch):
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert ViewerRequest().save is None


@pytest.mark.parametrize(
    ("host", "alone"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("192.168.1.7", False)],
)
def test_another_address_than_loopback_is_warned_of(tmp_path, host, alone):
    assert is_loopback(host) == alone
    assert (ViewerRequest(serve=True, host=host).warning is None) == alone
    assert ViewerRequest(save=tmp_path / "x.rrd", host=host).warning is None


def test_a_name_is_no_address():
    with pytest.raises(OpenVLARosError, match="--host 'robot' is not an IP address"):
        is_loopback("robot")


def test_the_viewers_are_imported_only_when_one_is_opened():
    for module in ("cli.run", "viewing.viewer", "viewing.recording_view", "viewing.message_view"):
        assert not packages_to_import(f"openvla_ros.{module}") & {"rerun", "rerun_cli", "foxglove"}


@pytest.mark.parametrize(
    ("viewer", "suffix", "package"), [("rerun", "rrd", "rerun-sdk"), ("foxglove", "mcap", "foxglove-sdk")]
)
def test_without_its_package_one_line_says_what_to_install(tmp_path, viewer, suffix, package):
    bag = steady_run(seconds=1.0).write(tmp_path / "episode_000000")
    command = ["view", str(bag), "--in", viewer, "--save", str(tmp_path / f"x.{suffix}")]
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, *command], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    if sys.version_info < (3, 11) and viewer == "rerun":
        assert "needs Python 3.11" in line
        return
    assert f"openvla view --in {viewer} needs the package {viewer}, which is not installed" in line
    assert f"pip install 'openvla_ros[view]' (or just {package})" in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["view"], "name a recording to show, or the running robot with --robot"),
        (["view", "--robot", "nobody"], "no robot profile 'nobody'; the profiles are"),
        (["view", "nowhere"], "nowhere does not exist"),
        (["view", "nowhere", "--seconds", "3"], "--seconds 3 is for a running robot"),
    ],
)
def test_what_is_wrong_is_said_before_a_viewer_is_opened(tmp_path, arguments, said):
    with pytest.raises(OpenVLARosError, match=said):
        run(*arguments, "--save", tmp_path / "x.rrd")
    assert not (tmp_path / "x.rrd").exists()
