"""The manifest: what is written is read back, and a robot that differs is refused by the line."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest
from support.action_spaces import in_space
from support.golden_numbers import SETS

from openvla_ros.errors import CheckpointError, ManifestError
from openvla_ros.manifest import (
    ADAPTER_WEIGHTS,
    Manifest,
    manifest_path,
    parse_manifest,
    read_manifest,
    sha256_of_adapter,
    sha256_of_file,
    write_manifest,
)
from openvla_ros.preprocessing.dataset_statistics import STATISTICS, read_statistics, write_statistics
from openvla_ros.preprocessing.image_transform import ImageTransform
from openvla_ros.profile import dump_profile, load_profile, parse_profile


def manifest(**changes):
    folder = SETS[0] / "checkpoint"
    config = json.loads((folder / "preprocessor_config.json").read_text())
    values = {
        "base_model": "openvla/openvla-7b",
        "base_revision": "31f090d05236101ebfc381b61c674dd4746d4ce0",
        "adapter_sha256": "ab" * 32,
        "dataset_key": "bridge_orig",
        "statistics": read_statistics(folder / "dataset_statistics.json")["bridge_orig"],
        "action_space": load_profile("sim_widowx").space(),
        "prompt_style": "openvla",
        "image_transform": ImageTransform.from_config(config),
        "center_crop": True,
        "cameras": ("primary",),
        "robot": "sim_widowx",
        **changes,
    }
    return Manifest(**values)


def robot(*replacements):
    text = dump_profile(load_profile("sim_widowx"))
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new, 1)
    return parse_profile(text, "robot.yaml")


@pytest.mark.parametrize("whole", [False, True])
def test_written_manifests_read_back_equal(tmp_path, whole):
    written = manifest(adapter_sha256=None, base_revision=None, center_crop=False) if whole else manifest()
    assert write_manifest(tmp_path, written) == manifest_path(tmp_path)
    found = read_manifest(tmp_path)
    assert found.to_json() == written.to_json()
    assert found.image_transform == written.image_transform
    assert found.action_space.differences(written.action_space) == []
    np.testing.assert_array_equal(found.statistics.action.q99, written.statistics.action.q99)
    assert found.rate_hz == 5.0


def test_the_robot_that_it_was_trained_for_fits():
    assert manifest().differences(robot()) == []
    manifest().check(robot())


@pytest.mark.parametrize(
    ("replacement", "line"),
    [
        (
            ("gripper_open: 1", "gripper_open: 0"),
            "action_space.gripper_open: checkpoint 1.0, robot sim_widowx 0.0",
        ),
        (("frame: base", "frame: tool"), "action_space.frame: checkpoint 'base', robot sim_widowx 'tool'"),
        (
            ("rotation: euler_xyz", "rotation: rotation_vector"),
            "action_space.rotation: checkpoint 'euler_xyz', robot sim_widowx 'rotation_vector'",
        ),
        (
            ("upper:\n  - 0.05", "upper:\n  - 0.04"),
            None,
        ),
        (
            ("- name: primary", "- name: front"),
            "cameras: checkpoint ('primary',), robot sim_widowx ('front',)",
        ),
    ],
)
def test_each_difference_is_one_line(replacement, line):
    assert manifest().differences(robot(replacement)) == ([] if line is None else [line])


def test_names_units_and_rate_differ_by_the_line():
    space = load_profile("sim_widowx").space()
    other = dataclasses.replace(
        space, names=("dx", *space.names[1:]), units=("cm", *space.units[1:]), rate_hz=10.0
    )
    assert [line.split(":")[0] for line in manifest(action_space=other).differences(robot())] == [
        "action_space.names",
        "action_space.units",
        "action_space.rate_hz",
    ]


def test_a_robot_that_does_not_fit_is_refused_with_every_line():
    changed = robot(("gripper_open: 1", "gripper_open: 0"), ("- name: primary", "- name: front"))
    with pytest.raises(ManifestError, match=r"(?s)does not match robot sim_widowx.*gripper_open.*cameras"):
        manifest().check(changed)


def test_a_robot_may_have_more_cameras():
    text = dump_profile(load_profile("sim_widowx"))
    start, end = text.index("- name: primary"), text.index("arm:\n")
    wrist = text[start:end].replace("primary", "wrist")
    assert manifest().differences(parse_profile(text[:end] + wrist + text[end:], "two")) == []


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("version",), 2, "version: .*1.*value is 2"),
        (("base_model",), "", "base_model: .*at least 1"),
        (("base_revision",), 5, "base_revision: .*string.*value is 5"),
        (("adapter_sha256",), "xyz", "adapter_sha256 'xyz' must be 64"),
        (("cameras",), [], "cameras .*at least one name"),
        (("cameras",), ["a", "a"], "cameras .*without duplicates"),
        (("prompt_style",), "llama", "prompt_style: .*'openvla' or 'vicuna_v01'.*'llama'"),
        (("action_space", "frame"), "world", "action_space.frame: .*'base' or 'tool'.*'world'"),
        (("action_space", "rate_hz"), -1.0, "action rate is -1.0 Hz"),
        (("action_space", "gripper_open"), 0.5, "gripper_open is 0.5; it must be 0 or 1"),
        (("action_space", "extra"), 1, "action_space.extra: unknown key"),
        (("image_transform", "center_crop"), "yes", "image_transform.center_crop is 'yes'"),
        (("image_transform", "strategy"), "squash", "image_transform: strategy: .*resize-naive.*'squash'"),
        (("image_transform", "blur"), 3, "image_transform: blur: .*unknown key"),
        (("statistics", "action", "q01"), [0.0], r"bridge_orig: action: .*"),
        (("surprise",), 1, "surprise: unknown key"),
    ],
)
def test_wrong_manifests_name_the_file_the_key_and_the_value(tmp_path, path, value, expected):
    data = manifest().to_json()
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    manifest_path(tmp_path).write_text(json.dumps(data))
    with pytest.raises(ManifestError, match=f"(?s)openvla_manifest.json: .*{expected}"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("key", sorted(set(manifest().to_json()) - {"base_weights", "adapter_config"}))
def test_no_key_may_be_missing(key):
    data = manifest().to_json()
    del data[key]
    with pytest.raises(ManifestError, match=f"m.json: {key}: this key is missing"):
        parse_manifest(data, "m.json")


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(ManifestError, match=r"no manifest: .*openvla_manifest\.json"):
        read_manifest(tmp_path)
    manifest_path(tmp_path).write_text("{")
    with pytest.raises(ManifestError, match="not valid JSON"):
        read_manifest(tmp_path)
    with pytest.raises(ManifestError, match="manifest: "):
        parse_manifest([], "m.json")


def test_statistics_must_be_as_wide_as_the_action_space():
    wide = read_statistics(SETS[0] / "checkpoint" / "dataset_statistics.json")["bimanual_14d"]
    with pytest.raises(ManifestError, match="14 dimensions, but the action space has 7"):
        manifest(statistics=wide)


def test_the_adapter_is_known_by_its_hash(tmp_path):
    weights = tmp_path / ADAPTER_WEIGHTS
    weights.write_bytes(bytes(range(256)) * 5000)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert sha256_of_adapter(tmp_path) == digest
    described = manifest(adapter_sha256=digest)
    described.check_adapter(tmp_path)
    with pytest.raises(ManifestError, match="adapter_sha256: checkpoint None"):
        manifest(adapter_sha256=None).check_adapter(tmp_path)
    weights.write_bytes(b"other")
    with pytest.raises(ManifestError, match=f"adapter_sha256: checkpoint '{digest}', file"):
        described.check_adapter(tmp_path)
    manifest(adapter_sha256=None).check_adapter(tmp_path / "whole")
    with pytest.raises(CheckpointError, match="cannot be read"):
        sha256_of_file(tmp_path / "absent")


def test_other_statistics_beside_it_are_refused_with_both_values(tmp_path):
    mine = manifest()
    mine.check_statistics(tmp_path)  # there are none
    write_statistics(tmp_path / STATISTICS, {"other": mine.statistics, "bridge_orig": mine.statistics})
    mine.check_statistics(tmp_path)
    data = json.loads((tmp_path / STATISTICS).read_text())
    before = data["bridge_orig"]["action"]["q99"][0]
    data["bridge_orig"]["action"]["q99"] = [10 * v for v in data["bridge_orig"]["action"]["q99"]]
    (tmp_path / STATISTICS).write_text(json.dumps(data))
    with pytest.raises(ManifestError, match=rf"action\.q99\[0\] is {10 * before} and {before}, and 6 more"):
        mine.check_statistics(tmp_path)
    write_statistics(tmp_path / STATISTICS, {"other": mine.statistics})
    with pytest.raises(ManifestError, match=r"has statistics of other; .* is about 'bridge_orig'"):
        mine.check_statistics(tmp_path)


def test_a_checkpoint_of_another_kind_of_action_does_not_fit():
    profile = in_space(robot(), "joint_position", "none")
    joints = manifest(action_space=profile.space())
    assert parse_manifest(joints.to_json(), "written").action_space.kind == "joint_position"
    assert joints.differences(profile) == []
    lines = joints.differences(robot())
    assert any(line.startswith("action_space.kind: checkpoint 'joint_position', robot ") for line in lines)
    assert "kind" not in manifest().to_json()["action_space"]  # older versions do not know the key
