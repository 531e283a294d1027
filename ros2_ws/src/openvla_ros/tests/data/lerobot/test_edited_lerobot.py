"""Datasets that this package wrote and others edited: what everybody reads wins, and the meaning stays."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.foreign_lerobot import change_column, drop_column, edit_info, lose_unknown_columns
from support.generated_episodes import assert_same_episode, make_episode

from openvla_ros.data.datasets.listing import summary
from openvla_ros.data.episodes.layout import Layout
from openvla_ros.data.lerobot.lerobot_reader import EDITED, LerobotSource
from openvla_ros.data.lerobot.lerobot_writer import LerobotPart, merge_parts
from openvla_ros.errors import DatasetError
from openvla_ros.profile import load_profile

EPISODES = [make_episode(seed, 6 + seed) for seed in range(3)]


def written_as_images(folder, episodes):
    layout = Layout.of(episodes[0])
    part = folder / "part"
    part.mkdir()
    with LerobotPart(part, layout, "image") as writer:
        for episode in episodes:
            writer.add(episode)
    merge_parts([part], folder / "set", layout, "image", "widowx")
    return folder / "set"


@pytest.fixture
def written(tmp_path):
    """Three episodes: a success, a failure and one that nobody judged."""
    return written_as_images(tmp_path, EPISODES)


def test_what_a_dataset_means_survives_that_lerobot_drops_the_columns_it_does_not_know(written):
    """CASES 14: `lerobot-edit-dataset` 0.6.1, delete_episodes and split."""
    lose_unknown_columns(written)
    source = LerobotSource(written)
    for index, episode in enumerate(EPISODES):
        got = source[index]
        expected = dataclasses.replace(episode, id=f"episode_{index:06d}")
        assert_same_episode(got, expected)
        np.testing.assert_array_equal(got.space.lower, episode.space.lower)
        assert got.provenance["robot"] == "widowx"
        assert EDITED not in got.provenance


def test_units_in_the_features_own_entry_are_read_not_guessed(written):
    def in_centimetres(info):
        info["features"]["action"]["openvla_ros"]["action_space"]["units"][:3] = ["cm"] * 3

    lose_unknown_columns(written)
    edit_info(written, in_centimetres)
    assert LerobotSource(written)[0].space.units[:3] == ("cm", "cm", "cm")


def test_two_descriptions_that_differ_are_refused_with_both_values(written):
    def to_tool(info):
        info["features"]["action"]["openvla_ros"]["action_space"]["frame"] = "tool"

    edit_info(written, to_tool)
    with pytest.raises(DatasetError, match=r"frame: 'tool' here, 'base' there"):
        LerobotSource(written)[0]


def test_a_dataset_of_ours_without_any_description_is_never_guessed(written):
    """As 0.1.0 wrote them and lerobot's delete left them: `lerobot/ours_episode_deleted`."""
    lose_unknown_columns(written)
    edit_info(written, lambda info: info["features"]["action"].pop("openvla_ros"))
    with pytest.raises(DatasetError, match=r"description was lost.*give the robot profile"):
        LerobotSource(written)[0]
    got = LerobotSource(written, space=load_profile("widowx").space())[0]
    np.testing.assert_array_equal(got.actions, EPISODES[0].actions)


def test_halved_actions_are_the_actions_and_that_is_said(written, caplog):
    """CASES 13: another tool changed the public column alone."""
    change_column(written, "action", lambda values: values * 0.5)
    source = LerobotSource(written)
    for index, episode in enumerate(EPISODES):
        got = source[index]
        np.testing.assert_array_equal(got.actions, (episode.actions.astype(np.float32) * 0.5))
        assert got.provenance[EDITED] == "action"
        assert any("edited" in warning for warning in summary(index, got).warnings)
    assert len([r for r in caplog.records if "edited by another tool" in r.getMessage()]) == 1


def test_an_edited_state_moves_poses_and_gripper(written):
    change_column(written, "observation.state", lambda values: values * [1, 1, 2, 1, 1, 1, 0.5])
    got = LerobotSource(written)[1]
    np.testing.assert_allclose(got.poses[:, 2, 3], 2 * EPISODES[1].poses[:, 2, 3], rtol=1e-6)
    np.testing.assert_allclose(got.poses[:, :3, :3], EPISODES[1].poses[:, :3, :3], atol=1e-6)
    np.testing.assert_allclose(got.gripper, 0.5 * EPISODES[1].gripper, atol=1e-7)
    assert got.provenance[EDITED] == "observation.state"


def test_edited_times_are_taken(written):
    change_column(written, "timestamp", lambda values: values * 3)
    got = LerobotSource(written)[0]
    np.testing.assert_allclose(np.diff(got.stamps_ns), 600_000_000, atol=100)
    assert got.provenance[EDITED] == "timestamp"


def test_an_edited_task_is_the_instruction(written):
    """CASES 13: lerobot's modify_tasks rewrites the table and every `task_index`."""
    (written / "SHA256SUMS").unlink(missing_ok=True)
    path = written / "meta/tasks.parquet"
    tasks = pq.read_table(path)
    texts = ["only episode zero", *tasks.column("task").to_pylist()[1:]]
    pq.write_table(tasks.set_column(1, "task", pa.array(texts)), path)
    source = LerobotSource(written)
    assert source[0].instruction == "only episode zero"
    assert source[0].provenance[EDITED] == "instruction"
    assert source[1].instruction == EPISODES[1].instruction
    assert EDITED not in source[1].provenance


