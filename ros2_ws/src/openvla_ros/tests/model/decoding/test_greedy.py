"""The decoder: early ends, numbers that are not finite, how sure it is, text."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from support.golden_checkpoints import REFERENCE, cases, model_of

from openvla_ros.errors import CheckpointError, ModelOutputError
from openvla_ros.model.checkpoints.safetensors import load_model
from openvla_ros.model.decoding.greedy import certainty, decode_greedily, generate_text, prefill
from openvla_ros.model.inference.options import LoadOptions
from openvla_ros.model.inference.vision_language import load_vision_language
from openvla_ros.model.network.tokenizer import EOS_ID, LLAMA_SPACE_ID, PromptTokenizer
from openvla_ros.preprocessing.image_transform import to_rgb


@pytest.fixture(scope="module")
def case():
    return cases()[0]


@pytest.fixture
def fresh():
    """A model of one's own, to damage."""
    return load_model(REFERENCE / "checkpoint", dtype=torch.float32)


def make_end_win(model, embeddings):
    """Turn the head's end-of-sequence row so that it gets the largest logit right after the prompt."""
    hidden = model.hidden_states(embeddings)[0, -1]
    with torch.no_grad():
        model.language_model.lm_head.weight[EOS_ID] = 100 * hidden / hidden.norm()


def test_early_end_of_sequence_names_the_step(fresh, case):
    embeddings = case.embeddings(fresh)
    make_end_win(fresh, embeddings)
    with pytest.raises(ModelOutputError, match="ended the sequence at action token 0 of 7"):
        decode_greedily(fresh, embeddings, 7)


def test_masking_to_action_tokens_gives_an_action_instead(fresh, case):
    embeddings = case.embeddings(fresh)
    make_end_win(fresh, embeddings)
    tokens = decode_greedily(fresh, embeddings, 7, only_action_tokens=True).token_ids
    assert all(token in fresh.config.action_ids for token in tokens)


def test_masking_changes_nothing_where_the_argmax_is_an_action():
    compared = 0
    for case in cases():
        model = model_of(case.folder)
        embeddings = case.embeddings(model)
        free = decode_greedily(model, embeddings, 7).token_ids.tolist()
        outside = [position for position, token in enumerate(free) if token not in model.config.action_ids]
        until = outside[0] if outside else 7
        masked = decode_greedily(model, embeddings, 7, only_action_tokens=True).token_ids.tolist()
        assert masked[:until] == free[:until]
        compared += until
    assert compared


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("row", [0, 31800])
def test_logits_that_are_not_finite(fresh, case, bad, row):
    with torch.no_grad():
        fresh.language_model.lm_head.weight[row] = bad
    with pytest.raises(ModelOutputError, match="action token 0 are not finite"):
        decode_greedily(fresh, case.embeddings(fresh), 3)


def test_certainty_against_numpy(case):
    model = model_of(case.folder)
    tokens = decode_greedily(model, case.embeddings(model), 1)
    with torch.inference_mode():
        logits = prefill(model, case.embeddings(model))[0][0].double().numpy()
    ids = model.config.action_ids
    bins = np.exp(logits[ids.start : ids.stop] - logits[ids.start : ids.stop].max())
    bins /= bins.sum()
    assert tokens.probability[0] == pytest.approx(bins[tokens.token_ids[0] - ids.start], abs=1e-6)
    assert tokens.entropy[0] == pytest.approx(-(bins * np.log(bins)).sum(), abs=1e-5)


def test_certainty_of_ids_outside_the_bins_and_of_impossible_bins():
    model = model_of(REFERENCE)
    logits = torch.full((3, 32064), -torch.inf)
    logits[:, 31744] = 0.0
    logits[1, 31999] = 0.0
    probability, entropy = certainty(model, logits, torch.tensor([5, 32010, 31744]))
    np.testing.assert_allclose(probability, [1.0, 0.5, 1.0])
    np.testing.assert_allclose(entropy, [0.0, np.log(2), 0.0], atol=1e-6)


def test_generated_text_stops_at_the_end_of_sequence(fresh, case):
    embeddings = case.embeddings(fresh)
    assert len(generate_text(fresh, embeddings, 5)) == 5
    make_end_win(fresh, embeddings)
    assert generate_text(fresh, embeddings, 5) == []


def test_the_model_answers_in_words():
    model = load_vision_language(REFERENCE / "checkpoint", LoadOptions(dtype=torch.float32))
    image = to_rgb(Image.open(REFERENCE / "images" / "01.png"))
    answer = model.answer(image, "What is on the table?", 6)
    assert answer == model.answer(image, "What is on the table?", 6)
    assert answer != model.answer(image, "Which colour is it?", 6)


def test_a_model_that_skips_its_image_is_refused(tmp_path):
    model = load_vision_language(REFERENCE / "checkpoint", LoadOptions(dtype=torch.float32))
    with torch.no_grad():
        model.network.projector.fc3.weight.zero_()
    with pytest.raises(CheckpointError, match="ignores the image"):
        model.check_image_is_used()
    with torch.no_grad():
        model.network.projector.fc3.weight.fill_(torch.nan)
    with pytest.raises(CheckpointError, match="not finite"):
        model.check_image_is_used()


def test_every_prompt_ends_in_the_space_token():
    tokenizer = PromptTokenizer.from_folder(REFERENCE / "checkpoint")
    assert tokenizer.encode_prompt("In: a\nOut:")[-1] == LLAMA_SPACE_ID != tokenizer.encode("In: a\nOut:")[-1]
    assert tokenizer.encode_prompt("In: a\nOut: ") == tokenizer.encode("In: a\nOut: ")
    assert tokenizer.decode(tokenizer.encode("pick it up")) == "pick it up"


def test_tokenizer_with_other_ids_is_refused(tmp_path):
    data = json.loads((REFERENCE / "checkpoint" / "tokenizer.json").read_text())
    vocabulary = data["model"]["vocab"]
    vocabulary["▁"], vocabulary["e"] = vocabulary["e"], vocabulary["▁"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match=r"is token [0-9]+; in Llama-2.s vocabulary it is 29871"):
        PromptTokenizer.from_folder(tmp_path)


def test_tokenizer_that_is_none(tmp_path):
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json"):
        PromptTokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="not a tokenizer"):
        PromptTokenizer.from_folder(tmp_path)
