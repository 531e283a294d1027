"""``openvla record``, ``openvla recover``: keys, pauses, numbers, and a real terminal."""

import os
import pty
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from support.recorder_process import recorder
from support.waiting import wait_until
from typer.testing import CliRunner

from openvla_ros.cli.program import app
from openvla_ros.data.bags.bag_reader import read_metadata
from openvla_ros.data.recording.session_state_machine import Batch


def press(batch, key, now_s=0.0):
    act = batch.key(key)
    if act is not None:
        batch.done(act, now_s)
    return act


def test_a_batch_from_pause_to_over():
    batch = Batch(2, pause_s=10.0)
    batch.begin(100.0)
    assert batch.state == "pause"
    assert batch.left_s(104.0) == 6.0
    assert batch.due(109.9) is None
    assert batch.due(110.0) == "start"
    batch.done("start", 110.0)
    assert batch.due(999.0) is None
    assert press(batch, "s", 120.0) == "success"
    assert (batch.recorded, batch.state, batch.left_s(120.0)) == (1, "pause", 10.0)
    assert press(batch, "\n", 121.0) == "start"
    assert press(batch, "f", 130.0) == "failure"
    assert batch.state == "over"
    assert batch.key("s") is None


def test_discarding_and_recording_again_do_not_count():
    batch = Batch(3, pause_s=0.0)
    batch.begin(0.0)
    assert batch.state == "ready"
    assert batch.due(1e9) is None
    press(batch, "\r")
    assert press(batch, "d") == "discard"
    assert batch.recorded == 0
    press(batch, "\r")
    assert press(batch, "r") == "rerecord"
    assert (batch.state, batch.recorded) == ("recording", 0)
    press(batch, "s")
    assert press(batch, "r") == "rerecord"
    assert (batch.state, batch.recorded) == ("recording", 0)
    press(batch, "s")
    assert batch.recorded == 1


def test_keys_mean_nothing_where_they_make_no_sense():
    batch = Batch(1, pause_s=5.0)
    batch.begin(0.0)
    assert [batch.key(key) for key in "sfdx"] == [None] * 4
    assert batch.key("p") is None
    assert batch.state == "ready"
    assert press(batch, "q") == "quit"
    assert batch.state == "over"


def test_what_was_refused_waits_for_the_operator():
    batch = Batch(1, pause_s=5.0)
    batch.begin(0.0)
    assert batch.due(5.0) == "start"
    batch.refused(recording=False)
    assert batch.state == "ready"
    assert batch.due(99.0) is None
    press(batch, "\n", 100.0)
    assert batch.key("s") == "success"
    batch.refused(recording=True)
    assert batch.state == "recording"
    batch.refused(recording=False)  # the disk took neither the episode nor its end
    assert batch.state == "ready"


def test_recover_finishes_what_was_left(tmp_path):
    left = recorder(tmp_path)
    left.start({})
    for _ in range(10):
        left.write("/counted", b"\x00\x01\x00\x00\x02\x00\x00\x001\x00")
    time.sleep(0.8)
    left.close()
    done = CliRunner().invoke(app, ["recover", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "episode_000000: 10 messages" in done.output
    assert "nothing to recover" in CliRunner().invoke(app, ["recover", str(tmp_path)]).output
    assert (tmp_path / "episode_000000").is_dir()


def test_recover_refuses_while_a_recorder_runs_and_names_a_wrong_folder(tmp_path):
    running = recorder(tmp_path)
    held = CliRunner().invoke(app, ["recover", str(tmp_path)])
    assert "another process is recording" in str(held.exception)
    running.close()
    assert "is not a folder" in str(CliRunner().invoke(app, ["recover", str(tmp_path / "x")]).exception)


def read_all(terminal: int, until: str, log: list[str], timeout_s: float = 120.0) -> None:
    """Read the terminal until ``until`` appears in what came since the last call."""
    import select

    def read() -> None:
        if select.select([terminal], [], [], 0.2)[0]:
            log.append(os.read(terminal, 65536).decode(errors="replace"))

    begun = len("".join(log))
    wait_until(
        lambda: until in "".join(log)[begun:],
        timeout_s, read, lambda: f"{until!r} in\n{''.join(log)[-3000:]}",
    )  # fmt: skip


@pytest.mark.ros
def test_a_batch_in_a_real_terminal(ros_domain, tmp_path):
    pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")
    import rclpy
    from support.fake_robot import PretendedRobot, Spinning

    from openvla_ros.profile import dump_profile, load_profile

    profile = load_profile("sim_widowx")  # with topics that have the names of some driver, as on a real robot
    camera = replace(profile.cameras[0], topic="/lens/color/image_raw")
    state = replace(profile.state, joint_states_topic="/arm/joint_states")
    robot = tmp_path / "robot.yaml"
    robot.write_text(dump_profile(replace(profile, cameras=(camera,), state=state)))
    names = {"joint_states": "/arm/joint_states", "camera/primary/image_raw": "/lens/color/image_raw"}
    remappings = [text for pair in names.items() for text in ("-r", ":=".join(pair))]
    rclpy.init(args=["--ros-args", *remappings])
    terminal, end = pty.openpty()
    command = [
        sys.executable, "-c", "from openvla_ros.cli.main import main; main()",
        "record", "--robot", str(robot), "--episodes", "2", "--task", "lift the cube", "--pause", "0",
        "--folder", str(tmp_path / "set"), "--operator", "ada", "--no-speak",
    ]  # fmt: skip
    environment = {**os.environ, "COLUMNS": "200", "TERM": "xterm"}
    driver = PretendedRobot(load_profile("sim_widowx"))
    with Spinning(driver):
        process = subprocess.Popen(command, stdin=end, stdout=end, stderr=end, env=environment)
        os.close(end)
        log: list[str] = []
        try:
            read_all(terminal, "ready", log)
            # A start that comes before everything is heard is refused with the reason.
            wait_until(driver.is_heard)
            shown = len(driver.sent["images"])
            wait_until(lambda: len(driver.sent["images"]) > shown + 10)
            os.write(terminal, b"\n")
            read_all(terminal, "recording", log)
            time.sleep(1.0)
            os.write(terminal, b"s")
            read_all(terminal, "episode_000000 kept", log)
            os.write(terminal, b"\n")
            read_all(terminal, "recording", log)
            os.write(terminal, b"d")
            read_all(terminal, "discarded", log)
            os.write(terminal, b"\n")
            read_all(terminal, "recording", log)
            time.sleep(1.0)
            os.write(terminal, b"f")
            read_all(terminal, "2 episodes kept: episode_000000 to episode_000001", log)
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()
            os.close(terminal)
    rclpy.try_shutdown()
    first, second = (read_metadata(tmp_path / "set" / f"episode_00000{i}") for i in (0, 1))
    assert (first.outcome, second.outcome) == ("success", "failure")
    assert first.operator == "ada"
    assert first.instruction == "lift the cube"
