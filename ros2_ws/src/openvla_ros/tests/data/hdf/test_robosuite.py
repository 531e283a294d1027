"""robosuite's demonstrations in robomimic's and LIBERO's layouts.

Right values: robosuite 1.5.2 (controllers/parts/arm/osc.py, environments/base.py), robomimic 0.3.0
(envs/env_robosuite.py), LIBERO (scripts/create_dataset.py, its env_args and problem_info).
"""

import h5py
import numpy as np
import pytest
from support.foreign_hdf5 import (
    COMPOSITE,
    OSC,
    PANDA_BASE,
    environment,
    model_file,
    write_libero,
    write_robomimic,
)

from openvla_ros.data.datasets.conversion import ConversionRequest, convert
from openvla_ros.data.datasets.listing import summary
from openvla_ros.data.datasets.open_dataset import SourceRequest
from openvla_ros.data.hdf.hdf5_source import Hdf5Source
from openvla_ros.data.hdf.robosuite_demonstration import LATE, LEFT_OUT
from openvla_ros.errors import DatasetError, InvalidValueError


def read(path, index=0):
    return Hdf5Source(path)[index]


@pytest.mark.parametrize("controller", [OSC, COMPOSITE, [OSC]])
def test_commands_become_metres_radians_and_an_opening(tmp_path, controller):
    """osc.py: scale_action to output_max; the gripper is -1 open .. 1 closed."""
    episode = read(write_robomimic(tmp_path / "a.hdf5", environment(controller)))
    np.testing.assert_allclose(episode.actions[0], [0.005] * 3 + [0.05] * 3 + [1.0], atol=1e-15)
    np.testing.assert_allclose(episode.actions[1], [0.01] * 3 + [0.1] * 3 + [0.0], atol=1e-15)
    assert episode.space.units == ("m", "m", "m", "rad", "rad", "rad", "1")
    assert (episode.space.frame, episode.space.rotation) == ("base", "rotation_vector")
    assert (episode.rate_hz, episode.outcome, episode.instruction) == (20.0, "success", "Lift")
    assert episode.observation(1).images["agentview"][0, 0, 0] == 7
    assert episode.gripper.tolist() == [1.0, 0.25]


def test_commands_are_clipped_and_scaled_as_the_controller_does(tmp_path):
    controller = {**OSC, "input_min": -2, "input_max": 2, "output_min": [-0.02] * 6, "output_max": [0.06] * 6}
    actions = np.array([[5.0, -5.0, 0.0, 0.0, 0.0, 0.0, 0.0]] * 2)
    episode = read(write_robomimic(tmp_path / "a.hdf5", environment(controller), actions=actions))
    np.testing.assert_allclose(episode.actions[0], [0.06, -0.02, 0.02, 0.02, 0.02, 0.02, 0.5], atol=1e-15)


def test_a_position_controller_holds_the_rotation(tmp_path):
    controller = {"type": "OSC_POSITION", "output_max": 0.05, "output_min": -0.05}
    actions = np.array([[1.0, 0.0, -1.0, -1.0]] * 2)
    episode = read(write_robomimic(tmp_path / "a.hdf5", environment(controller), actions=actions))
    np.testing.assert_allclose(episode.actions[0], [0.05, 0.0, -0.05, 0.0, 0.0, 0.0, 1.0])


def test_poses_are_in_the_frame_of_the_base(tmp_path):
    """The world's, which robosuite reports, are off by where the base stands."""
    path = write_robomimic(tmp_path / "a.hdf5", attributes={"model_file": model_file()})
    episode = read(path)
    np.testing.assert_allclose(episode.poses[0, :3, 3], np.subtract([-0.1, 0.0, 1.0], PANDA_BASE), atol=1e-12)


