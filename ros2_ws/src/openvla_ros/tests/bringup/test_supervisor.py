"""The supervisor with real processes: prefixed lines, order of stopping, restarts, and no orphans."""

import os
import signal
import subprocess
import sys
import sysconfig
import textwrap
import time
from pathlib import Path

import pytest
from support.waiting import wait_until

from openvla_ros.bringup.graph import Graph, NodeSpec
from openvla_ros.bringup.supervisor import child_environment, restart_delay_s

CHILD = """
import signal, sys, time
name, behaviour = sys.argv[sys.argv.index("-r") + 1].split("=")[1], sys.argv[-1].split(":=")[1].strip('"')
def stop(*_):
    print("stopping", time.monotonic_ns(), flush=True)
    sys.exit(0)
signal.signal(signal.SIGINT, stop)
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT, signal.SIGTERM])
print("up", flush=True)
if behaviour == "fail":
    time.sleep(0.5)  # the others have begun by then
    sys.exit(3)
if behaviour == "deaf":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
while True:
    time.sleep(0.05)
"""


def spec(name: str, behaviour: str = "run", **options) -> NodeSpec:
    return NodeSpec(name, "child", {"behaviour": behaviour}, **options)


@pytest.fixture
def supervise(tmp_path, monkeypatch):
    """Return a function that makes a supervisor of real Python processes running CHILD."""
    from openvla_ros.bringup import supervisor as module

    package = tmp_path / "openvla_ros" / "nodes"
    package.mkdir(parents=True)
    (tmp_path / "children.py").write_text(CHILD)
    monkeypatch.setattr(NodeSpec, "program", property(lambda self: ["children"]))
    lines: list[tuple[str, str]] = []

    def make(*specs: NodeSpec):
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        graph = Graph("", specs, {})
        return module.Supervisor(graph, lambda n, line: lines.append((n, line)), environment), lines

    return make


def run_until(supervisor, condition, timeout_s=15.0):
    def step():
        supervisor.forward(0.05)
        supervisor.check()

    wait_until(condition, timeout_s, step)


def test_a_child_finds_the_users_libraries_and_not_those_that_the_wheels_set_for_this_process():
    ours, users = f"{sys.prefix}/lib", f"{sys.prefix}/messages/lib"
    wheel = f"{sysconfig.get_path('purelib')}/ros_rcl.libs"
    base = {"_ROS_WHEELS_BOOTSTRAP_COMPLETE": "1", "LD_LIBRARY_PATH": f"{wheel}:{ours}:{users}:"}
    child = child_environment(base, {})
    assert "_ROS_WHEELS_BOOTSTRAP_COMPLETE" not in child
    assert child["LD_LIBRARY_PATH"] == users
    assert "LD_LIBRARY_PATH" not in child_environment(base | {"LD_LIBRARY_PATH": ours}, {})
    # Without wheels the path is ROS's own.
    assert child_environment({"LD_LIBRARY_PATH": ours}, {})["LD_LIBRARY_PATH"] == ours


def test_children_stop_in_the_order_of_their_rank(supervise):
    supervisor, lines = supervise(
        spec("robot", stop_order=3), spec("controller", stop_order=2), spec("policy", stop_order=0)
    )
    supervisor.start()
    run_until(supervisor, lambda: len(lines) == 3)
    codes = supervisor.stop()
    assert codes == {"robot": 0, "controller": 0, "policy": 0}
    stopped = {name: int(line.split()[1]) for name, line in lines if line.startswith("stopping")}
    assert stopped["policy"] < stopped["controller"] < stopped["robot"]


def test_one_failing_process_brings_the_rest_down_with_its_code(supervise):
    supervisor, lines = supervise(spec("good"), spec("bad", "fail"))
    assert supervisor.run() == 3
    assert ("bad", "exited with code 3; stopping the rest") in lines
    assert any(name == "good" and line.startswith("stopping") for name, line in lines)


def test_a_restartable_process_comes_back_after_sigkill(supervise):
    supervisor, lines = supervise(spec("robot"), spec("camera", on_exit="restart"))
    supervisor.start()
    run_until(supervisor, lambda: len(lines) == 2)
    first = supervisor.pid("camera")
    os.kill(first, signal.SIGKILL)
    run_until(supervisor, lambda: lines.count(("camera", "up")) == 2)
    assert ("camera", "exited with signal SIGKILL; restart 1") in lines
    assert supervisor.pid("camera") != first
    supervisor.stop()


@pytest.mark.parametrize(("behaviour", "restarted"), [("run", True), ("fail", False)])
def test_what_was_killed_comes_back_and_what_cannot_work_does_not(supervise, behaviour, restarted):
    supervisor, lines = supervise(spec("robot"), spec("policy", behaviour, on_exit="restart_if_killed"))
    supervisor.start()
    run_until(supervisor, lambda: len(lines) >= 2)
    if restarted:
        os.kill(supervisor.pid("policy"), signal.SIGKILL)
        run_until(supervisor, lambda: lines.count(("policy", "up")) == 2)
    assert (("policy", "exited with signal SIGKILL; restart 1") in lines) == restarted
    supervisor.stop()


def test_a_camera_comes_back_at_once_and_ever_more_slowly_if_it_ends_again_and_again():
    camera, policy = spec("camera", on_exit="restart"), spec("policy", on_exit="restart_if_killed")
    delays = [restart_delay_s(camera, restarts) for restarts in (1, 2, 3, 20)]
    assert delays == [0.1, 0.2, 0.4, 1.0]
    assert restart_delay_s(policy, 1) == 1.0


def test_a_process_that_worked_for_a_while_has_its_restarts_forgiven(supervise, monkeypatch):
    monkeypatch.setattr("openvla_ros.bringup.supervisor.MAX_RESTARTS", 1)
    monkeypatch.setattr("openvla_ros.bringup.supervisor.SETTLED_S", 0.0)
    supervisor, lines = supervise(spec("robot"), spec("camera", on_exit="restart"))
    supervisor.start()
    for times in (1, 2, 3):
        run_until(supervisor, lambda n=times: lines.count(("camera", "up")) == n)
        os.kill(supervisor.pid("camera"), signal.SIGKILL)
    run_until(supervisor, lambda: lines.count(("camera", "up")) == 4)
    supervisor.stop()


def test_a_process_that_ignores_the_signal_is_killed_and_named(supervise, monkeypatch):
    monkeypatch.setattr("openvla_ros.bringup.supervisor.STOP_S", 0.5)
    supervisor, lines = supervise(spec("deaf", "deaf"))
    supervisor.start()
    run_until(supervisor, lambda: len(lines) == 1)
    time.sleep(0.2)
    assert supervisor.stop() == {"deaf": -signal.SIGKILL}
    assert ("deaf", "did not stop within 0 s; killed") in lines


def test_children_die_with_the_supervisor(tmp_path):
    """SIGKILL of the parent leaves no orphan that could keep moving a robot."""
    script = textwrap.dedent("""
        import subprocess, sys
        from openvla_ros.bringup.supervisor import die_with_parent
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"],
                                 preexec_fn=die_with_parent)
        print(child.pid, flush=True)
        child.wait()
    """)
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    stat = Path(f"/proc/{pid}/stat")
    wait_until(lambda: not stat.exists() or stat.read_text().split()[2] == "Z", 10.0)
