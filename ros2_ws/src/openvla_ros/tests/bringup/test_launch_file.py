"""The launch file, run by ROS 2's own launch where there is one: the same processes as ``openvla up``."""

import importlib.util
import os
import re
import signal
import stat
import sys
from contextlib import suppress

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")
pytest.importorskip("launch_ros.actions", reason="needs launch_ros, of an installed ROS 2: PyPI has no wheel")

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch_ros.actions import Node
from support.child_process import Child, script_arguments
from support.node_processes import Listener
from support.shared_data import PACKAGE_SOURCE

from launch import LaunchContext
from openvla_ros.bringup.graph import LAUNCH_ARGUMENTS, build_graph, options_from_arguments
from openvla_ros.bringup.supervisor import child_environment

FILE = PACKAGE_SOURCE / "launch" / "bringup.launch.py"


def launch_file():
    spec = importlib.util.spec_from_file_location("bringup", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_arguments_are_those_of_openvla_up():
    declared = [
        entity
        for entity in launch_file().generate_launch_description().entities
        if isinstance(entity, DeclareLaunchArgument)
    ]
    assert [argument.name for argument in declared] == list(LAUNCH_ARGUMENTS)


@pytest.mark.parametrize("robot", ["sim_widowx", "widowx", "franka"])
def test_the_actions_are_the_processes_of_the_graph(robot):
    description, context = launch_file().generate_launch_description(), LaunchContext()
    context.launch_configurations["robot"] = robot
    found = []
    for entity in description.entities:
        if isinstance(entity, OpaqueFunction):
            found = entity.execute(context)
        else:
            entity.execute(context)
    nodes = [action.node_executable for action in found if isinstance(action, Node)]
    values = {name: default for name, (default, _) in LAUNCH_ARGUMENTS.items()} | {"robot": robot}
    graph = build_graph(options_from_arguments(values), os.environ)
    assert nodes == [node.executable for node in graph.nodes]


def started(log: list[str]) -> dict[str, int]:
    """Return the process id of each process that launch says it has started, by launch's name for it."""
    found = [re.search(r"\[([\w-]+)\]: process started with pid \[(\d+)\]", line) for line in log]
    return {match[1]: int(match[2]) for match in found if match}


def kill_what_is_left(log: list[str]) -> None:
    for number in started(log).values():
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


@pytest.fixture
def environment(ros_domain, tmp_path) -> dict[str, str]:
    """The environment in which launch finds the package's programs, as after ``colcon build``."""
    environment = child_environment(os.environ, {"ROS_DOMAIN_ID": str(ros_domain)})
    try:
        get_package_prefix("openvla_ros")
    except (PackageNotFoundError, LookupError, OSError):  # not installed, or no prefix at all
        environment["AMENT_PREFIX_PATH"] = str(tmp_path)
        marker = tmp_path / "share" / "ament_index" / "resource_index" / "packages" / "openvla_ros"
        marker.parent.mkdir(parents=True)
        marker.touch()
        programs = tmp_path / "lib" / "openvla_ros"
        programs.mkdir(parents=True)
        for node in ("simulation_node", "controller_node", "policy_node"):
            program = programs / node
            program.write_text(f"#!{sys.executable}\nfrom openvla_ros.entry_points import {node}\n{node}()\n")
            program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return environment


@pytest.mark.ros
@pytest.mark.timeout(600)
def test_launch_starts_the_robot_restarts_what_was_killed_and_ends_without_a_trace(environment):
    pytest.importorskip("mujoco", reason="needs the simulation (the extra [sim])")
    arguments = ["robot:=sim_widowx", "policy:=hold", "cameras:=false", "namespace:=launched"]
    with Listener(namespace="launched") as listener:
        node = listener.node

        def running() -> bool:
            services = dict(node.get_service_names_and_types())
            topics = ("controller/verdict", "joint_states", "policy/action_chunk")
            return "/launched/controller/hold" in services and all(map(node.count_publishers, topics))

        launched = Child(script_arguments("launch_program.py", *arguments), environment)
        try:
            assert listener.spin_until(running, 180), "".join(launched.log[-40:])
            os.kill(started(launched.log)["controller_node-2"], signal.SIGKILL)
            assert listener.spin_until(lambda: len(started(launched.log)) == 4, 60)
            # A killed participant is only forgotten after a while: what counts is that the new one speaks.
            assert listener.spin_until(lambda: "arm: connected" in "".join(launched.log[-20:]), 120)
            launched.process.send_signal(signal.SIGINT)
            assert listener.spin_until(lambda: launched.process.poll() is not None, 60)
        finally:
            launched.process.kill()
            launched.stop()
            kill_what_is_left(launched.log)
        log = "".join(launched.log)
        assert launched.process.returncode == 0, log[-3000:]
        assert log.count("process has finished cleanly") == 3, log[-3000:]
        assert "Traceback" not in log
