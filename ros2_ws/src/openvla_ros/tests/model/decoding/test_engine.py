"""The engine: stages, fused weights beside adapters, pixels from levels, and packed weights."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.fake_cuda_graphs import RehearsedStages
from support.golden_checkpoints import REFERENCE, cases, model_of, write_adapter

from openvla_ros.errors import CheckpointError, InvalidValueError
from openvla_ros.model.checkpoints.lora_adapters import AdapterSet, read_adapter
from openvla_ros.model.checkpoints.safetensors import load_model
from openvla_ros.model.decoding.engine import Engine, make_engine
from openvla_ros.model.decoding.greedy import decode_greedily
from openvla_ros.model.decoding.speculative import DraftingDecoder
from openvla_ros.model.decoding.steady import SteadyDecoder
from openvla_ros.model.inference.checkpoint_files import read_transform
from openvla_ros.model.inference.options import LoadOptions
from openvla_ros.model.inference.predictor import make_decoder
from openvla_ros.model.kernels.cuda_graphs import Recent
from openvla_ros.model.kernels.linear_layers import fused_maps, module_maps
from openvla_ros.model.kernels.packed_weights import (
    SHORT,
    Float8,
    check_float8,
    pack_float8,
    pack_int4,
    pack_int8,
    pack_maps,
)
from openvla_ros.model.kernels.static_llama import StaticLlama
from openvla_ros.model.kernels.torch_kernels import LlamaShape, TorchKernels
from openvla_ros.model.network.pixels import PixelTable
from openvla_ros.preprocessing.action_tokens import ActionCodec
from openvla_ros.preprocessing.image_transform import ImageTransform, to_rgb
from openvla_ros.pretraining.small_model import SmallSize, make_small_model

LANGUAGE = "language_model.model.layers.0."
ADAPTED = [
    LANGUAGE + "self_attn.q_proj", LANGUAGE + "self_attn.v_proj", LANGUAGE + "self_attn.o_proj",
    LANGUAGE + "mlp.up_proj", LANGUAGE + "mlp.down_proj", "language_model.lm_head",
    "vision_backbone.featurizer.blocks.0.attn.qkv", "projector.fc1",
]  # fmt: skip


@pytest.fixture
def fresh():
    """A model of one's own, to change."""
    return load_model(REFERENCE / "checkpoint", dtype=torch.float32, progress=False)


def wide_model():
    """A model whose rows can be grouped in 4 bits."""
    size = SmallSize(
        image_size=28, vision_width=24, vision_depth=2, text_width=64, text_inner=160, pieces=400
    )
    return make_small_model(size, 0).eval()


def storage_bytes(network):
    storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in network.parameters()}
    return sum(storages.values())


def test_fusing_shares_the_memory_and_changes_no_weight(fresh):
    before = {key: value.clone() for key, value in fresh.state_dict().items()}
    size = storage_bytes(fresh)
    fused = fused_maps(fresh)
    assert storage_bytes(fresh) == size
    assert all(torch.equal(value, before[key]) for key, value in fresh.state_dict().items())
    layer = fresh.language_model.model.layers[0]
    assert fused.layers[0].qkv.weight.data_ptr() == layer.self_attn.q_proj.weight.data_ptr()
    again = fused_maps(fresh)
    assert again.layers[0].gate_up.weight.data_ptr() == fused.layers[0].gate_up.weight.data_ptr()
    with torch.no_grad():
        layer.self_attn.v_proj.weight += 1.0
    last = fused.layers[0].qkv.weight[-layer.self_attn.v_proj.out_features :]
    assert torch.equal(last, before[LANGUAGE + "self_attn.v_proj.weight"] + 1.0)
    assert all(parameter.requires_grad for parameter in fresh.parameters())


def test_layers_that_are_no_plain_matrices_are_called_as_modules(fresh):
    layer = fresh.language_model.model.layers[0].self_attn
    layer.q_proj.bias = torch.nn.Parameter(torch.randn(layer.q_proj.out_features))
    assert fused_maps(fresh) is None
    embeddings = cases()[0].embeddings(fresh)
    wanted = decode_greedily(fresh, embeddings, 7).token_ids.tolist()
    assert DraftingDecoder(fresh).decode_embedded(embeddings, 7).token_ids.tolist() == wanted
    with pytest.raises(InvalidValueError, match="plain 16- or 32-bit weights"):
        make_engine(fresh, "int8wo")


