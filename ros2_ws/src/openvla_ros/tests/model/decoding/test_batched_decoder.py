"""Several sequences in one pass: each gets the tokens, and nearly the logits, that it gets alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openvla_ros.errors import InvalidValueError, ModelOutputError
from openvla_ros.model.checkpoints.adapter_config import AdapterConfig
from openvla_ros.model.checkpoints.lora_adapters import Adapter, AdapterSet
from openvla_ros.model.decoding.batched_decoder import BatchedDecoder, Sequel
from openvla_ros.model.decoding.engine import Engine
from openvla_ros.model.decoding.greedy import decode_greedily
from openvla_ros.model.network.lora_delta import LowRankUpdate
from openvla_ros.model.network.tokenizer import EOS_ID
from openvla_ros.pretraining.small_model import SmallSize, make_small_model

SIZE = SmallSize(image_size=28, vision_width=24, vision_depth=3, text_width=48, text_depth=2, pieces=400)
COUNT = 7
NAMES = (None, "plain", "narrow", "dora")


def random_model(seed=0):
    torch.manual_seed(seed)
    model = make_small_model(SIZE, seed).eval()
    with torch.no_grad():  # a fresh head gives nearly equal logits: spread them
        model.language_model.lm_head.weight.normal_(std=0.5)
        model.language_model.model.embed_tokens.weight.normal_(std=1.0)
    return model


def made_adapter(model, seed, rank, modules, gain=False):
    """An adapter with random updates of some modules: of the towers, the projector and the language model."""
    random = torch.Generator().manual_seed(seed)
    updates = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and any(part in name for part in modules):
            wide, tall = module.in_features, module.out_features
            factors = torch.randn(rank, wide, generator=random), torch.randn(tall, rank, generator=random)
            scales = 1 + 0.2 * torch.randn(tall, generator=random) if gain else None
            updates[name] = LowRankUpdate(factors[0] / wide**0.5, factors[1] / rank**0.5, 0.5, scales)
    assert len(updates) > 2
    return Adapter("made", AdapterConfig(peft_type="LORA", r=rank, lora_alpha=1.0), updates)


MODEL = random_model()
ADAPTERS = AdapterSet(MODEL)
ADAPTERS.add("plain", made_adapter(MODEL, 1, 4, ["q_proj", "v_proj", "mlp", "attn.qkv", "lm_head"]))
ADAPTERS.add("narrow", made_adapter(MODEL, 2, 1, ["o_proj", "projector.fc", "gate_proj"]))
ADAPTERS.add("dora", made_adapter(MODEL, 3, 3, ["k_proj", "down_proj", "attn.proj", "fc2"], gain=True))
BATCHED = BatchedDecoder(Engine(MODEL), only_action_tokens=True)  # one for all: batches share its cache


def question(seed, length):
    """An image (1, C, H, W) and a prompt (L,)."""
    random = torch.Generator().manual_seed(seed)
    pixels = torch.randn(1, 6, 28, 28, generator=random)
    return pixels, torch.randint(3, 400, (length,), generator=random)


@torch.inference_mode()
def alone(name, pixels, token_ids):
    """What the plain decoder gives for one image, its prompt and its adapter."""
    ADAPTERS.activate(name)
    try:
        embeddings = MODEL.embed(pixels, token_ids[None])
        return decode_greedily(MODEL, embeddings, COUNT, only_action_tokens=True)
    finally:
        ADAPTERS.activate(None)


@torch.inference_mode()
def together(rows, decoder=BATCHED):
    """What the batch gives for rows of an adapter's name, pixels, prompt and last action."""
    with ADAPTERS.by_row([name for name, *_ in rows]):
        image = MODEL.image_embeddings(torch.cat([pixels for _, pixels, *_ in rows]))
    sequels = [Sequel(ids, ADAPTERS.of(name), last) for name, _, ids, last in rows]
    return decoder.decode(image, sequels, COUNT)


ROW = st.tuples(
    st.sampled_from(NAMES), st.integers(0, 10_000), st.integers(2, 30),
    st.none() | st.lists(st.integers(400, 655), min_size=COUNT, max_size=COUNT),
)  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=9))
def test_each_row_gets_the_tokens_that_it_gets_alone(rows):
    asked = [
        (name, *question(seed, length), None if last is None else torch.tensor(last))
        for name, seed, length, last in rows
    ]
    for found, (name, pixels, token_ids, _) in zip(together(asked), asked, strict=True):
        wanted = alone(name, pixels, token_ids)
        assert found.tokens.token_ids.tolist() == wanted.token_ids.tolist()
        torch.testing.assert_close(
            torch.tensor(found.tokens.probability), torch.tensor(wanted.probability), rtol=1e-3, atol=1e-4
        )
        assert found.chosen.tolist() == wanted.token_ids.tolist()


def test_adapters_act_on_their_own_rows_only():
    pixels, token_ids = question(5, 9)
    rows = [(name, pixels, token_ids, None) for name in (*NAMES, *reversed(NAMES))]
    found = [tuple(row.tokens.probability.round(4)) for row in together(rows)]
    assert found == found[::-1]
    assert len(set(found)) == len(NAMES)


def test_the_right_guess_needs_no_pass_after_the_prefill(monkeypatch):
    rows = [(name, *question(seed, 5 + seed), None) for seed, name in enumerate(NAMES)]
    first = together(rows)
    again = [(*row[:3], found.chosen) for row, found in zip(rows, first, strict=True)]
    monkeypatch.setattr(BATCHED._llama, "go_on", None)
    for found, before in zip(together(again), first, strict=True):
        assert found.chosen.tolist() == before.chosen.tolist()
        assert found.accepted == COUNT - 1


def test_one_rows_end_of_sequence_is_not_anothers():
    model = random_model()
    free = BatchedDecoder(Engine(model))
    rows = [(None, *question(seed, 8), None) for seed in range(4)]
    with torch.inference_mode():
        image = model.image_embeddings(torch.cat([pixels for _, pixels, *_ in rows]))
        sequels = [Sequel(ids, None) for _, _, ids, _ in rows]
        before = free.decode(image, sequels, COUNT)
        # The head now prefers the end wherever row 1 chose its first token.
        first = before[1].chosen[0]
        head = model.language_model.lm_head.weight
        head[EOS_ID] = 1.01 * head[first]
        after = free.decode(image, sequels, COUNT)
    assert isinstance(after[1].tokens, ModelOutputError)
    kept = [row for row in (0, 2, 3) if first not in before[row].chosen]
    assert kept
    for row in kept:
        assert after[row].tokens.token_ids.tolist() == before[row].tokens.token_ids.tolist()


def test_a_sequence_longer_than_the_model_takes_is_refused():
    limit = MODEL.config.text_config.max_position_embeddings
    with pytest.raises(InvalidValueError, match=f"at most {limit}"):
        together([(None, *question(0, limit), None)])