def test_a_turned_base_turns_poses_and_world_commands(tmp_path):
    """Up to robosuite 1.4 the commands are along the world's axes."""
    quarter = model_file("0.7071067811865476 0 0 0.7071067811865476")  # 90 degrees about z
    actions = np.array([[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, -1.0]] * 2)
    attributes = {"model_file": quarter}
    old = read(write_robomimic(tmp_path / "old.hdf5", actions=actions, attributes=attributes))
    np.testing.assert_allclose(old.actions[0, :6], [0.0, -0.05, 0.0, 0.5, 0.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(old.poses[0, :3, 3], [0.0, -0.46, 0.088], atol=1e-12)
    path = write_robomimic(
        tmp_path / "new.hdf5", environment(COMPOSITE), actions=actions, attributes=attributes
    )
    np.testing.assert_allclose(read(path).actions[0, :6], [0.05, 0.0, 0.0, 0.0, 0.5, 0.0], atol=1e-12)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (None, "no model_file says where the base stands"),
        ("<mujoco><worldbody/></mujoco>", "no body 'robot0_base'"),
        ("no xml", "model_file is not XML"),
        (
            '<mujoco><worldbody><body name="robot0_base"><freejoint/></body></worldbody></mujoco>',
            "the robot's base moves",
        ),
        (
            '<mujoco><worldbody><body name="robot0_base" euler="0 0 1"/></worldbody></mujoco>',
            "orientation is given as euler",
        ),
    ],
)
def test_without_a_known_base_the_poses_are_left_out_and_that_is_said(tmp_path, caplog, model, said):
    attributes = {} if model is None else {"model_file": model}
    episode = read(write_robomimic(tmp_path / "a.hdf5", attributes=attributes))
    assert episode.poses is None
    assert said in episode.provenance[LEFT_OUT]
    assert said in caplog.text
    assert any(said in warning for warning in summary(0, episode).warnings)
    assert "commands are along the world's axes" in caplog.text


def test_a_gripper_of_unknown_width_is_left_out(tmp_path):
    episode = read(write_robomimic(tmp_path / "a.hdf5", environment(robots=["Sawyer"])))
    assert episode.gripper is None
    assert "gripper's opening" in episode.provenance[LEFT_OUT]


def test_depth_is_left_out_and_said(tmp_path):
    path = write_robomimic(tmp_path / "a.hdf5", obs__agentview_depth=np.zeros((2, 8, 8, 1), np.float32))
    episode = read(path)
    assert set(episode.images) == {"agentview"}
    assert "agentview_depth" in episode.provenance[LEFT_OUT]


@pytest.mark.parametrize(
    ("rewards", "changes", "outcome"),
    [
        ([0.0, 1.0], {}, "success"),
        ([0.0, 0.0], {}, "unknown"),
        ([0.0, 0.5], {}, "unknown"),  # PickPlace: two of four objects
        ([0.0, 2.0], {"reward_scale": 2.0}, "success"),
        ([0.2, 0.7], {"reward_shaping": True}, "unknown"),
        ([0.2, 1.0], {"reward_shaping": True}, "unknown"),
        (None, {}, "unknown"),
    ],
)
def test_only_the_reward_of_success_is_a_success(tmp_path, rewards, changes, outcome):
    """lift.py: 1.0 times reward_scale at success; a shaped reward is above 0 from the first step on."""
    stored = None if rewards is None else np.array(rewards)
    episode = read(write_robomimic(tmp_path / "a.hdf5", environment(**changes), rewards=stored))
    assert episode.outcome == outcome


@pytest.mark.parametrize(
    ("env_args", "said"),
    [
        (environment({"type": "JOINT_VELOCITY"}), "'JOINT_VELOCITY' commands joints.*supported are OSC_POSE"),
        (environment({"type": "IK_POSE"}), "controller 'IK_POSE'; supported are OSC_POSE"),
        (environment({**OSC, "control_delta": False}), "absolute goals"),
        (environment({**OSC, "input_type": "absolute"}), "absolute goals"),
        (environment({**OSC, "impedance_mode": "variable"}), "'variable': the actions contain stiffnesses"),
        (environment({**OSC, "input_ref_frame": "eef"}), "input_ref_frame is 'eef'"),
        (environment({**OSC, "output_max": [1.0, 2.0]}), "must be 1 or 6 numbers"),
        (environment({**OSC, "output_max": -1}), "empty or reversed"),
        (environment(None), "no controller_configs"),
        (environment(robots=["Panda", "Sawyer"]), "2 robots"),
        (environment({"type": "WHOLE_BODY", "body_parts": {"torso": {}}}), "'WHOLE_BODY' with the parts"),
        ({"type": 2, "env_name": "Hopper"}, "Gym environment"),
    ],
)  # fmt: skip
def test_other_controllers_are_refused_by_name(tmp_path, env_args, said):
    source = Hdf5Source(write_robomimic(tmp_path / "a.hdf5", env_args))
    with pytest.raises(DatasetError, match=said):
        source[0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"actions": None}, "has no actions; it has obs, rewards"),
        (
            {f"obs__{n}": None for n in ("agentview_image", "robot0_eef_pos", "robot0_eef_quat",
                                         "robot0_joint_pos", "robot0_gripper_qpos")}
            | {"states": np.zeros((2, 3))},
            "has no obs.*dataset_states_to_obs.py",
        ),
        ({"actions": np.zeros((2, 14))}, "OSC_POSE with actions of width 14"),
    ],
)  # fmt: skip
def test_missing_arrays_are_named(tmp_path, changes, said):
    with pytest.raises(DatasetError, match=said):
        read(write_robomimic(tmp_path / "a.hdf5", **changes))


