"""LoRA adapters: the same numbers as peft, several at once, switched in no time, merged."""

import json
import time

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.full_disk import files_of_at_most
from support.golden_checkpoints import RANK, REFERENCE, SETS, cases, write_adapter

from openvla_ros.errors import CheckpointError
from openvla_ros.integrity.checksums import SUMS
from openvla_ros.model.checkpoints.lora_adapters import AdapterSet, read_adapter
from openvla_ros.model.checkpoints.merge import merge_adapter
from openvla_ros.model.checkpoints.safetensors import INDEX, load_model, stored_tensors
from openvla_ros.model.inference.options import LoadOptions
from openvla_ros.model.inference.predictor import load_predictor, with_adapter


def old_all_linear_modules(folder):
    return json.loads((folder / "lora_all_linear.json").read_text())["lora_modules"]


def logits_of(network, case):
    with torch.inference_mode():
        hidden = network.hidden_states(case.embeddings(network))[:, -1]
        return network.language_model.lm_head(hidden)[0]


@pytest.fixture(params=SETS, ids=lambda folder: folder.name)
def case(request):
    return next(case for case in cases() if case.folder == request.param)


@pytest.fixture
def network(case):
    return load_model(case.checkpoint, dtype=torch.float32)


@pytest.mark.parametrize("config", [{}, {"use_rslora": True}, {"alpha_pattern": {"lm_head": 3, "qkv": 5}}])
def test_the_same_numbers_as_peft(tmp_path, network, case, config):
    live = dict(network.named_modules())
    modules = [module for module in old_all_linear_modules(case.folder) if module in live]
    kinds = {type(live[module]) for module in modules}
    assert kinds == {torch.nn.Linear, torch.nn.Conv2d}
    folder = write_adapter(tmp_path / "adapter", case.folder, modules, **config)
    theirs = peft.get_peft_model(
        load_model(case.checkpoint, dtype=torch.float32),
        peft.LoraConfig(r=RANK, lora_alpha=8, target_modules=modules, **config),
    )
    peft.set_peft_model_state_dict(theirs, load_file(folder / "adapter_model.safetensors"))
    theirs.eval()

    adapters = AdapterSet(network)
    adapters.add("ours", read_adapter(folder))
    plain = logits_of(network, case)
    adapters.activate("ours")
    ours = logits_of(network, case)
    torch.testing.assert_close(ours, logits_of(theirs.base_model.model, case), rtol=0, atol=1e-4)
    assert (ours - plain).abs().max() > 0.1
    adapters.activate(None)
    assert torch.equal(logits_of(network, case), plain)


def test_an_old_all_linear_adapter_loads_and_every_live_part_acts(tmp_path, network, case):
    modules = old_all_linear_modules(case.folder)
    live = dict(network.named_modules())
    adapters = AdapterSet(network)
    plain = logits_of(network, case)
    adapters.add("all", read_adapter(write_adapter(tmp_path / "all", case.folder, modules)))
    adapters.activate("all")
    assert not torch.equal(logits_of(network, case), plain)
    for module in ("language_model.lm_head", "vision_backbone.featurizer.patch_embed.proj", "projector.fc1"):
        assert module in modules
        adapters.add(module, read_adapter(write_adapter(tmp_path / module, case.folder, [module])))
        adapters.activate(module)
        assert not torch.equal(logits_of(network, case), plain), module
    # The published adapters also cover weights that OpenVLA never computes.
    dead = [module for module in modules if module not in live]
    assert dead
    adapters.add("dead", read_adapter(write_adapter(tmp_path / "dead", case.folder, dead)))
    adapters.activate("dead")
    assert torch.equal(logits_of(network, case), plain)


def test_several_adapters_switch_within_50_ms_and_back_to_the_same_numbers(tmp_path, network, case):
    adapters = AdapterSet(network)
    modules = old_all_linear_modules(case.folder)
    for seed, name in enumerate(("left", "right")):
        folder = write_adapter(tmp_path / name, case.folder, modules, seed)
        adapters.add(name, read_adapter(folder))
    seen, slowest = {}, 0.0
    for name in ("left", "right", None, "left", None, "right"):
        began = time.perf_counter()
        adapters.activate(name)
        slowest = max(slowest, time.perf_counter() - began)
        assert (network.adapter and network.adapter.name) == name
        logits = logits_of(network, case)
        assert torch.equal(logits, seen.setdefault(name, logits))
    assert slowest < 0.05
    assert not torch.equal(seen["left"], seen["right"])
    adapters.activate("left")
    adapters.remove("left")
    assert adapters.names == ("right",)
    assert torch.equal(logits_of(network, case), seen[None])


def test_merged_is_unmerged(tmp_path, case):
    """A merged float32 checkpoint gives the unmerged adapter's logits; bf16 ones differ by rounding."""
    folder = write_adapter(tmp_path / "adapter", case.folder, old_all_linear_modules(case.folder))
    base = tmp_path / "base"
    merge_adapter(case.checkpoint, write_adapter(tmp_path / "none", case.folder, ["projector.fc1"]), base)
    for path in base.glob("*.safetensors"):
        save_file({key: value.float() for key, value in load_file(path).items()}, path)
    index = json.loads((base / INDEX).read_text())
    index["metadata"]["total_size"] *= 2
    (base / INDEX).write_text(json.dumps(index))
    (base / SUMS).unlink()  # these are other files now
    merge_adapter(base, folder, tmp_path / "merged")

    network = load_model(base, dtype=torch.float32)
    adapters = AdapterSet(network)
    adapters.add("adapter", read_adapter(folder))
    adapters.activate("adapter")
    merged = load_model(tmp_path / "merged", dtype=torch.float32)
    torch.testing.assert_close(logits_of(network, case), logits_of(merged, case), rtol=0, atol=1e-4)


