"""What is exported is what the manifest states; what cannot be, or contradicts it, is refused by name."""

import json
import shutil
from dataclasses import replace

import pytest
from support.exported_policies import BASE, KEY, source_of

from openvla_ros.errors import CheckpointError, InvalidValueError, ManifestError, StatisticsError
from openvla_ros.exporting.policy_source import ExportChoices, load_policy_source
from openvla_ros.profile import load_profile
from openvla_ros.resources import shipped_checkpoints

ROBOT = load_profile("widowx")
SLOWER = replace(ROBOT, action_space=replace(ROBOT.action_space, rate_hz=3.0))
SMALL = shipped_checkpoints()["small_base"]


def test_a_manifest_decides():
    source = source_of(str(SMALL))
    assert (source.unnorm_key, source.width, list(source.statistics)) == ("sim_widowx", 7, ["sim_widowx"])
    assert source.space.differences(load_profile("sim_widowx").space()) == []
    assert source.space_origin == "the manifest of small_base, robot sim_widowx"


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"unnorm_key": KEY}, "unnorm_key is 'sim_widowx', not 'bridge_orig' as requested"),
        ({"center_crop": True}, "center_crop is False, not True as requested"),
        ({"prompt_style": "vicuna_v01"}, "prompt_style is 'openvla', not 'vicuna_v01' as requested"),
        ({"robot": SLOWER}, "does not match robot widowx:\n  action_space.rate_hz: checkpoint 5.0, robot"),
    ],
)
def test_a_choice_that_contradicts_the_manifest(choices, said):
    with pytest.raises(ManifestError, match=said):
        load_policy_source(ExportChoices("small_base", **choices))


def test_several_datasets_are_all_exported_and_none_is_chosen():
    source = source_of()
    assert source.unnorm_key is None
    assert (source.space, source.space_origin) == (None, "several datasets")
    assert (source.widest, source.width) == ("bimanual_14d", 14)
    with pytest.raises(InvalidValueError, match="give --unnorm-key"):
        load_policy_source(ExportChoices(BASE, robot=ROBOT))


def test_a_known_dataset_states_what_its_actions_are():
    source = source_of(unnorm_key=KEY)
    assert source.space_origin == "dataset bridge_orig"
    assert (source.space.rate_hz, source.space.gripper_open, source.space.frame) == (5.0, 1.0, "base")
    with pytest.raises(
        ManifestError, match=r"does not match robot widowx:\n  action_space.rate_hz: dataset 5.0"
    ):
        load_policy_source(ExportChoices(BASE, unnorm_key=KEY, robot=SLOWER))
    with pytest.raises(StatisticsError, match="no statistics for unnorm_key 'bridge'"):
        load_policy_source(ExportChoices(BASE, unnorm_key="bridge"))


def test_an_unknown_dataset_needs_a_robot():
    unknown = "cable_zero_dim"
    source = source_of(unnorm_key=unknown)
    assert (source.space, source.space_origin) == (None, "dataset cable_zero_dim is not known")
    stated = load_policy_source(ExportChoices(BASE, unnorm_key=unknown, robot=ROBOT))
    assert (stated.space_origin, stated.space.names) == ("robot widowx", ROBOT.space().names)
    with pytest.raises(StatisticsError, match="have 14 dimensions, but the action space has 7"):
        load_policy_source(ExportChoices(BASE, unnorm_key="bimanual_14d", robot=ROBOT))


def test_kinds_that_are_not_exported(tmp_path):
    folder = tmp_path / "oft"
    shutil.copytree(BASE, folder)
    (folder / "action_head--100_checkpoint.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="OpenVLA-OFT checkpoint, which is not exported"):
        load_policy_source(ExportChoices(str(folder)))
    adapter = tmp_path / "lora"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    with pytest.raises(
        CheckpointError, match="give its base as the checkpoint, and this folder as --adapter"
    ):
        load_policy_source(ExportChoices(str(adapter)))
    config = json.loads((folder / "config.json").read_text())
    (folder / "action_head--100_checkpoint.pt").unlink()
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "prismatic"}))
    with pytest.raises(CheckpointError, match="without actions; only policies are exported"):
        load_policy_source(ExportChoices(str(folder)))
    with pytest.raises(CheckpointError, match="nowhere is not a folder"):
        load_policy_source(ExportChoices(BASE, adapter=tmp_path / "nowhere"))
