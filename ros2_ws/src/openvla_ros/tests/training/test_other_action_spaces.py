"""Fine-tuning on targets and joints instead of deltas of the tool: any width, and the adapter's manifest."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.action_spaces import Speaker, in_space
from support.generated_episodes import make_episode
from support.tiny_training_run import PROFILE, QUICK, Notes, make_request

from openvla_ros.data.hdf.robomimic_writer import Hdf5Writer
from openvla_ros.errors import ManifestError
from openvla_ros.manifest import read_manifest
from openvla_ros.model.inference.options import LoadOptions
from openvla_ros.policy.openvla_policy import load_openvla_policy
from openvla_ros.training.finetune import finetune

pytestmark = pytest.mark.usefixtures("no_report")


def write_walks(path, profile, count=4, steps=6):
    """Write episodes in which the arm walks through random joints near its neutral pose."""
    speaker, generator = Speaker(profile), np.random.default_rng(0)
    with Hdf5Writer(path) as writer:
        for seed in range(count):
            ways = generator.normal(0.0, 0.02, (steps + 1, len(profile.arm.neutral)))
            places = np.array(profile.arm.neutral) + np.cumsum(ways, axis=0)
            poses = np.array([speaker.chain.forward(q).matrix for q in places[:-1]])
            writer.add(
                make_episode(
                    seed, steps, space=profile.space(), actions=speaker.walk(places), outcome="success",
                    joint_positions=places[:-1], poses=poses, intervention=np.zeros(steps, bool),
                    provenance={"robot": profile.name},
                )
            )  # fmt: skip
    return path


@pytest.mark.parametrize(
    ("kind", "rotation", "width"),
    [("tool_pose", "rotation_6d", 10), ("tool_pose", "matrix", 13), ("joint_position", "none", 7)],
)
def test_an_adapter_learns_actions_of_any_width_and_drives_only_its_own_space(
    base, tmp_path, kind, rotation, width
):
    profile = in_space(PROFILE, kind, rotation)
    data = write_walks(tmp_path / "walks.hdf5", profile)
    finetune(make_request(base, data, tmp_path / "run", replace(QUICK, steps=4, validate_every=4)), Notes())
    manifest = read_manifest(tmp_path / "run")
    assert manifest.differences(profile) == []
    options = LoadOptions(dtype=torch.float32)
    policy = load_openvla_policy(base, profile, adapter=tmp_path / "run", options=options)
    actions = policy.infer(make_episode(1).observation(0)).actions
    assert actions.shape == (1, width)
    assert np.isfinite(actions).all()
    with pytest.raises(ManifestError, match="kind"):
        load_openvla_policy(base, PROFILE, adapter=tmp_path / "run", options=options)
