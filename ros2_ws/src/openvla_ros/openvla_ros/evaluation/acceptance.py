"""How often the fast decoder's guesses would have been right on recorded actions.

Recorded actions become tokens through the codec; each is compared with the guess that the decoder
would have made for it. A guess helps up to its first wrong token. Knows nothing of models: it
measures the data, as an upper estimate for a policy that acts like it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from openvla_ros.errors import DatasetError
from openvla_ros.preprocessing.action_tokens import ActionCodec, normalise
from openvla_ros.preprocessing.dataset_statistics import FieldStatistics
from openvla_ros.values.arrays import Float

Guess = Literal["previous", "extrapolated", "frequent"]
GUESSES: tuple[Guess, ...] = get_args(Guess)


@dataclass(frozen=True, eq=False)
class GuessQuality:
    """The quality of one way of guessing. The last dimension never needs a guess: it ends the action."""

    guess: Guess
    actions: int
    right: Float  # (D - 1,) share of actions in which that dimension's token was guessed right
    prefix: Float  # (D,) share of actions with exactly 0 .. D - 1 right tokens before the first wrong one

    @property
    def mean_prefix(self) -> float:
        """Tokens that are right before the first wrong one, on average; at most D - 1."""
        return float(np.arange(len(self.prefix)) @ self.prefix)


def measure_guesses(
    episodes: Iterable[Float], statistics: FieldStatistics, codec: ActionCodec | None = None
) -> list[GuessQuality]:
    """Return how good each way of guessing is on episodes of actions (T, D).

    Raises ``DatasetError`` if there are not two actions in a row anywhere.
    """
    codec = codec or ActionCodec()
    tokens = [codec.encode(normalise(actions, statistics)) for actions in episodes]
    tokens = [rows for rows in tokens if len(rows) > 1]
    if not tokens:
        raise DatasetError("no episode has two consecutive actions, so there is nothing to guess")
    frequent = _most_frequent(np.concatenate(tokens))
    return [_quality(guess, tokens, frequent, codec) for guess in GUESSES]


def _quality(
    guess: Guess, tokens: list[NDArray[np.int64]], frequent: NDArray[np.int64], codec: ActionCodec
) -> GuessQuality:
    same = np.concatenate([(_guesses(guess, rows, frequent, codec) == rows[1:])[:, :-1] for rows in tokens])
    length = np.cumprod(same, axis=1).sum(axis=1)
    prefix = np.bincount(length, minlength=same.shape[1] + 1) / len(same)
    return GuessQuality(guess, len(same), same.mean(axis=0), prefix)


def _guesses(
    guess: Guess, rows: NDArray[np.int64], frequent: NDArray[np.int64], codec: ActionCodec
) -> NDArray[np.int64]:
    """Return the guess (T - 1, D) for each action of an episode but the first."""
    match guess:
        case "previous":
            return rows[:-1]
        case "extrapolated":
            before = np.concatenate([rows[:1], rows[:-2]])
            further: NDArray[np.int64] = np.clip(2 * rows[:-1] - before, codec.first_id, codec.last_id)
            return further
        case "frequent":
            return np.broadcast_to(frequent, rows[1:].shape)


def _most_frequent(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    values = [np.unique(column, return_counts=True) for column in rows.T]
    return np.array([ids[counts.argmax()] for ids, counts in values])
