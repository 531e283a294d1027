"""A cache of stages by prompt length, for one engine.

A captured stage has fixed sizes, so each prompt length needs its own. They are created when a length
first occurs, or earlier by ``prepare``; those of the last few lengths are kept. On a CUDA device, where
capturing takes as long as several actions, it is logged.
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
    """The tensors and stages of each prompt length, created by ``make``."""

    def __init__(self, engine: Engine, make: Callable[[PromptKey], V]) -> None:
        self._engine = engine
        self._make = make
        self._kept: Recent[PromptKey, V] = Recent(self._lay_out)

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def state(self) -> str:
        """The number of cached lengths, as text."""
        return f"{len(self)} of at most {KEPT} prompt lengths"

    def of(self, length: int, count: int) -> V:
        """Return the stages for prompts of ``length`` embeddings and actions of ``count`` tokens."""
        return self._kept[self._engine.prompt_key(length, count)]

    def prepare(self, length: int, count: int) -> bool:
        """Create what ``of`` returns; returns True if stages had to be captured."""
        key = self._engine.prompt_key(length, count)
        new = key not in self._kept
        self._kept[key]
        return new and self._engine.stages.fixed

    def _lay_out(self, key: PromptKey) -> V:
        began = time.perf_counter()
        made = self._make(key)
        if self._engine.stages.fixed:
            _LOG.info(
                "captured stages for prompts of %d embeddings in %.2f s; the last %d lengths are kept",
                key.length,
                time.perf_counter() - began,
                KEPT,
            )
        return made
