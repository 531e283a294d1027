"""Several robots' images and instructions to their actions, in one pass through the network.

Each question has a predictor of its own, hence its own adapter, statistics and crop, and the action that its
robot got last. Knows nothing of sockets and threads; ``serving.shared_openvla`` adds the robots.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openvla_ros.errors import InvalidValueError, ModelOutputError
from openvla_ros.model.decoding.batched_decoder import BatchedDecoder, DecodedAction, Sequel
from openvla_ros.model.decoding.engine import Engine
from openvla_ros.model.decoding.speculative import DraftingDecoder
from openvla_ros.model.decoding.staged_decoder import StagedDecoder
from openvla_ros.model.inference.predictor import OpenVLAPredictor, Prediction
from openvla_ros.model.inference.row_groups import RowGroups
from openvla_ros.values.arrays import Image


@dataclass(frozen=True, eq=False)
class Question:
    """One robot's image and words, ready for the network."""

    predictor: OpenVLAPredictor
    pixels: Tensor  # (1, 3 a tower, H, W)
    token_ids: Tensor  # (L,)
    last: Tensor | None = None  # (D,) tokens of the robot's last action, on the CPU

    @classmethod
    def prepared(
        cls, predictor: OpenVLAPredictor, image: Image, instruction: str, last: Tensor | None
    ) -> Question:
        """Return the question of an RGB image uint8 (H, W, 3); safe on any thread."""
        model = predictor.model
        pixels = model.pixels(image, center_crop=predictor.center_crop)
        return cls(predictor, pixels, model.prompt_ids(instruction)[0], last)


@dataclass(frozen=True, eq=False)
class Answer:
    """What one question got."""

    prediction: Prediction | ModelOutputError
    last: Tensor | None  # (D,) the guess for the robot's next action


class BatchPredictor:
    """Predicts with all predictors that share the weights of ``first``; one call at a time."""

    def __init__(self, first: OpenVLAPredictor) -> None:
        self._model, self._alone = first.model, first.decoder
        engine = (
            first.decoder.engine if isinstance(first.decoder, StagedDecoder) else Engine(first.model.network)
        )
        only = first.decoder.only_action_tokens
        self._groups = RowGroups(first.model.network.device, first.weight_bytes)
        count = self._groups.most if engine.llama.is_plain else 0
        self._together = [BatchedDecoder(engine, only) for _ in range(count)]  # one for each group of rows

    @property
    def batches(self) -> bool:
        """Whether questions share a pass; those to quantised modules are answered one after the other."""
        return bool(self._together)

    def predict(self, questions: Sequence[Question]) -> list[Answer]:
        """Return the answer to each question, in their order.

        The tokens are those that each question gets alone, up to ties within rounding. Raises
        ``InvalidValueError`` for predictors with other weights or of other widths.
        """
        for question in questions:
            if question.predictor.model is not self._model:
                raise InvalidValueError("questions to other weights cannot be answered together")
        if not self._together or len(questions) == 1:
            return [self._answer_alone(question) for question in questions]
        widths = {question.predictor.statistics.width for question in questions}
        if len(widths) != 1:
            raise InvalidValueError(f"actions of the widths {sorted(widths)} cannot be decoded together")
        # Neighbours with the same adapter share its updates.
        order = sorted(range(len(questions)), key=lambda index: questions[index].predictor.adapter or "")
        answers = self._groups.run(self._answer_together, [questions[index] for index in order])
        found = dict(zip(order, answers, strict=True))
        return [found[index] for index in range(len(questions))]

    def close(self) -> None:
        """End the threads. Safe to call twice."""
        self._groups.close()

    def _answer_alone(self, question: Question) -> Answer:
        began, decoder, predictor = time.perf_counter(), self._alone, question.predictor
        self._model.adapters.activate(predictor.adapter)
        drafting = isinstance(decoder, DraftingDecoder)
        if isinstance(decoder, DraftingDecoder):
            decoder.last = question.last
        try:
            tokens = decoder.decode(question.pixels, question.token_ids[None], predictor.statistics.width)
        except ModelOutputError as error:
            return Answer(error, None)
        last = torch.from_numpy(tokens.token_ids.copy()) if drafting else None
        return Answer(predictor.meaning_of(tokens, time.perf_counter() - began), last)

    @torch.inference_mode()
    def _answer_together(self, group: int, questions: Sequence[Question]) -> list[Answer]:
        """Return the answers to neighbours in one pass; several groups may be at it at once."""
        began, adapters = time.perf_counter(), self._model.adapters
        names = [question.predictor.adapter for question in questions]
        with adapters.by_row(names):
            image = self._model.network.image_embeddings(torch.cat([q.pixels for q in questions]))
        sequels = [
            Sequel(question.token_ids, adapters.of(name), question.last)
            for question, name in zip(questions, names, strict=True)
        ]
        decoded = self._together[group].decode(image, sequels, questions[0].predictor.statistics.width)
        seconds = time.perf_counter() - began
        return [_answer(*pair, seconds) for pair in zip(questions, decoded, strict=True)]


def _answer(question: Question, found: DecodedAction, seconds: float) -> Answer:
    if isinstance(found.tokens, ModelOutputError):
        return Answer(found.tokens, None)
    return Answer(question.predictor.meaning_of(found.tokens, seconds), found.chosen)
