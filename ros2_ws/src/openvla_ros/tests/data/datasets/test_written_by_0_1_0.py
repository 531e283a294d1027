"""Files that version 0.1.0 wrote, before they carried checksums: they open, and that is said once."""

import json
import shutil

import numpy as np
import pytest
import torch
from support.fake_recording import PROFILE
from support.generated_episodes import assert_same_episode, make_episode
from support.openvla_program import run
from support.shared_data import DATA

from openvla_ros.data.datasets.open_dataset import SourceRequest
from openvla_ros.errors import ChecksumError, DatasetError, ManifestError
from openvla_ros.integrity import checksums
from openvla_ros.model.checkpoints.lora_adapters import read_adapter
from openvla_ros.model.inference.loading import load_action_predictor
from openvla_ros.model.inference.options import LoadOptions
from openvla_ros.policy.openvla_policy import load_openvla_policy, swap_adapter

OLD = DATA / "written_by_0_1_0"
OPTIONS = LoadOptions(dtype=torch.float32, offline=True)


@pytest.fixture(autouse=True)
def _nothing_said_yet():
    checksums.say_unverified.cache_clear()


@pytest.mark.parametrize("name", ["recording", "bag", "rlds", "lerobot"])
def test_datasets_open(name, caplog):
    for _ in range(2):
        source = SourceRequest(OLD / name).open()
        (episode,) = [source[index] for index in range(len(source))]
        assert all(len(images[0]) for images in episode.images.values())
        assert json.loads(run("episodes", OLD / name, "--json").stdout)[0]["problem"] is None
    if name != "recording":
        assert_same_episode(episode, make_episode(0, steps=2, jpeg=True, size=16), images=name != "lerobot")
    said = [r.getMessage() for r in caplog.records if "not verified" in r.getMessage()]
    assert len(said) == (0 if name == "rlds" else 1)  # TFRecord has checksums of its own


def test_the_checksums_that_an_old_recording_does_have_are_compared(tmp_path):
    folder = shutil.copytree(OLD / "recording", tmp_path / "recording")
    path = next(folder.rglob("*.mcap"))
    whole = path.read_bytes()
    for at in range(whole.index(b"rgb8"), len(whole), 4001):  # images, joint states, indexes, summary
        data = bytearray(whole)
        data[at] ^= 1
        path.write_bytes(data)
        source = SourceRequest(folder).open()
        with pytest.raises(DatasetError):
            source[0]


def test_checkpoint_and_adapter_open(caplog):
    base, adapter = OLD / "checkpoint", OLD / "adapter"
    policy = load_openvla_policy(base, PROFILE, adapter=None, options=OPTIONS)
    swapped = swap_adapter(policy, base, adapter, PROFILE, offline=True)
    observation = make_episode(2).observation(0)
    assert not np.array_equal(swapped.infer(observation).actions, policy.infer(observation).actions)
    load_action_predictor(base, OPTIONS)
    said = [r.getMessage() for r in caplog.records if "not verified" in r.getMessage()]
    # The hash of the adapter's weights stands in its manifest.
    assert said == [f"{base}: its weights have no checksum; not verified"]
    found = json.loads(run("inspect", base, "--json").stdout)["checksums"]
    assert found["verified"] == []
    assert "model.safetensors" in found["no checksum; not verified"]
    assert "no checksum; not verified: config.json" in run("inspect", base).stdout


def test_the_hash_in_an_old_adapters_manifest_counts_without_a_robot_too(tmp_path):
    adapter = shutil.copytree(OLD / "adapter", tmp_path / "adapter")
    weights = adapter / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-100] ^= 4
    weights.write_bytes(data)
    with pytest.raises((ManifestError, ChecksumError), match="adapter_sha256"):
        read_adapter(adapter)
