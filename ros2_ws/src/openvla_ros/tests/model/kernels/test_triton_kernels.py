"""The fused kernels give the reference's numbers, on a CUDA device or else in Triton's interpreter."""

import pytest
import torch
from support.fake_cuda_graphs import RehearsedStages
from support.triton_device import CUDA, DEVICE

from openvla_ros.model.decoding.engine import Engine, kernels_for
from openvla_ros.model.decoding.greedy import decode_greedily
from openvla_ros.model.decoding.speculative import DraftingDecoder
from openvla_ros.model.decoding.steady import SteadyDecoder
from openvla_ros.model.kernels.cuda_graphs import stages_for
from openvla_ros.model.kernels.linear_layers import Adapted, Dense, fused_maps
from openvla_ros.model.kernels.packed_weights import (
    SHORT,
    Float8,
    ShortPacked,
    pack_float8,
    pack_int4,
    pack_int8,
)
from openvla_ros.model.kernels.static_llama import StaticLlama
from openvla_ros.model.kernels.torch_kernels import LayerCache, LlamaShape, Span, TorchKernels
from openvla_ros.model.kernels.triton_kernels import TritonKernels, check, problems
from openvla_ros.model.network.lora_delta import ActiveAdapter, LowRankUpdate
from openvla_ros.pretraining.small_model import SmallSize, make_small_model

# The interpreter has no 16-bit brain floats in its products.
HALF = torch.bfloat16 if CUDA else torch.float16
ALLOWED = {torch.float32: 1e-5, HALF: 2e-2}
SHAPE = LlamaShape(width=128, inner_width=256, heads=4, groups=2, head_width=32, eps=1e-6)
OURS, THEIRS = TritonKernels(SHAPE), TorchKernels(SHAPE)
SIZE = SmallSize(
    image_size=28, vision_width=24, vision_depth=2, text_width=64, text_depth=2, text_heads=2, text_inner=160,
    pieces=400,
)  # fmt: skip

# The interpreter takes numbers out of arrays in a way that NumPy is about to forbid.
IN_INTERPRETER = pytest.mark.filterwarnings("ignore:Conversion of an array with ndim")
pytestmark = pytest.mark.gpu if CUDA else IN_INTERPRETER


