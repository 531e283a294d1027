"""The fast decoders give the plain decoder's tokens, whatever was guessed and however stages are run."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fake_cuda_graphs import RehearsedStages
from support.golden_checkpoints import case_id, cases, model_of

from openvla_ros.errors import ModelOutputError
from openvla_ros.model.decoding.engine import Engine
from openvla_ros.model.decoding.greedy import decode_greedily
from openvla_ros.model.decoding.speculative import DraftingDecoder
from openvla_ros.model.decoding.steady import SteadyDecoder
from openvla_ros.model.kernels.static_llama import StaticLlama
from openvla_ros.pretraining.small_model import SmallSize, make_small_model

SIZE = SmallSize(image_size=28, vision_width=24, vision_depth=2, text_width=48, text_depth=2, pieces=400)
COUNT = 7


def random_model(seed: int):
    torch.manual_seed(seed)
    model = make_small_model(SIZE, seed).eval()
    with torch.no_grad():  # a fresh head gives nearly equal logits: spread them
        model.language_model.lm_head.weight.normal_(std=0.5)
        model.language_model.model.embed_tokens.weight.normal_(std=1.0)
    return model


MODEL = random_model(0)


def prompt(seed: int, length: int = 9) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(1, 6, 28, 28, generator=generator)
    token_ids = torch.randint(3, 400, (1, length), generator=generator)
    with torch.inference_mode():
        return MODEL.embed(pixels, token_ids)


def plain(embeddings: torch.Tensor, model=MODEL):
    return decode_greedily(model, embeddings, COUNT, only_action_tokens=True)


def drafting(stages=None, model=MODEL):
    return DraftingDecoder(model, only_action_tokens=True, engine=Engine(model, stages))


# They live on, so that stages which were made for one prompt serve others.
FREE, REHEARSED = drafting(), drafting(RehearsedStages())
STEADY = [
    SteadyDecoder(MODEL, only_action_tokens=True, engine=Engine(MODEL, stages))
    for stages in (None, RehearsedStages())
]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([FREE, REHEARSED]), st.integers(0, 10_000), st.integers(2, 30),
    st.lists(st.integers(400, 655), min_size=6, max_size=6),
)  # fmt: skip
def test_any_guess_gives_the_plain_tokens(decoder, seed, length, guess):
    embeddings = prompt(seed, length)
    wanted = plain(embeddings)
    got = decoder.decode_embedded(embeddings, COUNT, torch.tensor(guess))
    assert got.token_ids.tolist() == wanted.token_ids.tolist()
    torch.testing.assert_close(torch.tensor(got.entropy), torch.tensor(wanted.entropy), rtol=1e-4, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(STEADY), st.integers(0, 10_000), st.integers(2, 30))
def test_the_steady_decoder_gives_the_plain_tokens(decoder, seed, length):
    embeddings = prompt(seed, length)
    wanted, got = plain(embeddings), decoder.decode_embedded(embeddings, COUNT)
    assert got.token_ids.tolist() == wanted.token_ids.tolist()
    for name in ("probability", "entropy", "normalised"):
        torch.testing.assert_close(
            torch.tensor(getattr(got, name)), torch.tensor(getattr(wanted, name)), rtol=1e-4, atol=1e-4
        )


def count_passes(decoder, monkeypatch) -> list[int]:
    """Return a list that grows by the rows of each pass through the language model."""
    passes, llama = [], decoder.engine.llama
    logits = llama.logits
    monkeypatch.setattr(llama, "logits", lambda x, start, rows: passes.append(rows) or logits(x, start, rows))
    return passes


PLACES = range(COUNT - 1)
EVERY_MISMATCH = [tuple(place for place in PLACES if bits >> place & 1) for bits in range(2 ** (COUNT - 1))]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_mismatches_at_every_position_cost_passes_and_never_tokens(seed, monkeypatch):
    model = random_model(seed)
    embeddings = torch.randn(1, 12, SIZE.text_width, generator=torch.Generator().manual_seed(seed))
    wanted = plain(embeddings, model).token_ids
    decoder = drafting(model=model)
    passes = count_passes(decoder, monkeypatch)
    for wrong in EVERY_MISMATCH:
        guess = torch.tensor(wanted[:-1].copy())
        for position in wrong:
            guess[position] = 400 + (int(guess[position]) - 400 + 17) % 256
        decoder.forget()
        passes.clear()
        assert decoder.decode_embedded(embeddings, COUNT, guess).token_ids.tolist() == wanted.tolist()
        # The prompt's pass finds the first wrong guess; each more settles at least one token.
        assert len(passes) <= 1 + (COUNT - 1 - wrong[0] if wrong else 0)
        assert (len(passes) == 1) == (not wrong)
        assert decoder.acceptance.passes == {len(passes) - 1: 1}
        assert decoder.acceptance.right == (wrong[0] if wrong else COUNT - 1)


def test_where_width_costs_time_a_second_guess_that_is_all_wrong_is_the_last(monkeypatch):
    model = random_model(0)
    embeddings = torch.randn(1, 12, SIZE.text_width, generator=torch.Generator().manual_seed(0))
    wanted = plain(embeddings, model).token_ids
    decoder = drafting(model=model)
    passes, widest = count_passes(decoder, monkeypatch), []
    random = torch.Generator().manual_seed(0)
    for _ in range(20):
        passes.clear()
        guess = torch.randint(400, 656, (COUNT - 1,), generator=random)
        guess[0] = 400 + (int(wanted[0]) - 400 + 17) % 256
        assert decoder.decode_embedded(embeddings, COUNT, guess).token_ids.tolist() == wanted.tolist()
        widest.append(list(passes))
    assert [COUNT, COUNT - 1, *[1] * (COUNT - 2)] in widest  # nothing guessed right, twice
    for first, *more in widest:
        assert first == COUNT
        # Passes over several tokens come first, and each but the last of them settled more than one.
        wide = [rows for rows in more if rows > 1]
        assert more[: len(wide)] == wide
        assert all(before - after > 1 for before, after in itertools.pairwise(wide))


@pytest.mark.parametrize("wrong", [*((place,) for place in PLACES), tuple(PLACES)])
def test_captured_stages_take_any_mismatch_in_the_same_work(wrong):
    embeddings = prompt(7)
    wanted = plain(embeddings).token_ids
    guess = torch.tensor(wanted[:-1].copy())
    for position in wrong:
        guess[position] = 400 + (int(guess[position]) - 400 + 17) % 256
    REHEARSED.forget()
    assert REHEARSED.decode_embedded(embeddings, COUNT, guess).token_ids.tolist() == wanted.tolist()
    (extra,) = REHEARSED.acceptance.passes
    assert 1 <= extra <= COUNT - 1 - wrong[0]


def test_the_steady_decoder_takes_as_many_passes_as_there_are_tokens(monkeypatch):
    decoder = SteadyDecoder(MODEL, only_action_tokens=True)
    passes = count_passes(decoder, monkeypatch)
    decoder.decode_embedded(prompt(7), COUNT)
    assert passes == [1] * COUNT


def test_the_previous_action_is_the_next_guess():
    embeddings = prompt(3)
    decoder = DraftingDecoder(MODEL, only_action_tokens=True)
    first = decoder.decode_embedded(embeddings, COUNT)
    second = decoder.decode_embedded(embeddings, COUNT)
    assert first.token_ids.tolist() == second.token_ids.tolist()
    assert decoder.acceptance.passes[0] >= 1
    assert decoder.acceptance.actions == 2


def test_logits_equal_those_of_transformers_from_any_start():
    embeddings = prompt(11, 20)
    llama = StaticLlama(MODEL)
    llama.reserve(embeddings.shape[1])
    with torch.inference_mode():
        whole = MODEL.language_model.lm_head(MODEL.hidden_states(embeddings))[0]
        for split in (1, 5, embeddings.shape[1] - 1):
            llama.logits(embeddings[0, :split], start=0, rows=1)
            rest = embeddings.shape[1] - split
            torch.testing.assert_close(
                llama.logits(embeddings[0, split:], start=split, rows=rest),
                whole[split:], rtol=1e-5, atol=1e-5,
            )  # fmt: skip


def test_grouped_keys_and_values():
    from dataclasses import asdict

    from transformers import LlamaConfig, LlamaForCausalLM

    model = random_model(5)
    config = {k: v for k, v in asdict(model.config.text_config).items() if v is not None}
    config |= {"num_key_value_heads": 2}
    config.pop("model_type")
    torch.manual_seed(5)
    model.language_model = LlamaForCausalLM(LlamaConfig(**config, attn_implementation="sdpa")).eval()
    embeddings = torch.randn(1, 15, SIZE.text_width)
    wanted = plain(embeddings, model).token_ids.tolist()
    for decoder in (drafting(model=model), SteadyDecoder(model, only_action_tokens=True)):
        assert decoder.decode_embedded(embeddings, COUNT).token_ids.tolist() == wanted


def test_an_early_end_is_refused_as_in_plain_decoding():
    model = random_model(2)
    with torch.no_grad():
        model.language_model.lm_head.weight.zero_()
        model.language_model.lm_head.weight[2] = 1.0
    embeddings = torch.rand(1, 12, SIZE.text_width)
    with torch.no_grad():
        sign = float(model.hidden_states(embeddings)[0, -1].sum())
        model.language_model.lm_head.weight[2] *= 1.0 if sign > 0 else -1.0
    with pytest.raises(ModelOutputError, match="ended the sequence at action token 0"):
        decode_greedily(model, embeddings, COUNT)
    with pytest.raises(ModelOutputError, match="ended the sequence at action token 0"):
        DraftingDecoder(model).decode_embedded(embeddings, COUNT)


@pytest.mark.parametrize("case", cases(), ids=case_id)
def test_the_golden_cases_give_the_golden_tokens(case):
    numbers, model = case.numbers(), model_of(case.folder)
    decoder = DraftingDecoder(model, engine=Engine(model, RehearsedStages()))
    embeddings = case.embeddings(model)
    wanted = numbers["action_token_ids"]
    steady = SteadyDecoder(model).decode_embedded(embeddings, len(wanted))
    assert steady.token_ids.tolist() == wanted.tolist()
    right = torch.tensor(wanted[:-1])
    guesses = [None, right, right.flip(0)]
    for place in range(len(right)):
        guesses.append(right.clone())
        guesses[-1][place] = 31744 + (int(right[place]) - 31744 + 17) % 256
    for guess in guesses:
        decoder.forget()
        got = decoder.decode_embedded(embeddings, len(wanted), guess)
        assert got.token_ids.tolist() == wanted.tolist()
        assert max(decoder.acceptance.passes) < len(wanted)
