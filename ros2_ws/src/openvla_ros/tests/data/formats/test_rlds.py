"""RLDS in and out without TensorFlow, and the table of conventions that imports go by."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from support.generated_episodes import assert_same_episode, make_episode

from openvla_ros.data.formats.rlds_columns import absolute_from_relative, settle
from openvla_ros.data.formats.rlds_conventions import convention_table, find_convention, parse_conventions
from openvla_ros.data.formats.rlds_reader import INFO, RldsSource
from openvla_ros.data.formats.rlds_writer import describe_features, shard_name, write_description, write_shard
from openvla_ros.data.formats.tf_example import parse_example, serialise_example
from openvla_ros.data.formats.tfds_features import Record, parse_features
from openvla_ros.data.formats.tfrecord import iterate_records
from openvla_ros.data.training.mixture import open_mixture
from openvla_ros.data.training.training_reader import TrainingReader
from openvla_ros.errors import DatasetError
from openvla_ros.integrity.checksums import SUMS
from openvla_ros.values.geometry import transform_euler_to_matrix


def write_dataset(folder, groups, name="demo"):
    out = folder / name / "1.0.0"
    out.mkdir(parents=True)
    sizes = [write_shard(out / shard_name(name, i, len(groups)), group) for i, group in enumerate(groups)]
    write_description(out, name, describe_features(groups[0][0]), [len(g) for g in groups], sizes)
    return out


def feature(kind, shape=(), dtype="float32", **extra):
    if kind == "text":
        return {"text": {}}
    if kind == "image":
        return {"image": {"shape": {"dimensions": ["-1", "-1", "3"]}, "encodingFormat": "jpeg"}}
    dims = {"dimensions": [str(n) for n in shape]} if shape else {}
    return {"tensor": {"shape": dims, "dtype": dtype, "encoding": "none", **extra}}


def make_record(columns):
    """A record with the given step columns: path → array, list of texts or list of images."""
    tree = {}
    values = {}
    for path, column in columns.items():
        if isinstance(column, list):
            spec = feature("image" if column[0][:2] == b"\xff\xd8" else "text")
            values[f"steps/{path}"] = column
        else:
            spec = feature("tensor", column.shape[1:], str(column.dtype))
            values[f"steps/{path}"] = column.reshape(-1).astype(
                np.float32 if column.dtype.kind == "f" else np.int64
            )
        node = tree
        *parents, leaf = path.split("/")
        for name in parents:
            node = node.setdefault(name, {"featuresDict": {"features": {}}})["featuresDict"]["features"]
        node[leaf] = spec
    features = {
        "featuresDict": {
            "features": {
                "steps": {"sequence": {"feature": {"featuresDict": {"features": tree}}, "length": "-1"}}
            }
        }
    }
    example = parse_example(serialise_example(values), "test")
    return Record(parse_features(features, "test"), example, "test")


@pytest.mark.parametrize("jpeg", [False, True])
def test_export_and_import_give_the_same_numbers(tmp_path, jpeg):
    groups = [[make_episode(i, 4 + i, jpeg=jpeg) for i in range(3)], [make_episode(7, jpeg=jpeg)]]
    write_dataset(tmp_path, groups)
    source = RldsSource(tmp_path)
    episodes = [episode for group in groups for episode in group]
    assert len(source) == len(episodes)
    for index, episode in enumerate(episodes):
        assert_same_episode(source[index], episode)


def test_optional_fields_stay_absent(tmp_path):
    episode = make_episode(0, joint_positions=None, poses=None, gripper=None)
    write_dataset(tmp_path, [[episode]])
    assert_same_episode(RldsSource(tmp_path)[0], episode)


def test_jpeg_images_pass_through_unchanged(tmp_path):
    episode = make_episode(0, jpeg=True)
    write_dataset(tmp_path, [[episode]])
    copied = RldsSource(tmp_path)[0].images["wrist"]
    assert [copied.encoded(i) for i in range(6)] == [episode.images["wrist"].encoded(i) for i in range(6)]


def test_the_bridge_episodes_import(bridge_folder):
    source = RldsSource(bridge_folder)
    assert len(source) == 25
    space = source[0].space
    assert (space.frame, space.rate_hz, space.gripper_open) == ("base", 5, 1.0)
    (path,) = bridge_folder.glob("*.tfrecord*")
    for index, data in enumerate(iterate_records(path)):
        example, episode = parse_example(data, ""), source[index]
        actions = example["steps/action"].reshape(-1, 7)[1:]  # the first action is zero by convention
        states = example["steps/observation/state"].reshape(-1, 7)[1:]
        np.testing.assert_array_equal(episode.actions[:, :6], actions[:, :6].astype(np.float64))
        assert set(np.unique(episode.actions[:-1, 6])) <= {0.0, 1.0, episode.actions[-1, 6]}
        np.testing.assert_array_equal(episode.poses[:, :3, 3], states[:, :3].astype(np.float64))
        np.testing.assert_allclose(episode.gripper, np.clip(states[:, 6], 0, 1), atol=1e-7)
        assert episode.instruction == example["steps/language_instruction"][0].decode()
        image = episode.observation(0).images["primary"]
        assert image.shape == (64, 64, 3)
        assert image.std() > 5
        # The tool looks down at the table: its x axis points mostly along -z of the base.
        assert np.all(episode.poses[:, 2, 0] < -0.5)


def test_bridge_commands_are_followed_by_the_measured_poses(bridge_folder):
    """The sign and frame of the actions: commanded and measured motion point the same way."""
    moves = []
    for episode in RldsSource(bridge_folder):
        moves.append(np.stack([episode.actions[:-1], episode.measured_deltas()]))
    commanded, measured = np.concatenate(moves, axis=1)
    for axis in (0, 1, 2, 3, 5):  # these tasks hardly pitch
        assert np.corrcoef(commanded[:, axis], measured[:, axis])[0, 1] > 0.5, axis


def test_bridge_exports_and_imports_unchanged(bridge_folder, tmp_path):
    episodes = list(RldsSource(bridge_folder))
    write_dataset(tmp_path, [episodes[:10], episodes[10:]], "bridge_copy")
    for got, want in zip(RldsSource(tmp_path), episodes, strict=True):
        assert_same_episode(got, want)


def test_a_truncated_shard_loses_only_what_was_cut(tmp_path):
    out = write_dataset(tmp_path, [[make_episode(i) for i in range(3)]])
    (shard,) = out.glob("*.tfrecord*")
    shard.write_bytes(shard.read_bytes()[:-100])
    source = RldsSource(tmp_path)
    assert len(source) == 3
    assert_same_episode(source[1], make_episode(1))
    with pytest.raises(DatasetError, match=r"truncated: the record at byte \d+"):
        source[2]


def test_missing_pieces_are_named(tmp_path):
    out = write_dataset(tmp_path, [[make_episode(0)], [make_episode(1)]])
    with pytest.raises(DatasetError, match=r"'test' has no files; splits with files: \['train'\]"):
        RldsSource(out, split="test")
    (out / shard_name("demo", 1, 2)).unlink()
    with pytest.raises(DatasetError, match=r"files are missing.*00001-of-00002"):
        RldsSource(out)
    with pytest.raises(DatasetError, match="no TFDS dataset"):
        RldsSource(tmp_path / "nowhere")


def test_an_unknown_dataset_lists_the_known_ones(tmp_path):
    with pytest.raises(DatasetError, match=r"'my_lab'.*bridge_orig"):
        find_convention("my_lab")


def test_every_dataset_of_the_openvla_mixture_has_an_entry():
    table = convention_table()
    assert len(table.mixtures["oxe_magic_soup_plus"]) == 27
    for convention in table.datasets.values():
        assert convention.space().width == 7
        assert convention.images
    assert table.mixtures["oxe_magic_soup_plus"]["droid"] == 0.06
    assert "droid" not in table.mixtures["oxe_magic_soup_plus_minus"]


def test_a_named_mixture_is_found_in_a_folder_of_datasets(bridge_folder, tmp_path):
    with pytest.raises(DatasetError, match=r"no mixture is called 'soup'; choose from bridge, bridge_rt_1"):
        open_mixture("soup", tmp_path)
    (tmp_path / "bridge_orig").symlink_to(bridge_folder)
    with pytest.raises(DatasetError, match="lacks datasets of mixture bridge_rt_1: fractal20220817_data"):
        open_mixture("bridge_rt_1", tmp_path)
    mixture = open_mixture("bridge", tmp_path)
    reader = TrainingReader(mixture.sources, weights=mixture.weights)
    assert reader.shares == {"bridge_orig": 1.0}
    assert reader[0].dataset == "bridge_orig"


def test_a_mixture_leaves_refused_datasets_out_by_name(tmp_path, caplog):
    with pytest.raises(
        DatasetError, match=r"lacks datasets of mixture oxe_magic_soup_plus: .*droid"
    ) as error:
        open_mixture("oxe_magic_soup_plus", tmp_path)
    assert "toto" not in str(error.value)
    assert "mixture oxe_magic_soup_plus: toto is left out: its actions" in caplog.text


def test_a_wrong_table_names_entry_and_key():
    text = """