def rand(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def assert_near(ours, theirs):
    error = (ours - theirs).float().norm() / theirs.float().norm()
    assert error < ALLOWED[ours.dtype], float(error)


@pytest.fixture(params=[torch.float32, HALF], ids=str)
def dtype(request):
    return request.param


@pytest.mark.parametrize("rows", [1, 6, 16, 17])
def test_norm_and_gate(dtype, rows):
    x, weight = rand(rows, 128, dtype=dtype), rand(128, dtype=dtype, seed=1)
    assert_near(OURS.norm(x, weight), THEIRS.norm(x, weight))
    both = rand(rows, 512, dtype=dtype)
    assert_near(OURS.gate(both), THEIRS.gate(both))


def packed(kind, weight):
    """Return a projection of ``weight`` and the plain one that it stands for in a short pass."""
    match kind:
        case "dense":
            return Dense(weight), Dense(weight)
        case "int8":
            numbers = pack_int8(weight)
            return ShortPacked(weight, numbers), Dense(numbers.dense(weight.dtype))
        case "int4":
            numbers = pack_int4(weight)
            return ShortPacked(weight, numbers), Dense(numbers.dense(weight.dtype))
        case "fp8":
            numbers = pack_float8(weight)
            return Float8(numbers), Dense(numbers.dense(weight.dtype))
        case "adapted":
            down, up = rand(16, weight.shape[1], seed=8) * 0.1, rand(weight.shape[0], 16, seed=9) * 0.1
            whole = weight.float() + up @ down
            adapted = Adapted(Dense(weight), Dense(down.to(weight.dtype)), up.to(weight.dtype))
            return adapted, Dense(whole.to(weight.dtype))


@pytest.mark.parametrize("rows", [1, 6, 16, 40])
@pytest.mark.parametrize("kind", ["dense", "int8", "int4", "fp8", "adapted"])
def test_projections(dtype, kind, rows):
    x, norm = rand(rows, 128, dtype=dtype), (1 + 0.1 * rand(128, seed=3)).to(dtype)
    y, residual = rand(rows, 256, dtype=dtype, seed=4), rand(rows, 128, dtype=dtype, seed=5)
    weights = [0.1 * rand(*shape, dtype=dtype, seed=6) for shape in ((256, 128), (512, 128), (128, 256))]
    if rows > SHORT and kind in ("int8", "int4"):
        pairs = [(packed(kind, weight)[0], Dense(weight)) for weight in weights]
    else:
        pairs = [packed(kind, weight) for weight in weights]
    if rows > SHORT and kind == "fp8":  # the rows are rounded as well
        ours, theirs = OURS.norm_project(x, norm, pairs[0][0]), THEIRS.norm_project(x, norm, pairs[0][1])
        assert (ours - theirs).float().norm() / theirs.float().norm() < 0.08
        return
    ours, theirs = zip(*pairs, strict=True)
    assert_near(OURS.project(x, ours[0]), THEIRS.project(x, theirs[0]))
    assert_near(OURS.norm_project(x, norm, ours[0]), THEIRS.norm_project(x, norm, theirs[0]))
    assert_near(OURS.norm_gate(x, norm, ours[1]), THEIRS.norm_gate(x, norm, theirs[1]))
    added = OURS.project_add(residual.clone(), y, ours[2])
    assert_near(added, THEIRS.project_add(residual.clone(), y, theirs[2]))


@pytest.mark.parametrize("one_way", [True, False])
@pytest.mark.parametrize("start", [0, 70])
@pytest.mark.parametrize(("count", "rows"), [(1, 1), (6, 2), (16, 16), (20, 7)])
def test_attention_and_what_it_leaves_in_the_cache(dtype, start, count, rows, one_way):
    end, capacity = start + count, 128
    angle = rand(count, 16, seed=1).repeat(1, 2)
    causal = torch.ones(count, end, dtype=torch.bool, device=DEVICE).tril(start)
    span = Span(start, count, angle.cos().to(dtype), angle.sin().to(dtype), causal, one_way)
    caches = [LayerCache(*rand(2, 2, capacity, 32, dtype=dtype, seed=2)) for _ in range(2)]
    qkv = rand(count, 8 * 32, dtype=dtype, seed=3)
    ours = OURS.attend(qkv.clone(), caches[0], span, rows)
    assert_near(ours, THEIRS.attend(qkv.clone(), caches[1], span, rows))
    assert_near(caches[0].keys, caches[1].keys)
    assert torch.equal(caches[0].values, caches[1].values)


@pytest.fixture(scope="module")
def model():
    made = make_small_model(SIZE, 0).eval().to(DEVICE)
    with torch.no_grad():  # a fresh head gives nearly equal logits: spread them
        made.language_model.lm_head.weight.normal_(std=0.5)
        made.language_model.model.embed_tokens.weight.normal_(std=1.0)
    return made


@pytest.mark.parametrize("adapted", [None, "lora", "dora"])
def test_decoders_on_the_kernels_give_the_plain_tokens(model, adapted):
    kernels = TritonKernels(LlamaShape.of(model.language_model.config))
    stages = stages_for(model.device) if CUDA else RehearsedStages()
    name = "language_model.model.layers.1.self_attn.k_proj"
    if adapted:
        gain = 1.0 + 0.3 * rand(64) if adapted == "dora" else None
        update = LowRankUpdate(rand(4, 64), rand(64, 4), 0.3, gain)
        module = model.get_submodule(name)
        handle = module.register_forward_hook(lambda m, inputs, output: update.apply(m, inputs[0], output))
        model.adapter = ActiveAdapter("a", 1, {name: update})
    try:
        for seed in range(2):
            embeddings = rand(1, 20 + seed, 64, seed=seed)
            wanted = decode_greedily(model, embeddings, 7, only_action_tokens=True).token_ids.tolist()
            engine = Engine(model, stages, StaticLlama(model, kernels))
            for decoder in (DraftingDecoder(model, True, engine), SteadyDecoder(model, True, engine)):
                assert decoder.decode_embedded(embeddings, 7).token_ids.tolist() == wanted
    finally:
        model.adapter = None
        if adapted:
            handle.remove()


def test_a_layer_that_is_off_is_found(model, monkeypatch):
    kernels = TritonKernels(LlamaShape.of(model.language_model.config))
    layer = fused_maps(model).layers[0]
    positions = rand(48, 32, seed=1), rand(48, 32, seed=2)
    with torch.inference_mode():
        check(kernels, layer, positions)
        monkeypatch.setattr(kernels, "gate", lambda both: THEIRS.gate(both) * 1.01)
        with pytest.raises(RuntimeError, match="a layer of 32 rows is off by"):
            check(kernels, layer, positions)


def test_sizes_that_the_kernels_do_not_take_are_named():
    found = problems(LlamaShape(24, 100, 1, 1, 24, 1e-6), 32064)
    assert len(found) == 5
    assert "hidden size 24 is not a multiple of 16" in found
    assert problems(LlamaShape(4096, 11008, 32, 32, 128, 1e-6), 32064) == []


@pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
def test_a_cuda_device_gets_the_kernels(model):
    assert kernels_for(model).name == "triton"