@pytest.mark.parametrize("name", ["action", "stamp_ns", "flags", "joint_positions", "pose", "gripper"])
def test_a_removed_column_of_ours_leaves_the_public_one(written, name):
    """CASES 15: `lerobot/ours_feature_removed` ended with KeyError."""
    drop_column(written, f"openvla_ros.{name}")
    got = LerobotSource(written)[0]
    np.testing.assert_array_equal(got.actions.astype(np.float32), EPISODES[0].actions.astype(np.float32))
    if name == "joint_positions":
        assert got.joint_positions is None
    if name in ("pose", "gripper"):  # the state holds both
        np.testing.assert_allclose(got.poses, EPISODES[0].poses, atol=1e-6)
        np.testing.assert_allclose(got.gripper, EPISODES[0].gripper, atol=1e-7)


def test_without_actions_nothing_is_read(written):
    drop_column(written, "action")
    with pytest.raises(DatasetError, match="no feature 'action' or 'actions'; it has "):
        LerobotSource(written)[0]


def test_a_column_that_info_json_alone_names_is_missing_by_name(written):
    edit_info(
        written, lambda info: info["features"].update({"next.success": {"dtype": "bool", "shape": [1]}})
    )
    with pytest.raises(DatasetError, match=r"has no column next\.success"):
        LerobotSource(written)[0]


def test_another_rate_in_info_json_is_refused_with_both(written):
    """CASES 17: the rate is part of what a delta means."""
    edit_info(written, lambda info: info.update(fps=10))
    with pytest.raises(DatasetError, match=r"recorded at 5 Hz; meta/info\.json says 10"):
        LerobotSource(written)[0]
    lose_unknown_columns(written)
    with pytest.raises(DatasetError, match=r"for 5 Hz; meta/info\.json says 10"):
        LerobotSource(written)[0]


def test_every_number_has_statistics_of_each_episode_and_of_all(written):
    """CASES 14 and 27: lerobot 0.6.1 makes stats.json from those of the episodes, quantiles included."""
    info = json.loads((written / "meta/info.json").read_text())
    stats = json.loads((written / "meta/stats.json").read_text())
    assert set(stats) == set(info["features"])
    names = {"min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99"}
    assert all(set(values) == names for values in stats.values())
    rows = pq.read_table(written / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    for row, episode in zip(rows, EPISODES, strict=True):
        actions = episode.actions.astype(np.float32).astype(np.float64)
        np.testing.assert_allclose(row["stats/action/q10"], np.quantile(actions, 0.1, axis=0), atol=1e-12)
        np.testing.assert_allclose(row["stats/action/std"], actions.std(axis=0), atol=1e-12)
        assert row["stats/action/count"] == [len(episode)]
        assert np.shape(row["stats/observation.images.wrist/mean"]) == (3, 1, 1)
    everything = np.concatenate([e.actions for e in EPISODES]).astype(np.float32).astype(np.float64)
    for name, share in (("q10", 0.1), ("q50", 0.5), ("q90", 0.9)):
        np.testing.assert_allclose(stats["action"][name], np.quantile(everything, share, axis=0), atol=1e-9)


def test_no_column_is_constant(tmp_path):
    """CASES 27: lerobot-doctor 0.2.0 and kalanos 0.8.2 take a constant column for a broken sensor."""
    nobody = np.zeros(6, bool)  # the usual demonstration: no policy that a person could have corrected
    out = written_as_images(tmp_path, [make_episode(0, 6, intervention=nobody)])
    stats = json.loads((out / "meta/stats.json").read_text())
    constant = {name for name, values in stats.items() if np.min(values["std"]) == 0.0}
    assert constant == {"episode_index", "task_index"}  # of a single episode


def test_flags_that_mean_nothing_are_refused(written):
    change_column(written, "openvla_ros.flags", lambda values: values + 8)
    with pytest.raises(
        DatasetError, match=r"openvla_ros\.flags has unknown values; the known ones are 1 where"
    ):
        LerobotSource(written)[0]


def test_an_edited_outcome_is_taken(written):
    """The first episode was a success (6); whoever edits the column calls it a failure (4)."""
    change_column(written, "openvla_ros.flags", lambda values: np.where(values >= 6, values - 2, values))
    source = LerobotSource(written)
    assert (EPISODES[0].outcome, source[0].outcome) == ("success", "failure")
    assert source[0].provenance[EDITED] == "outcome"
    np.testing.assert_array_equal(source[0].intervention, EPISODES[0].intervention)


def test_the_card_says_what_the_actions_are(written):
    card = (written / "README.md").read_text()
    assert card.startswith("---\n")
    assert "robot: widowx" in card
    assert "| x | m | -0.05 | 0.05 |" in card
    assert EPISODES[0].instruction in card


def test_the_depth_mark_stands_under_its_new_key(tmp_path):
    part = tmp_path / "part"
    part.mkdir()
    episode = make_episode(0, size=64)
    layout = Layout.of(episode)
    with LerobotPart(part, layout, "h264") as writer:
        writer.add(episode)
    merge_parts([part], tmp_path / "set", layout, "h264", "widowx")
    info = json.loads((tmp_path / "set/meta/info.json").read_text())
    noted = info["features"]["observation.images.primary"]["info"]
    assert noted["is_depth_map"] is False  # lerobot 0.6.1, DatasetMetadata.depth_keys
    assert "video.is_depth_map" not in noted
