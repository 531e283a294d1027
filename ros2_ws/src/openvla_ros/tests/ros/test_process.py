"""A node process stops cleanly: work first, safe command last, exit code 0, no traceback."""

import os
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")

PROGRAM = """
import sys
from dataclasses import dataclass
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from std_msgs.msg import String
from openvla_ros.errors import ProfileError
from openvla_ros.ros import process, qos
from openvla_ros.ros.parameters import declare, parameter, watch

@dataclass(frozen=True)
class Parameters:
    autostart: bool = parameter(True, "configure and activate at start", read_only=True)
    fail: bool = parameter(False, "raise at start")
    kind: str = parameter("one", "a choice", choices=("one", "two"))

class Small(LifecycleNode):
    def __init__(self):
        super().__init__("small")
        self.parameters = declare(self, Parameters)
        if self.parameters.fail:
            raise ProfileError("the profile is wrong on purpose")
        watch(self, Parameters, lambda new: None)
        self.publisher = self.create_publisher(String, "last_word", qos.LATCHED)

    def on_configure(self, state):
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state):
        self.get_logger().info("READY")
        return super().on_activate(state)

    def stop(self):
        self.publisher.publish(String(data="safe"))
        self.get_logger().info("STOPPED")

process.main(Small)
"""


def start(*ros_args: str, program: str = PROGRAM) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", program, "--ros-args", *ros_args],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "RCUTILS_LOGGING_USE_STDOUT": "1"},
    )  # fmt: skip


@pytest.mark.ros
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_with_code_0_and_the_last_word_is_said(ros_domain, number):
    process = start()
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "READY" in line:
            break
    process.send_signal(number)
    time.sleep(0.02)
    process.send_signal(number)  # launch forwards a second one
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0, "".join(lines) + rest
    assert "STOPPED" in rest
    assert "Traceback" not in rest


@pytest.mark.ros
def test_an_expected_error_is_one_line_and_code_1(ros_domain):
    process = start("-p", "fail:=true")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "the profile is wrong on purpose" in output
    assert "Traceback" not in output


@pytest.mark.ros
def test_a_parameter_out_of_choice_is_refused_with_the_choices(ros_domain):
    import rclpy
    from rclpy.parameter_client import AsyncParameterClient

    process = start()
    rclpy.init()
    node = rclpy.create_node("asks")
    try:
        client = AsyncParameterClient(node, "small")
        assert client.wait_for_services(timeout_sec=60)
        future = client.set_parameters([rclpy.Parameter("kind", value="three")])
        rclpy.spin_until_future_complete(node, future, timeout_sec=60)
        (result,) = future.result().results
        assert not result.successful
        assert "'three'; it must be one of one, two" in result.reason
    finally:
        node.destroy_node()
        rclpy.shutdown()
        process.terminate()
        process.communicate(timeout=60)


GUARDED = """
from openvla_ros.errors import FatalNodeError
from openvla_ros.ros import process
from openvla_ros.ros.guard import GuardedNode

class Guarded(GuardedNode):
    def __init__(self):
        super().__init__("guarded")
        self.fatal = self.declare_parameter("fatal", False).value
        self.ticks = 0
        self.create_timer(0.02, self._tick)

    def _tick(self):
        self.ticks += 1
        if self.ticks == 5:
            self.get_logger().info("READY")
        raise FatalNodeError("it cannot go on") if self.fatal else ValueError("a bug of ours")

process.main(Guarded)
"""


@pytest.mark.ros
def test_only_a_fatal_error_ends_a_running_node_with_one_line_and_code_1(ros_domain):
    process = start("-p", "fatal:=true", program=GUARDED)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "it cannot go on" in output
    assert "Traceback" not in output

    process = start(program=GUARDED)
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "READY" in line:
            break
    process.terminate()
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    output = "".join(lines) + rest
    assert output.count("timer tick: callback failed: ValueError: a bug of ours") == 1
    assert "Traceback" not in output
