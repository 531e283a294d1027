"""Integer weights: what they save, how near they stay, and a clear refusal without the library."""

import sys

import pytest
import torch
from support.golden_checkpoints import REFERENCE, cases, model_of, write_adapter

from openvla_ros.errors import CheckpointError, MissingDependencyError
from openvla_ros.model.checkpoints.lora_adapters import AdapterSet, read_adapter
from openvla_ros.model.checkpoints.safetensors import load_model
from openvla_ros.model.decoding.greedy import decode_greedily
from openvla_ros.model.network.bitsandbytes_layers import (
    INTEGERS,
    quantizable,
    select_quantization,
    weight_bytes,
)


@pytest.fixture(scope="module")
def bitsandbytes():
    return pytest.importorskip("bitsandbytes")


@pytest.fixture(scope="module", params=INTEGERS)
def quantized(request, bitsandbytes):
    return request.param, load_model(REFERENCE / "checkpoint", quantization=request.param)


def logits_of(network, case):
    with torch.inference_mode():
        hidden = network.hidden_states(case.embeddings(network))[:, -1]
        return network.language_model.lm_head(hidden)[0].float()


def test_memory_is_what_the_method_takes(quantized):
    how, network = quantized
    plain = model_of(REFERENCE, torch.bfloat16)
    layers = quantizable(plain, how, "cpu").values()
    assert len(layers) > 20
    saved = sum(2 * layer.weight.numel() for layer in layers)
    if how == "int8":
        taken = sum(layer.weight.numel() + 4 * layer.out_features for layer in layers)
    else:
        taken = sum(-(-layer.weight.numel() // 2) + 4 * -(-layer.weight.numel() // 64) for layer in layers)
    assert weight_bytes(plain) == sum(2 * value.numel() for value in plain.state_dict().values())
    assert weight_bytes(network) == weight_bytes(plain) - saved + taken
    logits_of(network, cases()[0])  # scales may move to another place during the first call
    assert weight_bytes(network) == weight_bytes(plain) - saved + taken


def dequantized(library, how, module):
    if how == "nf4":
        return library.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
    scale = module.weight.SCB if module.weight.SCB is not None else module.state.SCB
    return module.weight.data.float() * scale[:, None] / 127


def test_the_numbers_are_those_of_the_rounded_weights(bitsandbytes, quantized):
    """Each weight is as near as its method allows, and the network computes with just those weights."""
    how, network = quantized
    rounded = load_model(REFERENCE / "checkpoint", dtype=torch.float32)
    worst = {"int8": 0.02, "nf4": 0.15}[how]
    for name, layer in quantizable(rounded, how, "cpu").items():
        weight = dequantized(bitsandbytes, how, network.get_submodule(name)).float()
        assert (weight - layer.weight).norm() / layer.weight.norm() < worst, name
        with torch.no_grad():
            layer.weight.copy_(weight)
    for case in (case for case in cases() if case.folder == REFERENCE):
        both = torch.stack([logits_of(network, case), logits_of(rounded, case)])
        assert torch.corrcoef(both)[0, 1] > 0.99
        assert both[0].argmax() == both[1].argmax()
    assert decode_greedily(network, case.embeddings(network), 7).token_ids.shape == (7,)


def test_the_output_head_and_the_embeddings_keep_their_type(quantized):
    _, network = quantized
    language_model = network.language_model
    assert language_model.lm_head.weight.dtype == torch.bfloat16
    assert language_model.model.embed_tokens.weight.dtype == torch.bfloat16
    assert network.projector.fc1.weight.dtype in (torch.int8, torch.uint8)


def test_layers_that_the_library_reads_back_wrongly_on_a_cpu_are_left_alone():
    network = model_of(REFERENCE, torch.bfloat16)
    left = quantizable(network, "int8", "cpu").keys() - quantizable(network, "nf4", "cpu").keys()
    assert "vision_backbone.featurizer.blocks.0.mlp.fc2" in left
    assert quantizable(network, "nf4", "cuda").keys() == quantizable(network, "int8", "cpu").keys()


def test_an_adapter_beside_integer_weights(quantized, tmp_path):
    how, network = quantized
    case = cases()[0]
    modules = ["projector.fc1", "language_model.model.layers.0.self_attn.q_proj"]
    adapters = AdapterSet(network)
    before = logits_of(network, case)
    adapters.add("a", read_adapter(write_adapter(tmp_path / "a", REFERENCE, modules)))
    adapters.activate("a")
    assert not torch.equal(logits_of(network, case), before), how
    adapters.activate(None)
    assert torch.equal(logits_of(network, case), before)


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'openvla_ros\[quantization\]'"):
        load_model(REFERENCE / "checkpoint", quantization="nf4")


def test_other_names():
    assert select_quantization("int8") == "int8"
    with pytest.raises(CheckpointError, match="'int3' is not one of int8, nf4, int8wo, int4wo, fp8"):
        select_quantization("int3")