@pytest.mark.parametrize("stages", [None, RehearsedStages()], ids=["free", "rehearsed"])
def test_adapters_are_switched_between_calls_and_act_as_in_plain_decoding(fresh, tmp_path, stages):
    adapters, case = AdapterSet(fresh), cases()[0]
    for name, modules in (("all", ADAPTED), ("one", ADAPTED[:1])):
        folder = write_adapter(tmp_path / name, REFERENCE, modules, lora_alpha=40)
        adapters.add(name, read_adapter(folder))
    engine = Engine(fresh, stages)
    decoders = DraftingDecoder(fresh, engine=engine), SteadyDecoder(fresh, engine=engine)
    pixels = torch.from_numpy(case.numbers()["pixel_values"])[None]
    token_ids = torch.randint(3, 30000, (1, 12), generator=torch.Generator().manual_seed(1))
    seen = set()
    for name in ("all", None, "one", "all", None):
        adapters.activate(name)
        with torch.inference_mode():
            embeddings = fresh.embed(pixels, token_ids)
            torch.testing.assert_close(engine.embed(pixels, token_ids), embeddings, rtol=1e-5, atol=1e-5)
        wanted = tuple(decode_greedily(fresh, embeddings, 7).token_ids)
        assert all(tuple(d.decode(pixels, token_ids, 7).token_ids) == wanted for d in decoders)
        seen.add(wanted)
    assert len(seen) > 1


def test_the_same_name_for_other_weights_is_another_adapter(fresh, tmp_path):
    adapters, case = AdapterSet(fresh), cases()[0]
    decoder, answers = DraftingDecoder(fresh, engine=Engine(fresh, RehearsedStages())), []
    embeddings = case.embeddings(fresh)
    for seed in range(1, 6):
        adapters.add("a", read_adapter(write_adapter(tmp_path / f"{seed}", REFERENCE, ADAPTED, seed)))
        adapters.activate("a")
        answers.append(decoder.decode_embedded(embeddings, 7).token_ids.tolist())
        assert answers[-1] == decode_greedily(fresh, embeddings, 7).token_ids.tolist()
        adapters.remove("a")
    assert len({tuple(answer) for answer in answers}) > 1


def test_only_the_last_keys_are_kept():
    made = []
    recent = Recent(lambda key: made.append(key) or key * 2, kept=2)
    assert [recent[key] for key in (1, 2, 1, 3, 1, 2)] == [2, 4, 2, 6, 2, 4]
    assert made == [1, 2, 3, 2]
    assert len(recent) == 2


def test_more_prompt_lengths_than_are_kept(fresh):
    decoder = DraftingDecoder(fresh, only_action_tokens=True)
    for length in [*range(3, 15), 3, 90, 4]:
        ids = torch.randint(3, 30000, (1, length), generator=torch.Generator().manual_seed(length))
        pixels = torch.randn(1, fresh.config.channels, *[fresh.config.image_sizes[0]] * 2)
        embeddings = fresh.embed(pixels, ids).detach()
        wanted = decode_greedily(fresh, embeddings, 7, only_action_tokens=True).token_ids
        assert decoder.decode(pixels, ids, 7).token_ids.tolist() == wanted.tolist()


def test_a_sequence_that_is_longer_than_the_model_is_refused():
    with pytest.raises(InvalidValueError, match="the model takes at most"):
        StaticLlama(model_of(REFERENCE)).reserve(100_000)


