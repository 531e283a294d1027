"""The numbers of the original implementation, reproduced from its weights."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from support.golden_checkpoints import SETS, case_id, cases, model_of
from support.literal_loss import supervise

from openvla_ros.model.decoding.greedy import decode_greedily, prefill, step
from openvla_ros.model.network.tokenizer import PromptTokenizer
from openvla_ros.preprocessing.action_tokens import ActionCodec, unnormalise
from openvla_ros.preprocessing.dataset_statistics import read_statistics
from openvla_ros.preprocessing.image_transform import ImageTransform
from openvla_ros.preprocessing.prompt import build_prompt

every_case = pytest.mark.parametrize("case", cases(), ids=case_id)
every_set = pytest.mark.parametrize("folder", SETS, ids=lambda folder: folder.name)


@every_case
def test_prompt_and_token_ids(case):
    numbers = case.numbers()
    prompt = build_prompt(case.instruction, case.style)
    assert prompt == str(numbers["prompt"]).rstrip()
    tokenizer = PromptTokenizer.from_folder(case.checkpoint)
    assert tokenizer.encode(str(numbers["prompt"])) == numbers["input_ids"].tolist()
    count = len(numbers["action_token_ids"])
    assert tokenizer.encode_prompt(prompt) == numbers["full_sequence_ids"][:-count].tolist()


@every_case
def test_pixels_are_exact(case):
    config = json.loads((case.checkpoint / "preprocessor_config.json").read_text())
    pixels = ImageTransform.from_config(config)(
        Image.open(case.folder / "images" / case.image), case.center_crop
    )
    np.testing.assert_array_equal(pixels, case.numbers()["pixel_values"])


@every_case
@torch.inference_mode()
def test_features_and_logits(case):
    numbers, model = case.numbers(), model_of(case.folder)
    features = model.vision_backbone(torch.from_numpy(numbers["pixel_values"])[None])
    # Features reach 7; which of the CPU's kernels runs moves them by some 1e-5 of that.
    np.testing.assert_allclose(features[0], numbers["vision_features"], rtol=1e-5, atol=1e-5)
    projected = model.projector(features)[0]
    np.testing.assert_allclose(projected, numbers["projector_output"], rtol=1e-5, atol=1e-5)
    logits, cache = prefill(model, case.embeddings(model))
    np.testing.assert_allclose(logits[0], numbers["first_action_logits"], rtol=0, atol=1e-4)
    for position, token in enumerate(numbers["action_token_ids"]):
        top = logits[0].topk(8)
        np.testing.assert_allclose(top.values, numbers["step_top8_logits"][position], rtol=0, atol=1e-4)
        assert int(top.indices[0]) == numbers["step_top8_ids"][position, 0] == token
        logits = step(model, torch.tensor([[token]]), cache)


@every_case
def test_tokens_and_actions_of_every_dataset(case):
    numbers, model = case.numbers(), model_of(case.folder)
    statistics = read_statistics(case.checkpoint / "dataset_statistics.json")
    codec = ActionCodec(model.config.action_vocab_size, model.config.n_action_bins)
    embeddings = case.embeddings(model)
    assert statistics
    for key, dataset in statistics.items():
        tokens = decode_greedily(model, embeddings, dataset.action.width).token_ids
        np.testing.assert_array_equal(tokens, numbers[f"action_token_ids::{key}"])
        actions = unnormalise(codec.decode(tokens), dataset.action)
        np.testing.assert_allclose(actions, numbers[f"actions::{key}"], rtol=0, atol=1e-12)
    np.testing.assert_array_equal(numbers["actions"], numbers[f"actions::{case.unnorm_key}"])


@every_case
def test_bf16_gives_the_same_tokens_where_the_margin_is_clear(case):
    numbers, model = case.numbers(), model_of(case.folder, torch.bfloat16)
    tokens = decode_greedily(model, case.embeddings(model), len(numbers["bf16_action_token_ids"])).token_ids
    clear = numbers["bf16_step_margins"] >= 0.2
    until = len(clear) if clear.all() else int(np.argmin(clear))  # later steps depend on the unclear one
    np.testing.assert_array_equal(tokens[:until], numbers["bf16_action_token_ids"][:until])


@every_set
def test_training_batch(folder):
    with np.load(folder / "train_batch.npz") as file:
        batch = dict(file)
    model = model_of(folder)
    config = json.loads((folder / "checkpoint" / "preprocessor_config.json").read_text())
    transform = ImageTransform.from_config(config)
    pixels = np.stack([transform(image) for image in batch["images"]])
    np.testing.assert_array_equal(pixels[0], batch["pixel_values_sample0"])
    np.testing.assert_allclose(
        pixels.sum(axis=(1, 2, 3), dtype=np.float64), batch["pixel_values_sum"], rtol=1e-12
    )

    model.zero_grad()
    result = supervise(
        model,
        torch.from_numpy(pixels),
        torch.from_numpy(batch["input_ids"]),
        torch.from_numpy(batch["labels"]),
    )
    result.loss.backward()
    assert float(result.loss.detach()) == pytest.approx(float(batch["loss"]), abs=1e-5)
    assert float(result.action_accuracy) == pytest.approx(float(batch["action_accuracy"]), abs=1e-7)
    assert float(result.action_l1) == pytest.approx(float(batch["l1_loss"]), abs=1e-9)

    norms = json.loads((folder / "train_grad_norms.json").read_text())
    ours = {
        key: float(value.grad.norm()) for key, value in model.named_parameters() if value.grad is not None
    }
    wanted = {key: norm for key, norm in norms.items() if norm is not None}
    assert ours.keys() == wanted.keys()
    for key, norm in wanted.items():
        assert ours[key] == pytest.approx(norm, rel=1e-3, abs=1e-6), key
    model.zero_grad()
