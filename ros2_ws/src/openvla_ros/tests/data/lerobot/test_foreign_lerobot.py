"""Datasets that others wrote: their keys, words, rates, names and depth, read rightly or refused by name."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.action_spaces import in_space
from support.foreign_lerobot import change_column, foreign_actions, plain_png, write_foreign

from openvla_ros.data.datasets.open_dataset import SourceRequest
from openvla_ros.data.lerobot.lerobot_reader import LerobotSource
from openvla_ros.errors import DatasetError, InvalidValueError
from openvla_ros.profile import load_profile

SPACE = load_profile("franka").space()  # 5 Hz
OPENPI = ("actions", "state", "image")


def test_each_frame_has_its_own_words(tmp_path):
    """CASES 16: the words of most frames stay, the other frames are left out and counted, as in bags."""
    folder = write_foreign(
        tmp_path / "d", (6, 8), tasks=("open the drawer", "close the drawer"),
        task_of=lambda episode, step: int(step >= (4 if episode == 0 else 3)),
    )  # fmt: skip
    source = LerobotSource(folder)
    first, second = source[0], source[1]
    assert (first.instruction, len(first)) == ("open the drawer", 4)
    assert (second.instruction, len(second)) == ("close the drawer", 5)
    np.testing.assert_array_equal(second.actions, foreign_actions(8, 1)[3:])
    assert second.images["top"][0].mean() == 60  # the image of step 3
    assert first.provenance["steps_of_other_instructions"] == "2"
    assert second.provenance["steps_of_other_instructions"] == "3"


def test_the_text_may_stand_in_the_table_of_tasks_alone(tmp_path):
    """CASES 16: `lerobot/task_index_only_v30`; lerobot's conversion to video drops `tasks` too."""
    folder = write_foreign(
        tmp_path / "d", tasks=("open the drawer", "close the drawer"),
        task_of=lambda episode, step: episode, listed_tasks=False,
    )  # fmt: skip
    assert [LerobotSource(folder)[i].instruction for i in (0, 1)] == ["open the drawer", "close the drawer"]


def test_frames_whose_task_is_not_in_the_table_are_left_out(tmp_path):
    folder = write_foreign(
        tmp_path / "d", task_of=lambda episode, step: 7 if step > 3 else 0, tasks=("go",), listed_tasks=False
    )
    episode = LerobotSource(folder)[0]
    assert (episode.instruction, len(episode)) == ("go", 4)
    assert episode.provenance["steps_of_other_instructions"] == "2"


def test_several_tasks_that_no_frame_is_given_to_are_refused(tmp_path):
    folder = write_foreign(
        tmp_path / "d", tasks=("a", "b"), task_of=lambda episode, step: step % 2, version="v2.1"
    )
    (folder / "meta/tasks.jsonl").unlink()
    with pytest.raises(DatasetError, match=r"several tasks \('a', 'b'\)"):
        LerobotSource(folder)[0]


def test_another_rate_than_the_profiles_is_refused_with_both(tmp_path):
    """CASES 17: deltas of 30 Hz that a 5 Hz profile describes would move a sixth as fast."""
    folder = write_foreign(tmp_path / "d", (30, 36), fps=30, names=["delta_" + n for n in "xyz"] +
                           ["delta_rx", "delta_ry", "delta_rz", "gripper"])  # fmt: skip
    with pytest.raises(DatasetError, match=r"recorded at 30 Hz.* for 5 Hz.*--rate 5 composes 6 into one"):
        LerobotSource(folder, space=SPACE)[0]
    episode = SourceRequest(folder, space=SPACE, rate_hz=5).open()[0]
    assert (episode.rate_hz, episode.space.rate_hz, len(episode)) == (5.0, 5.0, 5)
    sums = foreign_actions(30).reshape(5, 6, 7)[..., :3].sum(axis=1)
    np.testing.assert_allclose(episode.actions[:, :3], sums, atol=1e-7)


def test_a_rate_that_does_not_divide_is_not_offered(tmp_path):
    folder = write_foreign(tmp_path / "d", fps=12)
    with pytest.raises(DatasetError, match=r"recorded at 12 Hz(?!.*--rate)"):
        LerobotSource(folder, space=SPACE)[0]


