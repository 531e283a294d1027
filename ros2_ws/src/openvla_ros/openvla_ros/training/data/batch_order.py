"""The order of examples in a run: a function of the seed and the position alone.

So a resumed run gets the same batches, and several processes share one order without repeats: each takes
its part of every global batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from openvla_ros.errors import InvalidValueError
from openvla_ros.values.arrays import Float, Int


@dataclass(frozen=True)
class Place:
    """One example of a batch."""

    draw: int  # index of the example in the whole run; seeds its augmentation
    row: int  # of the frames, or of the questions
    is_action: bool


class Order:
    """Endless passes over weighted rows, each pass in a different order.

    A row with weight 2 occurs twice per pass, one with weight 0.3 in three of ten passes.
    """

    def __init__(self, rows: Int, weights: Float, seed: int) -> None:
        if not len(rows) or len(rows) != len(weights) or not np.any(weights > 0.0):
            raise InvalidValueError("nothing to sample from: no rows, or no weight above 0")
        self._rows, self._weights, self._seed = rows, weights, seed
        self._starts = [0]  # position at which each pass begins
        self._pass = (-1, np.zeros(0, np.int64))

    def __getitem__(self, position: int) -> int:
        """Return the row at ``position`` of the run."""
        while position >= self._starts[-1]:
            self._starts.append(self._starts[-1] + len(self._drawn(len(self._starts) - 1)))
        number = int(np.searchsorted(self._starts, position, side="right")) - 1
        return int(self._drawn(number)[position - self._starts[number]])

    def _drawn(self, number: int) -> Int:
        if self._pass[0] != number:
            random = np.random.default_rng([self._seed, 1, number])
            whole = np.floor(self._weights).astype(np.int64)
            repeats = whole + (random.uniform(size=len(whole)) < self._weights - whole)
            self._pass = (number, random.permutation(np.repeat(self._rows, repeats)))
        return self._pass[1]


class BatchOrder:
    """The examples of every optimizer step: actions, and a fixed share of questions."""

    def __init__(self, actions: Order, questions: Order | None, share: float, batch_size: int) -> None:
        if (questions is None) != (share == 0.0):
            raise InvalidValueError(
                f"the share of vision-language examples is {share}; it must be above 0 if and only if "
                "such data is given"
            )
        self._actions, self._questions, self._share, self._size = actions, questions, share, batch_size

    def batch(self, step: int) -> list[Place]:
        """Return the examples of step ``step``, from 0, actions first."""
        begun, ended = (int(n * self._size * self._share) for n in (step, step + 1))
        first_action = step * self._size - begun
        count = self._size - (ended - begun)
        places = [Place(step * self._size + i, self._actions[first_action + i], True) for i in range(count)]
        if self._questions is not None:
            places += [
                Place(step * self._size + count + i, self._questions[begun + i], False)
                for i in range(ended - begun)
            ]
        return places


def part_of(places: list[Place], rank: int, world: int) -> list[Place]:
    """Return the part of a global batch for process ``rank`` of ``world``."""
    return places[rank::world]


def in_order(rows: Int, size: int) -> Iterator[Int]:
    """Yield ``rows`` in pieces of ``size``, for validation."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
