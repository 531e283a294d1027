"""The common base of decoders on an engine: stages for each prompt length."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

import torch
from torch import Tensor

from openvla_ros.model.decoding.engine import Engine, PromptKey
from openvla_ros.model.decoding.greedy import ActionTokens
from openvla_ros.model.decoding.prompt_stages import PromptStages
from openvla_ros.model.network.openvla import OpenVLA

S = TypeVar("S")


class StagedDecoder(ABC, Generic[S]):
    """Decodes actions on one engine; ``S`` holds the tensors and stages of one prompt length."""

    def __init__(
        self, model: OpenVLA, only_action_tokens: bool = False, engine: Engine | None = None
    ) -> None:
        self.model = model
        self.engine = engine or Engine(model)
        self.prompts: PromptStages[S] = PromptStages(self.engine, self.lay_out)
        self.only_action_tokens = only_action_tokens

    @torch.inference_mode()
    def decode(self, pixels: Tensor, token_ids: Tensor, count: int) -> ActionTokens:
        """Return ``count`` tokens for one image and prompt: the plain decoder's."""
        return self.decode_embedded(self.engine.embed(pixels, token_ids), count)

    @abstractmethod
    def decode_embedded(self, embeddings: Tensor, count: int) -> ActionTokens:
        """Return ``count`` tokens for one embedded prompt (1, N, H).

        Raises ``ModelOutputError`` as the plain decoder does.
        """

    @abstractmethod
    def lay_out(self, key: PromptKey) -> S:
        """Return the tensors and the stages of one length of prompt."""

    @torch.inference_mode()
    def prepare(self, text_tokens: int, count: int) -> bool:
        """Prepare (on CUDA: capture) the stages for prompts of this length.

        Returns True if something had to be captured.
        """
        return self.prompts.prepare(text_tokens + self.model.config.patches, count)

    def forget(self) -> None:
        """Do nothing: this decoder keeps no state between actions."""
