"""The policy: an observation in, a chunk in the robot's action space out."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from support.golden_checkpoints import cases, write_adapter

from openvla_ros.errors import CheckpointError, ManifestError, PolicyError, StatisticsError
from openvla_ros.integrity.checksums import SUMS
from openvla_ros.manifest import Manifest, manifest_path, sha256_of_adapter, write_manifest
from openvla_ros.model.checkpoints.merge import merge_adapter
from openvla_ros.model.inference.checkpoint_files import check_sizes, read_transform
from openvla_ros.model.inference.inspection import describe
from openvla_ros.model.inference.options import LoadOptions
from openvla_ros.model.inference.predictor import load_predictor
from openvla_ros.policy.openvla_policy import OpenVLAPolicy, PolicyChoices, load_openvla_policy
from openvla_ros.policy.protocol import Policy, Reporting
from openvla_ros.preprocessing.dataset_statistics import STATISTICS, read_statistics, write_statistics
from openvla_ros.preprocessing.image_transform import to_rgb
from openvla_ros.profile import load_profile
from openvla_ros.values.observation import Observation

CASE = next(case for case in cases() if case.prompt == "normal")


@pytest.fixture(scope="module")
def predictor():
    return load_predictor(
        CASE.checkpoint,
        LoadOptions(unnorm_key=CASE.unnorm_key, center_crop=CASE.center_crop, dtype=torch.float32),
    )


@pytest.fixture
def policy(predictor):
    return OpenVLAPolicy(predictor, load_profile("widowx").space(), cameras=["primary"], description="test")


def observation(**changes):
    image = to_rgb(Image.open(CASE.folder / "images" / CASE.image))
    values = {"stamp_ns": 42, "images": {"primary": image}, "instruction": CASE.instruction}
    return Observation(**(values | changes))


def test_the_golden_action_comes_out_of_an_observation(policy):
    assert isinstance(policy, Policy)
    chunk = policy.infer(observation())
    numbers = CASE.numbers()
    np.testing.assert_allclose(chunk.actions, numbers["actions"][None], rtol=0, atol=1e-12)
    assert chunk.observation_stamp_ns == 42
    assert chunk.space is policy.space
    assert chunk.probability.shape == chunk.entropy.shape == (1, 7)
    assert np.all((chunk.probability >= 0) & (chunk.probability <= 1))


def test_it_looks_at_the_camera_it_was_given(predictor, policy):
    images = dict(observation().images) | {"wrist": np.zeros((8, 8, 3), np.uint8)}
    chunk = policy.infer(observation(images=images))
    np.testing.assert_array_equal(chunk.actions, policy.infer(observation()).actions)
    with pytest.raises(PolicyError, match="needs camera 'primary'; the observation has wrist"):
        policy.infer(observation(images={"wrist": images["wrist"]}))
    with pytest.raises(PolicyError, match="takes 1 images; got 2 cameras"):
        OpenVLAPolicy(predictor, policy.space, cameras=["primary", "wrist"], description="test")


def test_statistics_of_another_width_are_refused(predictor):
    wide = load_predictor(CASE.checkpoint, LoadOptions(unnorm_key="bimanual_14d", dtype=torch.float32))
    with pytest.raises(StatisticsError, match="14 dimensions, but the action space has 7"):
        OpenVLAPolicy(wide, load_profile("widowx").space(), cameras=["primary"], description="test")


def test_unnorm_key_is_asked_for_and_checked():
    with pytest.raises(StatisticsError, match="give an unnorm_key; the choices are bridge_orig"):
        load_predictor(CASE.checkpoint)
    with pytest.raises(StatisticsError, match="no statistics for unnorm_key 'bridge'"):
        load_predictor(CASE.checkpoint, LoadOptions(unnorm_key="bridge"))


def test_a_closed_policy_says_so(policy):
    policy.reset()
    policy.close()
    policy.close()
    with pytest.raises(PolicyError, match="is closed"):
        policy.infer(observation())


def test_the_files_of_a_checkpoint_must_fit_each_other(predictor):
    model = predictor.model
    one_tower = dataclasses.replace(model.transform, towers=model.transform.towers[:1])
    with pytest.raises(CheckpointError, match="outputs 1 x"):
        check_sizes(model.network.config, model.tokenizer, one_tower, "test")


PROFILE = load_profile("sim_widowx")


def write_fine_tune(path, **changes):
    """Write a LoRA adapter with its manifest."""
    folder = write_adapter(path, CASE.folder, ["language_model.lm_head", "projector.fc1"])
    values = {
        "base_model": str(CASE.checkpoint),
        "base_revision": None,
        "adapter_sha256": sha256_of_adapter(folder),
        "dataset_key": "bridge_orig",
        "statistics": read_statistics(CASE.checkpoint / "dataset_statistics.json")["bridge_orig"],
        "action_space": PROFILE.space(),
        "prompt_style": "openvla",
        "image_transform": read_transform(CASE.checkpoint),
        "center_crop": True,
        "cameras": ("primary",),
        "robot": PROFILE.name,
    }
    write_manifest(folder, Manifest(**(values | changes)))
    return folder


def test_a_fine_tune_with_its_manifest(tmp_path):
    folder = write_fine_tune(tmp_path / "adapter")
    policy = load_openvla_policy(
        CASE.checkpoint, PROFILE, adapter=folder, options=LoadOptions(dtype=torch.float32)
    )
    chunk = policy.infer(observation())
    same = load_predictor(
        CASE.checkpoint,
        LoadOptions(adapter=folder, unnorm_key="bridge_orig", center_crop=True, dtype=torch.float32),
    )
    expected = same.predict([observation().images["primary"]], CASE.instruction)
    np.testing.assert_array_equal(chunk.actions, expected.actions)
    assert str(folder) in policy.description


def test_a_merged_fine_tune_keeps_its_manifest(tmp_path):
    merge_adapter(CASE.checkpoint, write_fine_tune(tmp_path / "adapter"), tmp_path / "merged")
    policy = load_openvla_policy(tmp_path / "merged", PROFILE, options=LoadOptions(dtype=torch.float32))
    assert policy.infer(observation()).actions.shape == (1, 7)


def test_a_fine_tune_for_another_robot_is_refused_before_any_weights_are_read(tmp_path):
    space = dataclasses.replace(PROFILE.space(), frame="tool", rate_hz=10.0)
    folder = write_fine_tune(tmp_path / "adapter", action_space=space)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ManifestError, match=r"(?s)action_space\.frame: .*action_space\.rate_hz: "):
        load_openvla_policy(CASE.checkpoint, PROFILE, adapter=folder)


def test_what_contradicts_the_manifest_is_refused(tmp_path):
    folder = write_fine_tune(tmp_path / "adapter")
    choices = PolicyChoices(center_crop=False)
    with pytest.raises(ManifestError, match="center_crop is True, not False as requested"):
        load_openvla_policy(CASE.checkpoint, PROFILE, adapter=folder, choices=choices)
    other = write_fine_tune(tmp_path / "other", adapter_sha256="ab" * 32)
    with pytest.raises(ManifestError, match="adapter_sha256"):
        load_openvla_policy(CASE.checkpoint, PROFILE, adapter=other)
    transform = dataclasses.replace(read_transform(CASE.checkpoint), strategy="letterbox")
    third = write_fine_tune(tmp_path / "third", image_transform=transform)
    with pytest.raises(ManifestError, match="image_transform differs from"):
        load_openvla_policy(CASE.checkpoint, PROFILE, adapter=third)


def test_statistics_beside_the_manifest_must_be_the_same_for_every_program(tmp_path):
    folder = write_fine_tune(tmp_path / "adapter")
    options = LoadOptions(adapter=folder, center_crop=True, dtype=torch.float32)
    assert load_predictor(CASE.checkpoint, options).statistics.width == 7  # those of the manifest: no key
    kept = read_statistics(CASE.checkpoint / STATISTICS)["bridge_orig"]
    wrong = dataclasses.replace(kept, action=dataclasses.replace(kept.action, q99=10 * kept.action.q99))
    write_statistics(folder / STATISTICS, {"bridge_orig": wrong})
    refused = pytest.raises(
        ManifestError, match=r"different statistics of 'bridge_orig': action\.q99\[0\] is "
    )
    with refused:
        load_openvla_policy(CASE.checkpoint, PROFILE, adapter=folder)
    with refused:
        load_predictor(CASE.checkpoint, options)
    with refused:
        merge_adapter(CASE.checkpoint, folder, tmp_path / "merged")
    with refused:
        describe(folder)
    write_statistics(folder / STATISTICS, {"bridge_orig": kept})
    merge_adapter(CASE.checkpoint, folder, tmp_path / "merged")
    write_statistics(tmp_path / "merged" / STATISTICS, {"bridge_orig": wrong})
    (tmp_path / "merged" / SUMS).unlink()
    with refused:
        load_openvla_policy(tmp_path / "merged", PROFILE)
    with refused:
        load_predictor(tmp_path / "merged", LoadOptions(dtype=torch.float32))


def test_merging_writes_the_statistics_of_the_adapters_manifest_and_not_the_bases(tmp_path):
    folder = write_fine_tune(tmp_path / "adapter", dataset_key="mine")
    merge_adapter(CASE.checkpoint, folder, tmp_path / "merged")
    assert list(read_statistics(tmp_path / "merged" / STATISTICS)) == ["mine"]
    plain = write_adapter(tmp_path / "plain", CASE.folder, ["projector.fc1"])
    merge_adapter(tmp_path / "merged", plain, tmp_path / "again")
    assert not manifest_path(tmp_path / "again").exists()  # the base's said nothing about these weights


def test_a_published_checkpoint_without_a_manifest():
    choices = PolicyChoices(unnorm_key=CASE.unnorm_key, center_crop=CASE.center_crop)
    policy = load_openvla_policy(
        CASE.checkpoint, PROFILE, choices=choices, options=LoadOptions(dtype=torch.float32)
    )
    np.testing.assert_allclose(policy.infer(observation()).actions[0], CASE.numbers()["actions"], atol=1e-12)
    with pytest.raises(StatisticsError, match="give an unnorm_key"):
        load_openvla_policy(CASE.checkpoint, PROFILE)


def test_the_base_of_a_fine_tune_comes_from_the_hub_at_its_revision(tmp_path, monkeypatch):
    """Of two cached revisions of one hub model, the one that was trained further is taken."""
    repository = tmp_path / "models--owner--name"
    trained, newer = "0" * 40, "1" * 40
    shutil.copytree(CASE.checkpoint, repository / "snapshots" / trained)
    (repository / "snapshots" / newer).mkdir()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(newer)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = write_fine_tune(tmp_path / "adapter", base_model="owner/name", base_revision=trained)
    policy = load_openvla_policy(
        "owner/name", PROFILE, adapter=folder, options=LoadOptions(dtype=torch.float32, offline=True)
    )
    assert policy.infer(observation()).actions.shape == (1, 7)
    other = repository.with_name("models--owner--other")
    shutil.copytree(repository, other)
    with pytest.raises(ManifestError, match="base_model is 'owner/name', but got 'owner/other'"):
        load_openvla_policy("owner/other", PROFILE, adapter=folder, options=LoadOptions(offline=True))


def test_decoders_report_how_they_run_and_the_plain_one_nothing():
    case = cases()[0]
    choices = PolicyChoices(unnorm_key="bridge_orig")
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    profile = load_profile("sim_widowx")
    chunks = {}
    staged = {"stages", "stages_kept"}
    reported = {"fast": staged | {"guesses_accepted", "passes_after_prefill"}, "steady": staged}
    for decoder in ("fast", "steady", "plain"):
        policy = load_openvla_policy(
            case.checkpoint,
            profile,
            choices=choices,
            options=LoadOptions(dtype=torch.float32, decoder=decoder),
        )
        seen = Observation(1, {"primary": image}, "lift the cube")
        chunks[decoder] = [policy.infer(seen).actions.tolist() for _ in range(2)]
        assert isinstance(policy, Reporting)
        assert set(policy.report()) == reported.get(decoder, set())
        assert policy.report().get("stages") in (None, "eager, torch kernels")
    assert chunks["fast"] == chunks["steady"] == chunks["plain"]
