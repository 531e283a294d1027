"""What is wrong with a request is said before training: its settings, its data, its robot."""

from dataclasses import replace

import pytest
from support.tiny_training_run import PROFILE, QUICK, Notes, make_request, write_data

from openvla_ros.errors import CheckpointError, DatasetError, InvalidValueError, TrainingError
from openvla_ros.manifest import read_manifest
from openvla_ros.profile import dump_profile
from openvla_ros.training.data.selection import Selection
from openvla_ros.training.finetune import finetune
from openvla_ros.training.recipe import Recipe

pytestmark = pytest.mark.usefixtures("no_report")


def test_data_that_names_no_robot_is_refused_before_training(base, tmp_path):
    demos = write_data(tmp_path / "demos.hdf5", 2, provenance={})
    notes = Notes()
    with pytest.raises(TrainingError, match="give --robot"):
        finetune(make_request(base, demos, tmp_path / "run"), notes)
    assert not notes.steps
    finetune(make_request(base, demos, tmp_path / "run", replace(QUICK, steps=1), robot="widowx"), notes)
    assert read_manifest(tmp_path / "run").robot == "widowx"


def test_a_robot_that_does_not_match_the_data_is_refused_before_training(base, data, tmp_path):
    text = dump_profile(PROFILE)
    for number, (old, new, line) in enumerate(
        (
            (
                "gripper_open: 1",
                "gripper_open: 0",
                r"action_space\.gripper_open: data 1\.0, robot widowx 0\.0",
            ),
            ("- name: primary", "- name: wrist", r"cameras: data \('primary',\), robot widowx \('wrist',\)"),
        )
    ):
        assert old in text
        other = tmp_path / f"{number}.yaml"
        other.write_text(text.replace(old, new, 1))
        with pytest.raises(TrainingError, match=rf"with widowx\) does not match --robot .*\n  {line}"):
            finetune(make_request(base, data, tmp_path / "run", robot=str(other)), Notes())
    same, notes = tmp_path / "mine.yaml", Notes()
    same.write_text(text.replace("name: widowx", "name: mine", 1))
    request = make_request(base, data, tmp_path / "run", replace(QUICK, steps=1), robot=str(same))
    finetune(request, notes)
    assert read_manifest(tmp_path / "run").robot == "mine"
    assert "the data was recorded with widowx; the result is for mine" in notes.lines


def test_bad_requests_say_what_is_wrong(base, data, tmp_path):
    with pytest.raises(InvalidValueError, match="nonsense"):
        finetune(make_request(base, data, tmp_path / "a", replace(QUICK, targets=("nonsense",))), Notes())
    with pytest.raises(CheckpointError):
        finetune(make_request(tmp_path / "nowhere", data, tmp_path / "b"), Notes())
    with pytest.raises(InvalidValueError, match="targets: only for lora and qlora"):
        Recipe(method="full", targets=("q_proj",))
    with pytest.raises(InvalidValueError, match="clip_norm is 0"):
        replace(QUICK, clip_norm=0.0)
    with pytest.raises(InvalidValueError, match="validation_share is 1"):
        Selection(validation_share=1.0)
    request = make_request(base, data, tmp_path / "c", selection=Selection(camera="left"))
    with pytest.raises(DatasetError, match="no camera 'left'"):
        finetune(request, Notes())
