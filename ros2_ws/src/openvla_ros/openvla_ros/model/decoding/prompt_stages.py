"""What was laid out for prompts of each length, on one engine.

A captured stage has its sizes fixed, so each length of prompt needs stages of its own. They are made
when the length is met for the first time, or before, by ``prepare``; those of the last few lengths are
kept. On a CUDA device, where making them takes as long as several actions, the log tells of it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from openvla_ros.model.decoding.engine import Engine, PromptKey
from openvla_ros.model.kernels.cuda_graphs import KEPT, Recent

V = TypeVar("V")
_LOG = logging.getLogger(__name__)


class PromptStages(Generic[V]):
    """The tensors and stages of each length of prompt, made by ``make``."""

    def __init__(self, engine: Engine, make: Callable[[PromptKey], V]) -> None:
        self._engine = engine
        self._make = make
        self._kept: Recent[PromptKey, V] = Recent(self._lay_out)

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def state(self) -> str:
        """How many are kept, for people."""
        return f"{len(self)} of at most {KEPT} prompt lengths"

    def of(self, length: int, count: int) -> V:
        """Return what serves prompts of ``length`` embeddings and actions of ``count`` tokens."""
        return self._kept[self._engine.prompt_key(length, count)]

    def prepare(self, length: int, count: int) -> bool:
        """Lay out what ``of`` returns; tell whether stages had to be recorded for it."""
        key = self._engine.prompt_key(length, count)
        new = key not in self._kept
        self._kept[key]
        return new and self._engine.stages.fixed

    def _lay_out(self, key: PromptKey) -> V:
        began = time.perf_counter()
        made = self._make(key)
        if self._engine.stages.fixed:
            _LOG.info(
                "stages for prompts of %d embeddings recorded in %.2f s; those of the last %d lengths stay",
                key.length,
                time.perf_counter() - began,
                KEPT,
            )
        return made