def test_merging_changes_every_adapted_weight_and_no_other(tmp_path, case):
    modules = old_all_linear_modules(case.folder)
    folder = write_adapter(tmp_path / "adapter", case.folder, modules)
    (folder / "dataset_statistics.json").write_text("{}")
    merge_adapter(case.checkpoint, folder, tmp_path / "merged")
    adapter = read_adapter(folder)
    before, after = ({}, {})
    for place, found in ((case.checkpoint, before), (tmp_path / "merged", after)):
        for path in place.glob("*.safetensors"):
            found |= load_file(path)
    assert before.keys() == after.keys()
    for key, value in before.items():
        update = adapter.updates.get(key.removesuffix(".weight")) if key.endswith(".weight") else None
        wanted = value if update is None else (value.float() + update.weight()).bfloat16()
        assert torch.equal(after[key], wanted), key
    assert stored_tensors(tmp_path / "merged")
    assert (tmp_path / "merged" / "dataset_statistics.json").read_text() == "{}"
    with pytest.raises(CheckpointError, match="already exists"):
        merge_adapter(case.checkpoint, folder, tmp_path / "merged")


def test_a_full_disk_is_one_line(tmp_path):
    case = cases()[0]
    folder = write_adapter(tmp_path / "adapter", case.folder, ["projector.fc1"])
    with (
        files_of_at_most(5000),
        pytest.raises(CheckpointError, match=r"^cannot write \S+merged: File too large"),
    ):
        merge_adapter(case.checkpoint, folder, tmp_path / "merged")


def test_predict_with_an_adapter_and_its_statistics(tmp_path):
    case = cases()[0]
    folder = write_adapter(tmp_path / "adapter", case.folder, ["language_model.lm_head"])
    (folder / "dataset_statistics.json").write_text(
        json.dumps({"mine": {"action": {"q01": [0.0] * 3, "q99": [2.0] * 3}}})
    )
    predictor = load_predictor(case.checkpoint, LoadOptions(adapter=folder, dtype=torch.float32))
    image = np.zeros((9, 9, 3), np.uint8)
    with_it = predictor.predict([image], "lift")
    assert with_it.actions.shape == (1, 3)
    assert np.all((with_it.actions >= 0) & (with_it.actions <= 2))


def test_predictors_of_several_adapters_share_one_network(tmp_path):
    """Each call brings its own adapter and statistics, whatever the call before it used."""
    case = cases()[0]
    base = load_predictor(
        case.checkpoint, LoadOptions(unnorm_key="bridge_orig", dtype=torch.float32, decoder="plain")
    )  # the fast decoder's rounding depends on what it guessed, its tokens do not
    predictors = [base]
    for seed in (1, 2):
        folder = write_adapter(tmp_path / str(seed), case.folder, old_all_linear_modules(case.folder), seed)
        predictors.append(with_adapter(base, f"task {seed}", read_adapter(folder), base.statistics))
    assert {id(predictor.model.network) for predictor in predictors} == {id(base.model.network)}
    image = np.zeros((9, 9, 3), np.uint8)
    first, second = (
        [predictor.predict([image], "lift").probability.ravel().tolist() for predictor in order]
        for order in (predictors, predictors[::-1])
    )
    assert first == second[::-1]
    assert len({tuple(numbers) for numbers in first}) == 3


def broken(tmp_path, tensors=None, **config):
    folder = write_adapter(tmp_path / "adapter", REFERENCE, ["projector.fc1"], **config)
    if tensors is not None:
        save_file(tensors, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"r": 0}, "r: "),
        ({"r": 5}, "adapter_config.json states rank 5"),
    ],
)
def test_adapters_that_would_be_computed_wrongly_are_refused(tmp_path, config, message):
    with pytest.raises(CheckpointError, match=message):
        read_adapter(broken(tmp_path, **config))


def test_damaged_adapters(tmp_path):
    folder = broken(tmp_path)
    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    save_file({key: value for key, value in tensors.items() if "lora_A" in key}, weights)
    with pytest.raises(CheckpointError, match=r"projector\.fc1 has no lora_B"):
        read_adapter(folder)
    save_file(tensors | {"base_model.model.projector.fc1.weight": torch.zeros(2)}, weights)
    with pytest.raises(CheckpointError, match="is not a LoRA factor"):
        read_adapter(folder)
    weights.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        read_adapter(folder)
    weights.rename(folder / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"adapter_model\.bin is a pickle and pickles are never opened"):
        read_adapter(folder)


def test_adapters_of_another_model(tmp_path):
    network = load_model(REFERENCE / "checkpoint")
    adapters = AdapterSet(network)
    down, up = "base_model.model.{}.lora_A.weight", "base_model.model.{}.lora_B.weight"
    unknown = {down.format("head"): torch.zeros(RANK, 2), up.format("head"): torch.zeros(2, RANK)}
    folder = broken(tmp_path, unknown)
    with pytest.raises(CheckpointError, match="adapts head, which the model does not have"):
        adapters.add("a", read_adapter(folder))
    shape = {
        down.format("projector.fc1"): torch.zeros(RANK, 2),
        up.format("projector.fc1"): torch.zeros(2, RANK),
    }
    save_file(shape, folder / "adapter_model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"the update of projector\.fc1 is \[2, 2\], its weight \[176, 44\]"
    ):
        adapters.add("a", read_adapter(folder))
    with pytest.raises(CheckpointError, match="no adapter 'b' is loaded; loaded: none"):
        adapters.activate("b")
