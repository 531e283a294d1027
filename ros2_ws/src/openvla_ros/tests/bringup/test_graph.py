"""The node graph: what runs for which robot, and that its names and parameters survive the command line."""

import sys
from dataclasses import replace
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import yaml

from openvla_ros.bringup.dds import PROFILE_VARIABLES, expected_fast_dds
from openvla_ros.bringup.graph import (
    LAUNCH_ARGUMENTS,
    GraphOptions,
    NodeSpec,
    arguments_of_one_node,
    build_graph,
    options_from_arguments,
)
from openvla_ros.errors import InvalidValueError, ProfileError
from openvla_ros.profile import CameraSource, dump_profile, load_profile


def names(options: GraphOptions) -> list[str]:
    return [node.name for node in build_graph(options, {}).nodes]


def test_a_simulated_robot_brings_its_simulation_and_a_real_one_its_cameras():
    assert names(GraphOptions(robot="sim_widowx")) == ["simulation", "camera_primary", "controller", "policy"]
    assert names(GraphOptions(robot="sim_widowx", cameras=False)) == ["simulation", "controller", "policy"]
    assert names(GraphOptions(robot="widowx", cameras=False, record=True, teleop="keyboard")) == [
        "setpoints",
        "controller",
        "policy",
        "recorder",
        "teleop",
    ]


def test_only_cameras_whose_device_the_profile_names_are_started(tmp_path):
    assert names(GraphOptions(robot="franka")) == ["controller", "policy"]
    assert names(GraphOptions(robot="widowx")) == ["setpoints", "controller", "policy"]
    franka = load_profile("franka")
    driver, ours = franka.cameras[0], CameraSource("realsense", serial="829212070352")
    wrist = replace(driver, name="wrist", topic="camera/wrist/image_raw", source=ours)
    path = tmp_path / "mine.yaml"
    path.write_text(dump_profile(replace(franka, cameras=(driver, wrist))), encoding="utf-8")
    assert names(GraphOptions(robot=str(path))) == ["camera_wrist", "controller", "policy"]
    assert names(GraphOptions(robot=str(path), cameras=False)) == ["controller", "policy"]
    chosen = GraphOptions(robot="franka", camera_parameters={"source": "usb", "device": "2"})
    assert build_graph(chosen, {}).node("camera_primary").parameters["device"] == "2"


def test_a_franka_without_ros2_control_brings_its_driver(monkeypatch):
    monkeypatch.setitem(sys.modules, "franky", ModuleType("franky"))
    sys.modules["franky"].__spec__ = ModuleSpec("franky", None)
    with pytest.raises(InvalidValueError, match="needs the address of the arm's controller"):
        build_graph(GraphOptions(robot="franka_franky"), {})
    options = GraphOptions(robot="franka_franky", robot_address="172.16.0.2")
    assert names(options) == ["franky", "setpoints", "controller", "policy"]
    graph = build_graph(options, {})
    driver = graph.node("franky")
    assert driver.parameters["address"] == "172.16.0.2"
    assert driver.stop_order > graph.node("setpoints").stop_order
    assert driver.restarts_after(-9)
    assert not driver.restarts_after(1)
    with pytest.raises(InvalidValueError, match="in real time"):
        build_graph(replace(options, use_sim_time=True), {})


def test_a_franka_driver_may_have_a_python_of_its_own(tmp_path):
    profile = load_profile("franka_franky")

    def graph(python):
        settings = replace(profile.arm_backend.franky, python=python, address="arm")
        path = tmp_path / "mine.yaml"
        mine = replace(profile, arm_backend=replace(profile.arm_backend, franky=settings))
        path.write_text(dump_profile(mine), encoding="utf-8")
        return build_graph(GraphOptions(robot=str(path)), {})

    assert graph(sys.executable).node("franky").python == sys.executable
    with pytest.raises(InvalidValueError, match="which is no program"):
        graph("/nowhere/python")


def test_the_policy_stops_first_and_the_robot_last():
    graph = build_graph(GraphOptions(robot="sim_widowx"), {})
    ranks = {node.name: node.stop_order for node in graph.nodes}
    assert ranks["policy"] < ranks["controller"] < ranks["simulation"]
    ranks = {node.name: node.stop_order for node in build_graph(GraphOptions(robot="widowx"), {}).nodes}
    assert ranks["controller"] < ranks["setpoints"]


def test_foreign_topics_are_remapped_from_the_canonical_names():
    remappings = build_graph(GraphOptions(robot="widowx"), {}).node("policy").remappings
    assert remappings["joint_states"] == "/wx250s/joint_states"
    assert remappings["camera/primary/image_raw"] == "/camera/camera/color/image_raw"
    assert remappings["camera/primary/camera_info"] == "/camera/camera/color/camera_info"
    assert not build_graph(GraphOptions(robot="sim_widowx"), {}).node("policy").remappings


def test_a_node_that_joins_alone_has_the_names_and_parameters_of_the_graph():
    graph = build_graph(GraphOptions(robot="widowx", namespace="left", record=True, use_sim_time=True), {})
    alone = arguments_of_one_node("recorder", "widowx", "left", use_sim_time=True)
    assert alone == ["--ros-args", *graph.node("recorder").ros_arguments("left")]
    assert "joint_states:=/wx250s/joint_states" in alone


def test_the_dds_profile_is_set_unless_the_user_chose_one():
    def added(environment):
        return set(build_graph(GraphOptions(robot="widowx"), environment).environment)

    kilted, jazzy = {"ROS_DISTRO": "kilted"}, {"ROS_DISTRO": "jazzy"}
    assert added(kilted) == {PROFILE_VARIABLES[0]}
    assert added(jazzy) == set(PROFILE_VARIABLES)
    assert added({}) == added(jazzy if expected_fast_dds({}) == 2 else kilted)  # of wheels, which set none
    assert not added(kilted | {PROFILE_VARIABLES[0]: "/mine.xml"})


@pytest.mark.parametrize("value", [True, 3, 2.5, "plain", 'quo"te', "y", "back\\slash", "1"])
def test_parameter_values_keep_their_type_on_the_command_line(value):
    (text,) = (a for a in NodeSpec("n", "x", {"p": value}).ros_arguments("") if a.startswith("p:="))
    assert yaml.safe_load(text.removeprefix("p:=")) == value


def test_wrong_choices_are_named():
    with pytest.raises(InvalidValueError, match="'magic' is not one of openvla, expert"):
        build_graph(GraphOptions(policy="magic"), {})
    with pytest.raises(ProfileError, match="sim_franka"):
        build_graph(GraphOptions(robot="nobody"), {})
    defaults = {name: default for name, (default, _) in LAUNCH_ARGUMENTS.items()}
    assert options_from_arguments(defaults) == GraphOptions()
    with pytest.raises(InvalidValueError, match="record is 'maybe'"):
        options_from_arguments({**defaults, "record": "maybe"})
