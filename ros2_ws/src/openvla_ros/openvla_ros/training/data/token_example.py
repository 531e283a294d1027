"""Training examples as token ids and labels, single and batched.

[BOS, prompt, "▁", action tokens, end of sequence]; only the action tokens and the end are labelled.
Question-and-answer pairs, for training on vision-language data alongside actions, have the same layout.
The model inserts the image patches after BOS. Follows ``RLDSBatchTransform`` and
``PaddedCollatorForActionPrediction`` of openvla/openvla.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from openvla_ros.errors import InvalidValueError
from openvla_ros.model.network.tokenizer import EOS_ID, PromptTokenizer
from openvla_ros.preprocessing.action_tokens import IGNORED, ActionCodec
from openvla_ros.preprocessing.prompt import PromptStyle, build_question_prompt, build_training_prompt
from openvla_ros.values.arrays import Int, read_only


@dataclass(frozen=True, eq=False)
class Example:
    """The text side of one example."""

    token_ids: Int  # (L,) BOS first, end of sequence last
    labels: Int  # (L,) the id itself where it is to be learned, else IGNORED


def action_example(
    tokenizer: PromptTokenizer,
    codec: ActionCodec,
    instruction: str,
    normalised: ArrayLike,
    style: PromptStyle = "openvla",
) -> Example:
    """Return the example that teaches ``normalised`` (D,) or (T, D) actions, float32 in -1 .. 1."""
    prompt = tokenizer.encode_prompt(build_training_prompt(instruction, style))
    return _example(prompt, np.asarray(codec.encode(normalised)).reshape(-1))


def answer_example(
    tokenizer: PromptTokenizer, question: str, answer: str, style: PromptStyle = "openvla"
) -> Example:
    """Return the example that teaches ``answer`` to a free question about the image."""
    prompt = build_question_prompt(question, style)
    ids = tokenizer.encode(prompt)
    whole = tokenizer.encode(f"{prompt} {answer}")
    shared = next((i for i, (a, b) in enumerate(zip(ids, whole, strict=False)) if a != b), len(ids))
    return _example(whole[:shared], np.array(whole[shared:]))


def _example(prompt: Sequence[int], answer: NDArray[np.int64]) -> Example:
    token_ids = np.array([*prompt, *answer, EOS_ID], dtype=np.int64)
    labels = token_ids.copy()
    labels[: len(prompt)] = IGNORED
    return Example(read_only(token_ids), read_only(labels))


def collate(examples: Sequence[Example], pad_id: int) -> tuple[Tensor, Tensor]:
    """Return token ids and labels (B, longest), padded on the right with ``pad_id`` and ``IGNORED``."""
    if not examples:
        raise InvalidValueError("a batch must contain at least one example")
    width = max(len(example.token_ids) for example in examples)
    token_ids = torch.full((len(examples), width), pad_id)
    labels = torch.full((len(examples), width), IGNORED)
    for row, example in enumerate(examples):
        token_ids[row, : len(example.token_ids)] = torch.tensor(example.token_ids)
        labels[row, : len(example.labels)] = torch.tensor(example.labels)
    return token_ids, labels
