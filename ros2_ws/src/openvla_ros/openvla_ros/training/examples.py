"""From places in the data to tensors: picture, augmentation, transform, words, labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from openvla_ros.action_codec import ActionCodec
from openvla_ros.arrays import Image
from openvla_ros.augmentation import Augmentation
from openvla_ros.images import ImageTransform
from openvla_ros.model.tokenizer import PromptTokenizer
from openvla_ros.prompt import PromptStyle
from openvla_ros.training.example import Example, action_example, answer_example, collate
from openvla_ros.training.frame_store import FrameStore, picture
from openvla_ros.training.loss import Batch
from openvla_ros.training.sampling import Place
from openvla_ros.training.words import QuestionAnswer


@dataclass(frozen=True, eq=False)
class ExampleMaker:
    """Makes batches; with the same place it makes the same example, in whatever process."""

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
        pixels = [self._augmented(self._picture(place), place.draw) for place in places]
        return self._collated(pixels, places)

    def validation_batch(self, rows: Sequence[int]) -> Batch:
        """Return a batch of frames as deployment sees them: cropped in the middle where training crops."""
        places = [Place(0, int(row), True) for row in rows]
        crop = self.augmentation is not None
        pixels = [self.transform(self._picture(place), center_crop=crop) for place in places]
        return self._collated(pixels, places)

    def _collated(self, pixels: list[NDArray[np.float32]], places: Sequence[Place]) -> Batch:
        token_ids, labels = collate([self._text(place) for place in places], self.pad_id)
        is_action = torch.tensor([place.is_action for place in places])
        return Batch(torch.from_numpy(np.stack(pixels)), token_ids, labels, is_action)

    def _picture(self, place: Place) -> Image:
        if place.is_action:
            return picture(self.store, place.row)
        return self.transform.resized(self.questions[place.row].picture())

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