def test_a_file_without_env_args_is_refused(tmp_path):
    path = write_robomimic(tmp_path / "a.hdf5")
    with h5py.File(path, "r+") as file:
        del file["data"].attrs["env_args"]
    with pytest.raises(DatasetError, match=r"no attribute env_args.*what the actions mean"):
        read(path)


def test_liberos_words_images_and_state(tmp_path):
    episode = read(write_libero(tmp_path / "KITCHEN_demo.hdf5"))
    assert (episode.instruction, episode.outcome) == ("pick up the book", "success")
    assert list(episode.images) == ["agentview", "eye_in_hand"]
    image = episode.images["agentview"][0]
    assert image[-1, 0].tolist() == [200, 30, 30]  # stored first: OpenGL begins at the bottom
    assert image[0].max() == 0
    np.testing.assert_allclose(episode.poses[0, :3, 3], [0.46, 0.1, 0.188], atol=1e-12)
    np.testing.assert_allclose(episode.poses[0, :3, :3], np.diag([1.0, -1.0, -1.0]), atol=1e-12)
    assert episode.joint_positions.shape == (5, 7)
    assert episode.gripper.tolist() == [0.5] * 5


def test_libero_observes_after_each_action_so_the_next_one_belongs_to_it(tmp_path):
    """create_dataset.py stores what ``env.step(action)`` returns beside it; its states are from before."""
    late, early = (
        read(write_libero(tmp_path / f"{after}.hdf5", after_actions=after)) for after in (True, False)
    )
    assert (len(late), len(early)) == (5, 6)
    assert LATE in late.provenance
    assert LATE not in early.provenance
    np.testing.assert_array_equal(late.actions, early.actions[1:])
    np.testing.assert_array_equal(late.joint_positions, early.joint_positions[1:])


def test_what_the_arm_made_of_its_commands_is_said(tmp_path, caplog):
    """robosuite 1.5.2 at 20 Hz: 25 mm commanded move 6.3 mm."""
    actions = np.array([[0.5, 0, 0, 0, 0, 0, 1.0]] * 3)
    moved = np.array([[-0.1, 0.0, 1.0]] * 3) + np.outer(np.arange(3) * 0.0063, [1.0, 0.0, 0.0])
    path = write_robomimic(
        tmp_path / "a.hdf5",
        actions=actions,
        rewards=np.zeros(3),
        attributes={"model_file": model_file()},
        obs__agentview_image=np.zeros((3, 8, 8, 3), np.uint8),
        obs__robot0_eef_pos=moved,
        obs__robot0_eef_quat=np.tile([0.0, 0, 0, 1], (3, 1)),
        obs__robot0_joint_pos=np.zeros((3, 7)),
        obs__robot0_gripper_qpos=np.zeros((3, 2)),
    )
    episode = SourceRequest(path).open()[0]
    said = "the arm made 25% of it in a step"
    assert said in caplog.text
    assert "--actions measured" in caplog.text
    assert any(said in warning for warning in summary(0, episode).warnings)
    caplog.clear()
    convert(ConversionRequest(SourceRequest(path), tmp_path / "out", "hdf5", actions="measured"))
    assert "--actions measured" not in caplog.text
    measured = SourceRequest(tmp_path / "out").open()[0]
    np.testing.assert_allclose(measured.actions[:, 0], [0.0063, 0.0063], atol=1e-12)
    assert not any("of it in a step" in warning for warning in summary(0, measured).warnings)


def test_measured_actions_need_poses(tmp_path):
    with pytest.raises(InvalidValueError, match="no measured poses"):
        SourceRequest(write_robomimic(tmp_path / "a.hdf5"), actions="measured").open()[0]
