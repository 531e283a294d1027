"""Examples are laid out as the original lays them out, id for id."""

import numpy as np
import pytest
import torch

from openvla_ros.model.inference.options import LoadOptions
from openvla_ros.model.inference.vision_language import load_vision_language
from openvla_ros.model.network.tokenizer import PromptTokenizer
from openvla_ros.preprocessing.action_tokens import ActionCodec
from openvla_ros.pretraining.small_model import SmallSize, make_small_model, save_checkpoint, train_tokenizer
from openvla_ros.training.data.token_example import action_example, answer_example, collate

TEXTS = ["In: What action should the robot take to lift the red cube?\nOut:", "put the cube on the plate"]
SIZE = SmallSize(image_size=28, vision_width=24, vision_depth=2, text_width=32, text_depth=1, pieces=400)


@pytest.mark.parametrize(("folder", "style"), [(".", "openvla"), ("v01", "vicuna_v01")])
def test_a_golden_batch_is_reproduced_id_for_id(reference_folder, folder, style):
    golden = np.load(reference_folder / folder / "train_batch.npz")
    tokenizer = PromptTokenizer.from_folder(reference_folder / "checkpoint")
    codec = ActionCodec()
    examples = [
        action_example(tokenizer, codec, str(words), action, style)
        for words, action in zip(golden["instructions"], golden["actions"], strict=True)
    ]
    token_ids, labels = collate(examples, pad_id=32000)
    np.testing.assert_array_equal(token_ids, golden["input_ids"])
    np.testing.assert_array_equal(labels, golden["labels"])


def test_an_answer_is_labelled_and_its_question_is_not():
    tokenizer = PromptTokenizer(train_tokenizer(TEXTS, 400), "test")
    example = answer_example(tokenizer, "Which cube is left of the plate?", "the red one")
    learned = example.labels[example.labels >= 0]
    assert tokenizer.decode(learned[:-1].tolist()).strip() == "the red one"
    assert learned[-1] == 2
    np.testing.assert_array_equal(example.token_ids[-len(learned) :], learned)


def test_a_small_checkpoint_loads_through_the_ordinary_loader(tmp_path):
    tokenizer = train_tokenizer(TEXTS, SIZE.pieces)
    model = make_small_model(SIZE, seed=0)
    save_checkpoint(tmp_path, model, tokenizer, SIZE, {}, dtype=torch.float32)
    loaded = load_vision_language(tmp_path, LoadOptions(dtype=torch.float32, progress=False))
    written = dict(model.named_parameters())
    for name, read in loaded.network.named_parameters():  # the dead weights are dropped on loading
        torch.testing.assert_close(read, written[name], rtol=0, atol=0, msg=name)
    ids = loaded.tokenizer.encode_prompt("put the cube")
    assert ids[0] == 1
    assert ids[-1] == loaded.tokenizer.space_id
    assert max(ids) < SIZE.pieces
    assert loaded.tokenizer.decode(ids) == "put the cube "  # it ends in "▁"
