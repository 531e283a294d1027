"""The order in which steps of many episodes are read for training: shuffled, weighted, repeatable.

Every order is a function of a seed and a position, so a run that is resumed at a position reads on
exactly where it stopped. Steps are shuffled within windows of episodes, and windows over the whole
dataset, so that an episode is opened once a pass however large the dataset is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from openvla_ros.errors import InvalidValueError
from openvla_ros.values.arrays import Int

_BLOCK = 4096  # positions whose datasets are drawn together


@dataclass(frozen=True)
class StepPlace:
    """One step of one episode of one dataset."""

    dataset: int
    episode: int
    step: int


class ShuffledSteps:
    """Endless passes over all steps of one dataset, each in a different order."""

    def __init__(self, lengths: Sequence[int], seed: int, window: int = 64) -> None:
        self._lengths = np.asarray(lengths, np.int64)
        if not len(self._lengths) or self._lengths.min() < 0 or not self._lengths.sum():
            raise InvalidValueError(f"there are no steps to read: {len(self._lengths)} episodes")
        self._seed, self._window = seed, window
        self._pass: tuple[int, Int, Int] | None = None  # number, episodes in order, ends of windows
        self._drawn: tuple[int, int, Int, Int] | None = None  # pass, window, episodes, steps

    def __len__(self) -> int:
        return int(self._lengths.sum())

    def __getitem__(self, position: int) -> tuple[int, int]:
        """Return (episode, step) at ``position`` of the endless order."""
        number, inside = divmod(position, len(self))
        episodes, ends = self._episodes(number)
        window = int(np.searchsorted(ends, inside, side="right"))
        chosen, steps = self._steps(number, window, episodes)
        offset = inside - (int(ends[window - 1]) if window else 0)
        return int(chosen[offset]), int(steps[offset])

    def _episodes(self, number: int) -> tuple[Int, Int]:
        if self._pass is None or self._pass[0] != number:
            order = np.random.default_rng([self._seed, 0, number]).permutation(len(self._lengths))
            totals = np.add.reduceat(self._lengths[order], np.arange(0, len(order), self._window))
            self._pass = (number, order, np.cumsum(totals))
        return self._pass[1], self._pass[2]

    def _steps(self, number: int, window: int, order: Int) -> tuple[Int, Int]:
        if self._drawn is None or self._drawn[:2] != (number, window):
            members = order[window * self._window : (window + 1) * self._window]
            lengths = self._lengths[members]
            episodes = np.repeat(members, lengths)
            steps = np.arange(len(episodes)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            shuffle = np.random.default_rng([self._seed, 1, number, window]).permutation(len(episodes))
            self._drawn = (number, window, episodes[shuffle], steps[shuffle])
        return self._drawn[2], self._drawn[3]


class Mixture:
    """Several datasets read as one: each position draws a dataset, which gives its next step.

    The chance of a dataset is its weight times its number of steps (``balanced``), as OpenVLA and
    Octo mix, or its weight alone.
    """

    def __init__(
        self,
        lengths: Sequence[Sequence[int]],
        weights: Sequence[float],
        seed: int,
        *,
        balanced: bool = True,
        window: int = 64,
    ) -> None:
        if len(lengths) != len(weights) or not len(weights) or min(weights) < 0.0:
            raise InvalidValueError(
                f"{len(lengths)} datasets need as many weights of at least 0: {list(weights)}"
            )
        self._orders = [ShuffledSteps(steps, seed * 1009 + i, window) for i, steps in enumerate(lengths)]
        shares = np.array(
            [w * (len(o) if balanced else 1) for w, o in zip(weights, self._orders, strict=True)]
        )
        if not shares.sum() > 0.0:
            raise InvalidValueError(f"all weights are 0: {list(weights)}")
        self.shares = shares / shares.sum()  # chance of each dataset
        self._seed = seed
        self._starts = np.zeros((1, len(weights)), np.int64)  # per block: draws of each dataset before it
        self._block: tuple[int, Int, Int] | None = None

    def __getitem__(self, position: int) -> StepPlace:
        """Return the step at ``position`` of the endless order."""
        block, inside = divmod(position, _BLOCK)
        if self._block is None or self._block[0] != block:
            datasets = self._draw(block)
            self._block = (block, datasets, self._positions(block, datasets))
        dataset = int(self._block[1][inside])
        episode, step = self._orders[dataset][int(self._block[2][inside])]
        return StepPlace(dataset, episode, step)

    def _draw(self, block: int) -> Int:
        generator = np.random.default_rng([self._seed, 2, block])
        return generator.choice(len(self.shares), _BLOCK, p=self.shares).astype(np.int64)

    def _positions(self, block: int, datasets: Int) -> Int:
        """Return how often each draw's dataset was drawn before it, over the whole run."""
        before = self._count(block)
        positions = np.zeros(_BLOCK, np.int64)
        for dataset in range(len(self.shares)):
            here = datasets == dataset
            positions[here] = before[dataset] + np.arange(int(here.sum()))
        return positions

    def _count(self, block: int) -> Int:
        while len(self._starts) <= block:
            drawn = np.bincount(self._draw(len(self._starts) - 1), minlength=len(self.shares))
            self._starts = np.vstack([self._starts, self._starts[-1] + drawn])
        counts: Int = self._starts[block]
        return counts