def test_the_data_s_rate_is_that_of_its_action_space(tmp_path):
    """The manifest of an adapter takes its rate from there."""
    episode = LerobotSource(write_foreign(tmp_path / "d", fps=30))[0]
    assert episode.space.rate_hz == 30.0


@pytest.mark.parametrize(
    "names",
    [
        ["shoulder_pan.pos", "shoulder_lift.pos", "elbow_flex.pos", "wrist_flex.pos", "wrist_roll.pos",
         "wrist_yaw.pos", "gripper.pos"],
        {"motors": [f"joint_{i}" for i in range(6)] + ["gripper"]},
        {"joints": [f"{i}" for i in range(7)]},
    ],
)  # fmt: skip
def test_joints_are_not_read_as_a_pose(tmp_path, names):
    """CASES 18: with a profile, any seven numbers were x, y, z, roll, pitch, yaw, gripper."""
    folder = write_foreign(tmp_path / "d", names=names)
    with pytest.raises(DatasetError, match=r"does not match the profile's action space.*joint"):
        LerobotSource(folder, space=SPACE)[0]


def test_gripper_commands_in_other_units_are_refused(tmp_path):
    folder = write_foreign(tmp_path / "d", keys=OPENPI, names=["actions"])
    change_column(folder, "actions", lambda values: values * [1, 1, 1, 1, 1, 1, -1])
    with pytest.raises(DatasetError, match=r"gripper's commands span -1 \.\. -1"):
        LerobotSource(folder, space=SPACE)[0]


@pytest.mark.parametrize("version", ["v3.0", "v2.1", "v2.0"])
def test_openpis_keys(tmp_path, version):
    """CASES 20: openpi writes `actions`, `state`, `image`; version 2.0 has the layout of 2.1."""
    folder = write_foreign(tmp_path / "d", keys=OPENPI, names=["actions"], version=version)
    with pytest.raises(DatasetError, match="give a robot profile"):
        LerobotSource(folder)[0]
    source = LerobotSource(folder, space=SPACE)
    np.testing.assert_array_equal(source[1].actions, foreign_actions(8, 1))
    assert source[1].images["image"][4].mean() == 80
    assert source[1].instruction == "pick up the cup"


def test_images_in_files_that_the_rows_name(tmp_path):
    """CASES 20: `lerobot/image_paths`."""
    name = "images/observation.images.top/episode_{:06d}/frame_{:06d}.png"
    folder = write_foreign(
        tmp_path / "d", version="v2.1",
        image=lambda episode, step: {"bytes": None, "path": name.format(episode, step)},
    )  # fmt: skip
    episode = LerobotSource(folder)[1]
    with pytest.raises(DatasetError, match=r"frame_000002\.png: cannot be read"):
        episode.images["top"][2]
    file = folder / name.format(1, 2)
    file.parent.mkdir(parents=True)
    file.write_bytes(plain_png(33))
    assert episode.images["top"][2].mean() == 33


@pytest.mark.parametrize("row", [{"bytes": None, "path": "../../secret.png"}, {"bytes": None, "path": None}])
def test_an_image_outside_of_the_dataset_or_nowhere_is_refused(tmp_path, row):
    (tmp_path / "secret.png").write_bytes(plain_png(1))
    folder = write_foreign(
        tmp_path / "a/d", version="v2.1", image=lambda episode, step: row | {"bytes": None}
    )
    with pytest.raises(DatasetError, match=r"outside of the dataset|neither an image nor a path"):
        LerobotSource(folder)[0].images["top"][0]


@pytest.mark.parametrize(
    "depth",
    [
        {"dtype": "video", "shape": [48, 64, 1], "info": {"is_depth_map": True}},
        {"dtype": "video", "shape": [48, 64, 3], "info": {"video.is_depth_map": True}},
        {"dtype": "video", "shape": [48, 64, 3], "video_info": {"video.is_depth_map": True}},
        {"dtype": "video", "shape": [48, 64, 3], "info": {"video.pix_fmt": "gray12le"}},
        {"dtype": "image", "shape": [1, 48, 64]},
    ],
)
def test_depth_is_no_colour_camera(tmp_path, caplog, depth):
    """CASES 19: lerobot 0.6.1's depth video is a 12-bit logarithmic code; as colours 12 m are white."""
    folder = write_foreign(tmp_path / "d", features={"observation.images.depth": depth})
    source = LerobotSource(folder)
    assert [list(source[i].images) for i in range(2)] == [["top"], ["top"]]
    said = [r.getMessage() for r in caplog.records if "depth is not read" in r.getMessage()]
    assert len(said) == 1
    assert "skipped: observation.images.depth" in said[0]


