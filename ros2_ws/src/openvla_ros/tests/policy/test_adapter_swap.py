"""Another adapter into a loaded policy, and into the running node: taken, refused, never half taken."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.generated_episodes import make_episode
from support.made_adapters import make_adapter
from support.tiny_training_run import PROFILE, make_base

from openvla_ros.errors import CheckpointError, ManifestError, PolicyError
from openvla_ros.manifest import read_manifest, sha256_of_adapter, write_manifest
from openvla_ros.model.checkpoints.adapter_config import ADAPTER_CONFIG, read_adapter_config
from openvla_ros.model.checkpoints.lora_adapters import AdapterSet, read_adapter
from openvla_ros.model.checkpoints.safetensors import digest_of_weights
from openvla_ros.model.inference.options import LoadOptions
from openvla_ros.policy.openvla_policy import load_openvla_policy, swap_adapter, unload_adapter
from openvla_ros.profile import load_profile


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base") / "small")


def actions(policy):
    return policy.infer(make_episode(2).observation(0)).actions


def test_a_swapped_policy_acts_as_one_that_was_loaded_with_the_adapter(base, tmp_path):
    first, second = (make_adapter(tmp_path / f"a{seed}", base, seed) for seed in (1, 2))
    policy = load_openvla_policy(base, PROFILE, adapter=first, options=LoadOptions(dtype=torch.float32))
    swapped = swap_adapter(policy, base, second, PROFILE)
    unload_adapter(swapped, policy.predictor.adapter)
    fresh = load_openvla_policy(base, PROFILE, adapter=second, options=LoadOptions(dtype=torch.float32))
    np.testing.assert_allclose(actions(swapped), actions(fresh), atol=1e-9)
    assert str(second) in swapped.description
    plain = swap_adapter(swapped, base, None, PROFILE)
    bare = load_openvla_policy(base, PROFILE, options=LoadOptions(dtype=torch.float32))
    np.testing.assert_allclose(actions(plain), actions(bare), atol=1e-9)
    assert not np.allclose(actions(plain), actions(fresh))


def test_a_configuration_that_it_was_not_trained_with_is_refused(base, tmp_path):
    folder = make_adapter(tmp_path / "adapter", base, 1)
    options = LoadOptions(dtype=torch.float32)
    policy = load_openvla_policy(base, PROFILE, adapter=folder, options=options)  # a manifest of 0.1.0
    trained = read_adapter_config(folder).meaning()
    write_manifest(folder, replace(read_manifest(folder), adapter_config=trained))
    assert read_manifest(folder).adapter_config == trained
    swap_adapter(policy, base, folder, PROFILE)
    whole = (folder / ADAPTER_CONFIG).read_text()
    for change, words in (
        ({"lora_alpha": 400}, r"lora_alpha is 400\.0, trained with 4\.0"),
        ({"use_rslora": True}, "use_rslora is True, trained with False"),
        ({"alpha_pattern": {"fc1": 8}}, r"alpha_pattern is \{'fc1': 8\.0\}, trained with \{\}"),
    ):
        (folder / ADAPTER_CONFIG).write_text(json.dumps(json.loads(whole) | change))
        with pytest.raises(ManifestError, match=words):
            read_adapter(folder)
        with pytest.raises(ManifestError, match=words):
            load_openvla_policy(base, PROFILE, adapter=folder, options=options)
        with pytest.raises(ManifestError, match=words):
            swap_adapter(policy, base, folder, PROFILE)  # whose weights are loaded already
    (folder / ADAPTER_CONFIG).write_text(json.dumps(json.loads(whole) | {"base_model_name_or_path": "copy"}))
    read_adapter(folder)


def spoil_robot(folder):
    manifest = read_manifest(folder)
    space = replace(manifest.action_space, frame="tool")
    write_manifest(folder, replace(manifest, action_space=space))


def spoil_weights(folder):
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-8] + b"\x00" * 8)


def spoil_manifest(folder):
    (folder / "openvla_manifest.json").unlink()


def spoil_prompt(folder):
    write_manifest(folder, replace(read_manifest(folder), prompt_style="vicuna_v01"))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_robot, "frame"),
        (spoil_weights, "adapter_sha256"),
        (spoil_manifest, "cannot be checked"),
        (spoil_prompt, "prompt_style"),
        (shutil.rmtree, "cannot be checked"),
    ],
)
def test_what_does_not_fit_is_refused_and_the_old_adapter_acts_on(base, tmp_path, spoil, words):
    good, bad = make_adapter(tmp_path / "good", base, 1), make_adapter(tmp_path / "bad", base, 2)
    policy = load_openvla_policy(base, PROFILE, adapter=good, options=LoadOptions(dtype=torch.float32))
    before = actions(policy)
    spoil(bad)
    with pytest.raises(CheckpointError, match=words):
        swap_adapter(policy, base, bad, PROFILE)
    np.testing.assert_array_equal(actions(policy), before)
    assert policy.predictor.model.adapters.names == (policy.predictor.adapter,)


def test_weights_that_blow_up_are_refused(base, tmp_path):
    bad = make_adapter(tmp_path / "bad", base, 2)
    weights = bad / "adapter_model.safetensors"
    save_file({k: torch.full_like(v, float("nan")) for k, v in load_file(weights).items()}, weights)
    write_manifest(bad, replace(read_manifest(bad), adapter_sha256=sha256_of_adapter(bad)))
    policy = load_openvla_policy(base, PROFILE, options=LoadOptions(dtype=torch.float32))
    before = actions(policy)
    with pytest.raises(CheckpointError, match="not finite"):
        swap_adapter(policy, base, bad, PROFILE)
    np.testing.assert_array_equal(actions(policy), before)
    assert policy.predictor.model.adapters.names == ()


def test_an_adapter_of_another_base_is_refused_though_it_would_fit(base, tmp_path):
    other = make_base(tmp_path / "other", seed=1)
    bad = make_adapter(tmp_path / "bad", base, 2)
    write_manifest(bad, replace(read_manifest(bad), base_weights=digest_of_weights(other)))
    with pytest.raises(CheckpointError, match="on other weights"):
        load_openvla_policy(base, PROFILE, adapter=bad, options=LoadOptions(dtype=torch.float32))
    right = replace(read_manifest(bad), base_weights=digest_of_weights(base))
    write_manifest(bad, right)
    load_openvla_policy(base, PROFILE, adapter=bad, options=LoadOptions(dtype=torch.float32))


def test_the_digest_of_weights_is_that_of_any_copy(base, tmp_path):
    copy = shutil.copytree(base, tmp_path / "copy")
    weights = load_file(copy / "model.safetensors")
    save_file({k: v.bfloat16().double().float() for k, v in weights.items()}, copy / "model.safetensors")
    assert digest_of_weights(copy) == digest_of_weights(base)
    assert digest_of_weights(make_base(tmp_path / "other", seed=1)) != digest_of_weights(base)


@pytest.mark.parametrize("where", ["add", "activate"])
def test_without_memory_for_an_adapter_the_old_one_acts_on(base, tmp_path, monkeypatch, where):
    good, second = make_adapter(tmp_path / "good", base, 1), make_adapter(tmp_path / "second", base, 2)
    policy = load_openvla_policy(base, PROFILE, adapter=good, options=LoadOptions(dtype=torch.float32))
    before, whole = actions(policy), getattr(AdapterSet, where)

    def fails(adapters, name, *rest):
        if name is not None and str(second) in name:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(adapters, name, *rest)

    monkeypatch.setattr(AdapterSet, where, fails)
    with pytest.raises(PolicyError, match="memory"):
        swap_adapter(policy, base, second, PROFILE)
    np.testing.assert_array_equal(actions(policy), before)
    assert policy.predictor.model.adapters.names == (policy.predictor.adapter,)


def test_back_on_the_base_the_crop_that_was_asked_for_stays(base, tmp_path):
    good = make_adapter(tmp_path / "good", base, 1)
    write_manifest(good, replace(read_manifest(good), center_crop=True))
    policy = load_openvla_policy(base, PROFILE, adapter=good, options=LoadOptions(dtype=torch.float32))
    assert policy.predictor.center_crop
    assert swap_adapter(policy, base, None, PROFILE, center_crop=True).predictor.center_crop
    assert not swap_adapter(policy, base, None, PROFILE).predictor.center_crop


def test_only_a_model_takes_adapters(base):
    policy = load_openvla_policy(base, PROFILE, options=LoadOptions(dtype=torch.float32))
    policy.close()
    with pytest.raises(PolicyError, match="closed"):
        swap_adapter(policy, base, None, PROFILE)


@pytest.mark.ros
def test_the_running_node_takes_an_adapter_while_it_stands_and_reports_it(base, tmp_path, ros_domain):
    pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")
    from rclpy.parameter import Parameter
    from rclpy.parameter_client import AsyncParameterClient
    from std_srvs.srv import Trigger
    from support.fake_policy_peers import MODULE, Robot
    from support.node_processes import NodeProcess

    robot_profile = load_profile("sim_widowx")
    good = make_adapter(tmp_path / "good", base, 1, robot_profile)
    bad = make_adapter(tmp_path / "bad", base, 2, robot_profile)
    spoil_robot(bad)
    with Robot() as robot, NodeProcess(MODULE, {"policy": "openvla", "checkpoint": str(base)}) as node:
        assert robot.until_task_says("no instruction has been given", 120.0), node.output
        parameters = AsyncParameterClient(robot.node, "policy")
        service = robot.node.create_client(Trigger, "policy/reload_adapter")
        assert robot.spin_until(service.service_is_ready)

        def reload(folder):
            done = parameters.set_parameters([Parameter("adapter", value=str(folder))])
            assert robot.spin_until(done.done)
            assert done.result().results[0].successful, done.result().results[0].reason
            answer = service.call_async(Trigger.Request())
            assert robot.spin_until(answer.done)
            return answer.result()

        def reported():
            return {value.key: value.value for value in robot.status("task").values}.get("policy", "")

        taken = reload(good)
        assert taken.success, taken.message
        assert float(taken.message.rpartition("after ")[2].removesuffix(" s")) > 0.0
        assert robot.spin_until(lambda: str(good) in reported())
        refused = reload(bad)
        assert not refused.success
        assert "frame" in refused.message
        assert str(good) in refused.message
        assert str(good) in reported()
        robot.say("lift the cube")
        assert robot.spin_until(lambda: any("lift the cube" in c.data for c in robot.current)), node.output
        busy = reload(good)
        assert not busy.success
        assert "being carried out" in busy.message
    assert "Traceback" not in node.output
