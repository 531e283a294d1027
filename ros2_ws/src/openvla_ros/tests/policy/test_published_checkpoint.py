"""A checkpoint without a manifest: what is known of its dataset is compared with the robot."""

import logging
import re
from dataclasses import replace

import pytest
import torch
from support.golden_checkpoints import cases

from openvla_ros.errors import ManifestError
from openvla_ros.model.inference.options import LoadOptions
from openvla_ros.policy.openvla_policy import PolicyChoices, load_openvla_policy
from openvla_ros.policy.published_checkpoint import check_published, say_trained_elsewhere
from openvla_ros.profile import RobotProfile, load_profile

WIDOWX = load_profile("widowx")


def with_space(**changes) -> RobotProfile:
    return replace(WIDOWX, action_space=replace(WIDOWX.action_space, **changes))


@pytest.mark.parametrize("robot", ["widowx", "sim_widowx", "franka", "sim_franka"])
def test_bridge_data_is_known_to_fit_robots_with_its_meaning(robot, caplog):
    check_published("bridge_orig", ["bridge_orig", "kuka"], load_profile(robot), "openvla-7b")
    check_published(None, ["bridge_orig"], load_profile(robot), "openvla-7b")
    assert not caplog.records


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"gripper_open": 0}, "action_space.gripper_open: dataset 1.0, robot 0.0"),
        ({"rate_hz": 15.0}, "action_space.rate_hz: dataset 5.0, robot 15.0"),
        ({"frame": "tool"}, "action_space.frame: dataset 'base', robot 'tool'"),
        (
            {"rotation": "rotation_vector"},
            "action_space.rotation: dataset 'euler_xyz', robot 'rotation_vector'",
        ),
    ],
)
def test_another_meaning_is_refused_with_both_values(changes, line):
    with pytest.raises(
        ManifestError, match=f"(?s)'bridge_orig' does not match robot widowx.*{re.escape(line)}"
    ):
        check_published("bridge_orig", ["bridge_orig"], with_space(**changes), "openvla-7b")


def test_actions_in_fractions_of_a_metre_are_refused():
    with pytest.raises(ManifestError, match=r"units: dataset \('0.075 m'.*robot \('m'"):
        check_published("droid", ["droid"], load_profile("franka_droid"), "openvla-7b")


def test_what_is_not_known_is_said(caplog):
    with caplog.at_level(logging.WARNING):
        check_published("my_kitchen", ["my_kitchen"], WIDOWX, "mine")
        check_published("tdroid_carrot_in_bowl", ["tdroid_carrot_in_bowl"], WIDOWX, "franka-tabletop")
    unknown, units = (record.getMessage() for record in caplog.records)
    assert "the dataset 'my_kitchen' is not known" in unknown
    assert "gripper sign, rate, frame and units of robot widowx" in unknown
    assert "the units of dataset 'tdroid_carrot_in_bowl' were not published" in units


def test_nothing_is_said_where_the_dataset_is_not_chosen_yet(caplog):
    check_published(None, ["bridge_orig", "kuka"], with_space(gripper_open=0), "openvla-7b")
    check_published("no_such_key", ["bridge_orig"], with_space(gripper_open=0), "openvla-7b")
    assert not caplog.records


def test_training_on_another_robot_is_said(caplog):
    with caplog.at_level(logging.WARNING):
        say_trained_elsewhere("widowx", WIDOWX, "mine")
        say_trained_elsewhere("franka", WIDOWX, "mine")
    (record,) = caplog.records
    assert record.getMessage().startswith("mine was trained on robot franka")


def test_loading_refuses_before_any_weights_are_read(tmp_path):
    case = cases()[0]
    choices = PolicyChoices(unnorm_key="bridge_orig", center_crop=case.center_crop)
    options = LoadOptions(dtype=torch.float32)
    with pytest.raises(ManifestError, match=r"gripper_open: dataset 1\.0, robot 0\.0"):
        load_openvla_policy(case.checkpoint, load_profile("franka_droid"), choices=choices, options=options)
