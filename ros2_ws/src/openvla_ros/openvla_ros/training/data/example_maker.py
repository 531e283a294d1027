"""Builds examples: image, augmentation, transform, words, labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from openvla_ros.model.network.tokenizer import PromptTokenizer
from openvla_ros.preprocessing.action_tokens import ActionCodec
from openvla_ros.preprocessing.augmentation import Augmentation
from openvla_ros.preprocessing.image_transform import ImageTransform
from openvla_ros.preprocessing.prompt import PromptStyle
from openvla_ros.training.data.batch import Batch
from openvla_ros.training.data.batch_order import Place
from openvla_ros.training.data.frame_cache import FrameStore, stored_image
from openvla_ros.training.data.question_answers import QuestionAnswer
from openvla_ros.training.data.token_example import Example, action_example, answer_example, collate
from openvla_ros.values.arrays import Image


@dataclass(frozen=True, eq=False)
class ExampleMaker:
    """Makes batches; the same position gives the same example in any process."""

    store: FrameStore
    normalised: NDArray[np.float32]  # (N, D) actions in -1 .. 1
    questions: Sequence[QuestionAnswer]
    transform: ImageTransform
    tokenizer: PromptTokenizer
    codec: ActionCodec
    style: PromptStyle
    pad_id: int
    seed: int
    augmentation: Augmentation | None

    def batch(self, places: Sequence[Place]) -> Batch:
        """Return the batch to train on, augmented."""
        pixels = [self._augmented(self._image(place), place.draw) for place in places]
        return self._collated(pixels, places)

    def validation_batch(self, rows: Sequence[int]) -> Batch:
        """Return a batch of frames as in deployment: center-cropped if training uses random crops."""
        places = [Place(0, int(row), True) for row in rows]
        crop = self.augmentation is not None
        pixels = [self.transform(self._image(place), center_crop=crop) for place in places]
        return self._collated(pixels, places)

    def _collated(self, pixels: list[NDArray[np.float32]], places: Sequence[Place]) -> Batch:
        token_ids, labels = collate([self._text(place) for place in places], self.pad_id)
        is_action = torch.tensor([place.is_action for place in places])
        return Batch(torch.from_numpy(np.stack(pixels)), token_ids, labels, is_action)

    def _image(self, place: Place) -> Image:
        if place.is_action:
            return stored_image(self.store, place.row)
        return self.transform.resized(self.questions[place.row].pixels())

    def _augmented(self, image: Image, draw: int) -> NDArray[np.float32]:
        if self.augmentation is not None:
            image = self.augmentation.draw(np.random.default_rng([self.seed, 2, draw]))(image)
        return self.transform(image)

    def _text(self, place: Place) -> Example:
        if place.is_action:
            words = self.store.instruction(place.row)
            return action_example(self.tokenizer, self.codec, words, self.normalised[place.row], self.style)
        pair = self.questions[place.row]
        return answer_example(self.tokenizer, pair.question, pair.answer, self.style)