defaults:
  {instruction: i, frame: base, rotation_is: euler_xyz, units: ["1", "1"], bounds: [1, 3], skip_first: 0}
mixtures: {}
datasets:
  lab: {rate_hz: 5, images: {a: b}, translation: a, rotation: a, gripper: {constant: 1}, frame: world}
"""
    with pytest.raises(DatasetError, match=r"table\.yaml: lab.frame: .*'base' or 'tool'.*'world'"):
        parse_conventions(text, "table.yaml")


def test_relative_gripper_commands_become_openings():
    np.testing.assert_array_equal(
        absolute_from_relative(np.array([0, 0, 1.0, 0, -1.0, 0])), [1, 1, 0, 0, 1, 1]
    )
    np.testing.assert_array_equal(absolute_from_relative(np.array([0, -0.5, 0, 0.5])), [0, 1, 1, 0])
    np.testing.assert_array_equal(absolute_from_relative(np.array([0.05, -0.05, 0.0])), [1, 1, 1])


def test_unsettled_gripper_values_become_the_next_settled_one():
    np.testing.assert_array_equal(settle(np.array([1, 0.6, 0.2, 0, 0.5, 1.0])), [1, 0, 0, 0, 1, 1])
    np.testing.assert_array_equal(settle(np.array([1, 0.6, 0.7])), [1, 0.7, 0.7])


def jpeg_column(count):
    return [make_episode(0, jpeg=True).images["wrist"].encoded(0)] * count


def test_droid_has_the_opposite_gripper_sign():
    generator = np.random.default_rng(0)
    cartesian = generator.normal(size=(4, 6)).astype(np.float32)
    closed = np.array([[0.0], [0.2], [1.0], [1.0]])
    record = make_record(
        {
            "observation/exterior_image_1_left": jpeg_column(4),
            "observation/exterior_image_2_left": jpeg_column(4),
            "observation/wrist_image_left": jpeg_column(4),
            "observation/cartesian_position": cartesian,
            "observation/joint_position": generator.normal(size=(4, 7)).astype(np.float32),
            "observation/gripper_position": closed.astype(np.float32),
            "action_dict/cartesian_velocity": cartesian,
            "action_dict/gripper_position": closed.astype(np.float32),
            "language_instruction": [b"close it"] * 4,
            "reward": np.array([0, 0, 0, 1], np.float32),
        }
    )
    episode = find_convention("droid").episode("x", record, {})
    np.testing.assert_allclose(episode.actions[:, 6], 1 - closed[:, 0], atol=1e-7)
    np.testing.assert_allclose(episode.gripper, 1 - closed[:, 0], atol=1e-7)
    np.testing.assert_array_equal(episode.poses[:, :3, :3], transform_euler_to_matrix(cartesian[:, 3:]))
    assert (episode.outcome, episode.space.units[0], set(episode.images)) == (
        "success", "0.075 m", {"primary", "secondary", "wrist"},
    )  # fmt: skip


def test_fractal_gripper_is_relative_and_its_pose_a_quaternion():
    record = make_record(
        {
            "observation/image": jpeg_column(3),
            "observation/natural_language_instruction": [b"pick apple"] * 3,
            "observation/base_pose_tool_reached": np.tile([1, 2, 3, 0, 0, 1, 0], (3, 1)).astype(np.float32),
            "observation/gripper_closed": np.array([[0], [0], [1]], np.float32),
            "action/world_vector": np.ones((3, 3), np.float32),
            "action/rotation_delta": np.zeros((3, 3), np.float32),
            "action/gripper_closedness_action": np.array([[0], [1], [0]], np.float32),
        }
    )
    episode = find_convention("fractal20220817_data").episode("x", record, {})
    assert (episode.instruction, episode.rate_hz) == ("pick apple", 3)
    np.testing.assert_array_equal(episode.actions[:, 6], [1, 0, 0])
    np.testing.assert_array_equal(episode.gripper, [1, 1, 0])
    np.testing.assert_allclose(episode.poses[0, :3, :3], np.diag([-1, -1, 1]), atol=1e-12)


def test_language_table_decodes_code_points():
    text = np.zeros((2, 32), np.int32)
    text[:, :4] = [ord(c) for c in "push"]
    record = make_record(
        {
            "observation/rgb": jpeg_column(2),
            "observation/instruction": text,
            "action": np.array([[0.1, 0.2], [0.3, 0.4]], np.float32),
            "is_first": np.array([True, False]),
        }
    )
    episode = find_convention("language_table").episode("x", record, {})
    assert episode.instruction == "push"
    np.testing.assert_allclose(episode.actions[1], [0.3, 0.4, 0, 0, 0, 0, 1], atol=1e-7)


def test_words_in_another_encoding_are_refused_instead_of_being_changed():
    record = make_record({"instruction": ["schließe".encode("latin-1")] * 2})
    with pytest.raises(DatasetError, match=r"'steps/instruction' is not UTF-8: b'schlie\\xdfe'"):
        record.text("steps/instruction")
    assert make_record({"instruction": ["schließe".encode()]}).text("steps/instruction") == "schließe"


@pytest.mark.parametrize("kind", ["riegeli", "parquet", "bagz"])
def test_another_file_format_of_tfds_is_named(tmp_path, kind):
    """The formats of tensorflow-datasets 4.9.9, whose ``convert_format`` changes one into another."""
    folder = write_dataset(tmp_path, [[make_episode(0)]])
    info = json.loads((folder / INFO).read_text())
    (folder / INFO).write_text(json.dumps(info | {"fileFormat": kind}))
    (folder / SUMS).unlink(missing_ok=True)
    for path in folder.glob("*.tfrecord*"):
        path.rename(folder / path.name.replace("tfrecord", kind))
    with pytest.raises(
        DatasetError, match=rf"its files are {kind}; tfrecord and array_record are read.*convert_format"
    ):
        RldsSource(folder)


def test_a_missing_column_is_named():
    record = make_record({"is_first": np.array([True])})
    with pytest.raises(DatasetError, match="no feature 'steps/action/world_vector'"):
        find_convention("fractal20220817_data").episode("x", record, {})


CHECK_WITH_TFDS = """
import json, sys
import numpy as np
import tensorflow_datasets as tfds
builder = tfds.builder_from_directory(sys.argv[1])
out = []
for episode in builder.as_dataset(split="train"):
    steps = list(episode["steps"].as_numpy_iterator())
    out.append({
        "action": [s["action"].tolist() for s in steps],
        "exact": [s["openvla_ros"]["action"].tolist() for s in steps],
        "instruction": steps[0]["language_instruction"].decode(),
        "last": [bool(s["is_last"]) for s in steps],
        "image": np.asarray([s["observation"]["image_wrist"] for s in steps]).tolist(),
    })