@given(st.lists(st.integers(0, 32063), min_size=1, max_size=8))
@settings(max_examples=50, deadline=None)
def test_tokens_mean_on_the_device_what_the_codec_says(ids):
    model = model_of(REFERENCE)
    ids = [value if value != 2 else 3 for value in ids]
    from openvla_ros.model.decoding.greedy import action_tokens

    tokens = action_tokens(model, torch.zeros(len(ids), 32064), torch.tensor(ids))
    codec = ActionCodec(model.config.action_vocab_size, model.config.n_action_bins)
    np.testing.assert_array_equal(tokens.normalised, codec.decode(np.array(ids)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("center_crop", [False, True])
@pytest.mark.parametrize("strategy", ["resize-naive", "letterbox", "unlike"])
def test_pixels_from_levels_are_the_transforms_to_the_last_bit(dtype, center_crop, strategy):
    transform = read_transform(REFERENCE / "checkpoint")
    if strategy == "letterbox":
        transform = replace(transform, strategy="letterbox", letterbox_fill=(127, 120, 1))
    if strategy == "unlike":
        towers = transform.towers[0], replace(transform.towers[1], resampling=Image.Resampling.BILINEAR)
        transform = ImageTransform(transform.strategy, towers)
    table = PixelTable(transform, torch.device("cpu"), dtype)
    noise = np.random.default_rng(0).integers(0, 256, (97, 131, 3), dtype=np.uint8)
    for image in (noise, to_rgb(Image.open(REFERENCE / "images" / "02.png"))):
        wanted = torch.from_numpy(transform(image, center_crop=center_crop))[None].to(dtype)
        assert torch.equal(table(image, center_crop=center_crop), wanted)


@pytest.mark.parametrize(("pack", "error"), [(pack_int8, 0.01), (pack_int4, 0.12), (pack_float8, 0.04)])
def test_packed_weights_are_as_near_as_their_bits_allow(pack, error):
    weight = torch.randn(48, 256, generator=torch.Generator().manual_seed(0)).bfloat16()
    weight[3] = 0.0
    packed = pack(weight)
    dense = packed.dense(torch.float32)
    assert (dense - weight).norm() / weight.float().norm() < error
    assert torch.equal(dense[3], torch.zeros(256))
    assert packed.size_bytes < (0.3 if pack is pack_int4 else 0.6) * 2 * weight.numel()


def test_rows_that_four_bits_cannot_group_are_refused():
    with pytest.raises(InvalidValueError, match="multiple of 32"):
        pack_int4(torch.zeros(4, 48))


@pytest.mark.parametrize("how", ["int8wo", "int4wo"])
def test_short_passes_read_the_packed_weights_and_long_ones_the_whole(how):
    fresh = wide_model()
    llama = StaticLlama(fresh, pack=lambda maps: pack_maps(maps, how))
    plain, packed = fused_maps(fresh).layers[0], llama.maps.layers[0]
    generator = torch.Generator().manual_seed(0)
    for rows, exact in ((SHORT, False), (SHORT + 1, True)):
        for name in ("qkv", "out", "gate_up", "down"):
            ours, theirs = getattr(packed, name), getattr(plain, name)
            x = torch.randn(rows, theirs.weight.shape[1], generator=generator)
            weight = theirs.weight if exact else ours.packed.dense(torch.float32)
            torch.testing.assert_close(ours(x), x @ weight.t(), rtol=1e-5, atol=1e-5)
            residual = torch.randn(rows, len(weight), generator=generator)
            wanted = residual + x @ weight.t()
            torch.testing.assert_close(ours.add_to(residual, x), wanted, rtol=1e-5, atol=1e-5)


def test_eight_bit_floats_multiply_rounded_rows_with_rounded_weights():
    generator = torch.Generator().manual_seed(0)
    weight, x = (torch.randn(size, generator=generator) for size in ((32, 64), (5, 64)))
    x[2] = 0.0
    projection = Float8(pack_float8(weight))
    assert (projection(x) - x @ weight.t()).norm() / (x @ weight.t()).norm() < 0.05
    residual = torch.ones(5, 32)
    assert torch.equal(projection.add_to(residual, x)[2], torch.ones(32))


@pytest.mark.parametrize("how", ["int8wo", "int4wo"])
@pytest.mark.parametrize("decoder", ["fast", "steady"])
def test_packed_decoders_begin_as_the_plain_one(how, decoder):
    model, options = wide_model(), LoadOptions(decoder=decoder, quantization=how, only_action_tokens=True)
    embeddings = torch.randn(1, 40, 64, generator=torch.Generator().manual_seed(1))
    tokens = make_decoder(model, options).decode_embedded(embeddings, 7).token_ids
    plain = decode_greedily(model, embeddings, 7, only_action_tokens=True).token_ids
    assert tokens[0] == plain[0]  # the prompt's pass has the whole weights
    assert len(tokens) == 7


def test_devices_without_eight_bit_floats_are_refused(monkeypatch):
    with pytest.raises(
        CheckpointError, match=r"fp8 needs a CUDA device of compute capability 8\.9; this is cpu"
    ):
        make_engine(model_of(REFERENCE), "fp8")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "RTX 3090")
    with pytest.raises(CheckpointError, match=r"RTX 3090 has 8\.6, which supports int8wo and int4wo"):
        check_float8(torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    check_float8(torch.device("cuda"))


def test_the_plain_decoder_has_its_own_weights_only():
    with pytest.raises(InvalidValueError, match="decoder 'plain' has no int4wo weights"):
        make_decoder(model_of(REFERENCE), LoadOptions(decoder="plain", quantization="int4wo"))


def test_both_ways_of_multiplying_give_the_same_hidden_states():
    model = model_of(REFERENCE)
    llama, embeddings = StaticLlama(model), cases()[0].embeddings(model)[0]
    llama.reserve(len(embeddings))
    with torch.inference_mode():
        fused = llama.hidden(embeddings, 0, 5)
        llama._fused, llama._modules = None, module_maps(model)
        torch.testing.assert_close(llama.hidden(embeddings, 0, 5), fused, rtol=1e-5, atol=1e-5)


def test_the_steps_of_torch_are_those_of_transformers():
    model = model_of(REFERENCE)
    layer = model.language_model.model.layers[0]
    kernels = TorchKernels(LlamaShape.of(model.language_model.config))
    x = torch.randn(6, kernels.shape.width, generator=torch.Generator().manual_seed(0))
    maps = fused_maps(model).layers[0]
    with torch.inference_mode():
        normed = kernels.norm(x, maps.post_norm)
        torch.testing.assert_close(normed, layer.post_attention_layernorm(x), rtol=1e-5, atol=1e-6)
        gated = kernels.norm_gate(x, maps.post_norm, maps.gate_up)
        torch.testing.assert_close(maps.down(gated), layer.mlp(normed), rtol=1e-5, atol=1e-5)
