"""Our robot under a server of a LeRobot policy: what it states is compared with the robot, never guessed."""

import ast
from dataclasses import replace

import numpy as np
import pytest
from support.fake_policy_servers import LEROBOT_KEY, LEROBOT_STATE, FakeLeRobotServer, openpi_server
from support.policy_doors import IMAGE, PROFILE, SPACE, observation

from openvla_ros.api import load_policy
from openvla_ros.errors import InvalidValueError, PolicyError
from openvla_ros.policy.openpi_remote import OpenpiPolicy
from openvla_ros.profile import load_profile
from openvla_ros.protocols import server_statement
from openvla_ros.protocols.observation_map import ObservationMap
from openvla_ros.resources import share_path
from openvla_ros.values.geometry import transform_matrix_to_euler

SERVER = share_path() / "servers" / "serve_lerobot_policy.py"
STATED = FakeLeRobotServer.stated()
STATE = ("tool_euler", "gripper_open")


def refused(profile=PROFILE, own_map=None, without=(), **changed):
    """Return the error of connecting to a server that states something ``changed``."""
    fake = FakeLeRobotServer(**changed)
    fake.metadata = {key: value for key, value in fake.metadata.items() if key not in without}
    with fake.running() as address, pytest.raises((PolicyError, InvalidValueError)) as error:
        OpenpiPolicy(address, profile, profile.space(), own_map, timeout_s=2.0)
    return str(error.value)


def test_the_robot_sends_what_the_server_states():
    fake = FakeLeRobotServer()
    with fake.running() as address:
        policy = load_policy(address, robot="sim_widowx")  # its profile names openpi's map: not used here
        seen = observation("push")
        np.testing.assert_array_equal(policy.infer(seen).actions, np.full((2, 7), np.float32(0.01)))
        policy.close()
    (message,) = fake.asked
    assert set(message) == {LEROBOT_KEY, LEROBOT_STATE, "task"}
    np.testing.assert_array_equal(message[LEROBOT_KEY], IMAGE)
    # The tool as in tf: the state of this package's own LeRobot datasets.
    euler = transform_matrix_to_euler(seen.pose.rotation)
    np.testing.assert_allclose(message[LEROBOT_STATE], [*seen.pose.position, *euler, seen.gripper])


def test_the_end_of_an_instruction_empties_the_servers_queues():
    fake = FakeLeRobotServer()
    with fake.running() as address:
        policy = load_policy(address, robot="sim_widowx")
        policy.reset()
        assert fake.resets == 1
        policy.close()
        with pytest.raises(PolicyError, match="closed"):
            policy.reset()


def test_openpis_own_server_is_sent_no_reset():
    asked = []
    with openpi_server(lambda message: asked.append(message) or {}, {"server": "pi"}) as address:
        policy = load_policy(address, robot="sim_widowx")
        policy.reset()
        policy.close()
    assert asked == []


def test_a_recording_says_whose_policy_it_was():
    with FakeLeRobotServer().running() as address:
        policy = load_policy(address, robot="sim_widowx")
        report = policy.report()
        assert policy.description == f"LeRobot act runs/cups at {address}"
        policy.close()
    assert report["policy_server"] == "serve_lerobot_policy 1, LeRobot 0.6.1"
    for part in ('"policy_type": "act"', '"lerobot_version": "0.6.1"', '"checkpoint": "runs/cups"'):
        assert part in report["policy_server_metadata"]
    assert '"rate_hz": 5.0' in report["policy_server_action_space"]


@pytest.mark.parametrize("key", ["action_space", "observation_map", "shapes"])
def test_what_is_not_stated_is_not_guessed(key):
    error = refused(without=[key])
    assert f"does not state its {key}; write robot_interface.json beside the checkpoint 'runs/cups'" in error
    assert "action_space (names, units, frame, rotation, gripper_open, lower, upper, rate_hz, kind)" in error


@pytest.mark.parametrize(
    ("changed", "wrong"),
    [
        ({"action_space": {**STATED["action_space"], "gripper_open": 0.0}},
         "action_space.gripper_open: 1.0 here, 0.0 there"),
        ({"action_space": {**STATED["action_space"], "rate_hz": 30.0}},
         "action_space.rate_hz: 5.0 here, 30.0 there"),
        ({"action_space": {**STATED["action_space"], "frame": "world"}}, "frame is 'world'"),
        ({"observation_map": {**STATED["observation_map"], "images": {LEROBOT_KEY: "wrist"}}},
         "is camera 'wrist'; robot sim_widowx has primary; the cameras of robot_interface.json say which"),
        ({"observation_map": {**STATED["observation_map"], "state": {LEROBOT_STATE: ["ankle"]}}}, "ankle"),
        ({"observation_map": {**STATED["observation_map"], "state": {LEROBOT_STATE: ["tool_euler"]}}},
         r"has the shape (7,); robot sim_widowx sends tool_euler (6)"),
        ({"observation_map": {**STATED["observation_map"], "state": {}}},
         "reads observation.images.primary, observation.state; the observation map of robot sim_widowx "),
        ({"shapes": {**STATED["shapes"], LEROBOT_KEY: [96, 128, 3]}},
         "is an image (96, 128, 3); camera 'primary' of robot sim_widowx gives (224, 224, 3)"),
        ({"shapes": {**STATED["shapes"], LEROBOT_KEY: "large"}}, "its shapes cannot be read"),
        ({"shapes": 7}, "its shapes cannot be read"),
    ],
)  # fmt: skip
def test_a_policy_for_another_robot_is_refused_with_both_values(changed, wrong):
    assert wrong in refused(**changed)


def test_a_camera_that_stands_turned_gives_a_turned_image():
    turned = replace(PROFILE.cameras[0], width=320, rotate_deg=90)
    profile = replace(PROFILE, cameras=(turned,))
    shapes = {**STATED["shapes"], LEROBOT_KEY: [320, 224, 3]}
    with FakeLeRobotServer(shapes=shapes).running() as address:
        OpenpiPolicy(address, profile, SPACE).close()
    assert "gives (320, 224, 3)" in refused(profile)


def test_a_map_of_ones_own_may_rename_cameras_and_nothing_else():
    own = ObservationMap({LEROBOT_KEY: "primary"}, {LEROBOT_STATE: STATE}, "task")
    with FakeLeRobotServer().running() as address:
        OpenpiPolicy(address, PROFILE, SPACE, own).close()
    other = replace(own, state={LEROBOT_STATE: ("joints", "gripper_open")})  # as many numbers
    error = refused(own_map=other)
    assert "states the state observation.state: tool_euler, gripper_open" in error
    assert "has observation.state: joints, gripper_open" in error


def test_a_robot_without_a_map_needs_none_for_a_server_that_states_it():
    assert not load_profile("franka").observation_map
    assert "camera 'primary' of robot franka gives (480, 640, 3)" in refused(load_profile("franka"))


def test_the_server_in_lerobots_environment_names_the_same_file_and_keys():
    named = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse(SERVER.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        if node.targets[0].id in ("INTERFACE", "KEYS", "SPACE_KEYS")
    }
    assert named["INTERFACE"] == server_statement.INTERFACE
    assert all(key in server_statement.INTERFACE_KEYS for key in (*named["KEYS"], *named["SPACE_KEYS"]))
    assert set(named["SPACE_KEYS"]) == set(STATED["action_space"]) - {"kind"}