print("RESULT" + json.dumps(out))
"""


@pytest.mark.slow
def test_tensorflow_datasets_reads_the_export(tmp_path):
    python = os.environ.get("OPENVLA_ROS_TFDS_PYTHON", sys.executable)
    probe = [python, "-c", "import tensorflow_datasets, tensorflow"]
    if subprocess.run(probe, capture_output=True, check=False, timeout=120).returncode:
        pytest.skip(
            "tensorflow_datasets is not installed; OPENVLA_ROS_TFDS_PYTHON names a Python that has it"
        )
    groups = [[make_episode(i) for i in range(2)], [make_episode(2)]]
    out = write_dataset(tmp_path, groups)
    done = subprocess.run(
        [python, "-c", CHECK_WITH_TFDS, str(out)], capture_output=True, text=True, check=False, timeout=160,
        env={**os.environ, "PYTHONPATH": "", "TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    read = json.loads(done.stdout.split("RESULT")[1])
    by_instruction = {episode["instruction"]: episode for episode in read}
    episodes = [episode for group in groups for episode in group]
    assert len(read) == len(episodes)
    for episode in episodes:
        got = by_instruction[episode.instruction]
        np.testing.assert_array_equal(np.float32(got["action"]), episode.actions.astype(np.float32))
        np.testing.assert_array_equal(got["exact"], episode.actions)
        assert got["last"] == [False] * (len(episode) - 1) + [True]
        images = [episode.images["wrist"][i] for i in range(len(episode))]
        np.testing.assert_array_equal(got["image"], images)
