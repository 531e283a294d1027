"""Guesses that cost the fast decoder a chosen number of passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

TRIES = 20  # until a guess costs the wanted number of passes


def guess_that_costs(
    passes: int, right: Sequence[int], tokens: range, cost: Callable[[list[int]], int]
) -> list[int]:
    """Return ``right`` with this many wrong tokens; each costs one pass in addition to the prompt's.

    ``right`` costs none; ``cost`` returns what a guess costs. With random weights a wrong token changes the
    tokens after it, so the wrong ones are put last. Raises ``ArithmeticError`` if no such guess is found.
    """
    for attempt in range(TRIES):
        guess = list(right)
        for place in range(len(right) - passes, len(right)):
            guess[place] = tokens[(right[place] - tokens.start + 7 * attempt + 1) % len(tokens)]
        if cost(guess) == passes:
            return guess
    raise ArithmeticError(f"no guess was found that takes {passes} passes more")