def test_rates_of_an_adapter_and_its_steps_cannot_differ(tmp_path):
    """An episode whose action space is for another rate is no episode, whatever format it comes from."""
    episode = LerobotSource(write_foreign(tmp_path / "d"))[0]
    with pytest.raises(InvalidValueError, match="steps at 30 Hz, but an action space for 5 Hz"):
        dataclasses.replace(episode, rate_hz=30.0)


def test_tasks_with_two_texts_for_a_number_are_refused(tmp_path):
    folder = write_foreign(tmp_path / "d", version="v2.1")
    lines = [{"task_index": 0, "task": "a"}, {"task_index": 0, "task": "b"}]
    (folder / "meta/tasks.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(DatasetError, match="two texts to one task_index"):
        LerobotSource(folder)[0]


JOINT_PROFILE = in_space(load_profile("sim_widowx"), "joint_position", "none")
JOINT_NAMES = [f"main_{name}.pos" for name in JOINT_PROFILE.arm.joints] + ["gripper.pos"]


def test_joint_targets_are_read_with_a_profile_of_joint_targets(tmp_path):
    folder = write_foreign(tmp_path / "d", names=JOINT_NAMES)
    episode = LerobotSource(folder, space=JOINT_PROFILE.space())[1]
    assert episode.space.kind == "joint_position"
    np.testing.assert_array_equal(episode.actions, foreign_actions(8, 1))


@pytest.mark.parametrize(
    ("kind", "names", "words"),
    [
        ("joint_position", [*JOINT_NAMES[1::-1], *JOINT_NAMES[2:]], "'main_shoulder.pos' is 'shoulder'"),
        (
            "joint_position",
            [f"delta_{name}" for name in JOINT_NAMES[:6]] + ["gripper"],
            "a change of a target",
        ),
        ("joint_position", None, "'x' is x, the action space's dimension there is 'waist'"),
        ("joint_delta", [f"abs_{name}" for name in JOINT_NAMES[:6]] + ["gripper"], "a target itself"),
    ],
)
def test_names_that_contradict_joint_actions_are_refused(tmp_path, kind, names, words):
    folder = write_foreign(tmp_path / "d", names=names)
    space = in_space(load_profile("sim_widowx"), kind, "none").space()
    with pytest.raises(DatasetError, match=words):
        LerobotSource(folder, space=space)[0]


def test_joint_targets_in_degrees_are_refused(tmp_path):
    folder = write_foreign(tmp_path / "d", names=JOINT_NAMES)
    change_column(folder, "action", lambda values: values * [1, 9000, 1, 1, 1, 1, 1])
    with pytest.raises(DatasetError, match=r"targets of shoulder span .* -1.86 .. 1.96 rad: another unit"):
        LerobotSource(folder, space=JOINT_PROFILE.space())[0]


def test_rows_of_several_lengths_are_refused_and_not_cut_anew(tmp_path):
    folder = write_foreign(tmp_path / "d", (6,))
    table = folder / "data" / "chunk-000" / "file-000.parquet"
    rows = pq.read_table(table)
    actions = rows.column("action").to_pylist()
    actions[0], actions[1] = [*actions[0], *actions[1][:2]], actions[1][2:]  # as many numbers in all
    place = rows.schema.get_field_index("action")
    pq.write_table(rows.set_column(place, "action", pa.array(actions, pa.list_(pa.float32()))), table)
    with pytest.raises(DatasetError, match=r"column action: rows of .* numbers; all need as many"):
        LerobotSource(folder, space=SPACE)[0]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "codebase_version is None; supported: v3.0, v2.1, v2.0"),
        ({"codebase_version": "v3.0"}, "lacks fps"),
    ],
)
def test_an_info_that_lacks_something_says_what(tmp_path, values, said):
    folder = write_foreign(tmp_path / "d", (6,))
    (folder / "meta" / "info.json").write_text(json.dumps(values))
    with pytest.raises(DatasetError, match=said):
        LerobotSource(folder)
