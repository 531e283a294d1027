"""Guesses that cost the drafting decoder as many passes as a benchmark wants."""

from __future__ import annotations

from collections.abc import Callable, Sequence

TRIES = 20  # until a guess costs as many passes as it should


def guess_that_costs(
    passes: int, right: Sequence[int], tokens: range, cost: Callable[[list[int]], int]
) -> list[int]:
    """Return ``right`` with that many wrong tokens, each of which costs one pass more than the prompt's.

    ``right`` costs none; ``cost`` tells what a guess costs. Random weights answer a wrong token with
    other ones behind it, so the wrong ones stand last. Raises ``ArithmeticError`` if none is found.
    """
    for attempt in range(TRIES):
        guess = list(right)
        for place in range(len(right) - passes, len(right)):
            guess[place] = tokens[(right[place] - tokens.start + 7 * attempt + 1) % len(tokens)]
        if cost(guess) == passes:
            return guess
    raise ArithmeticError(f"no guess was found that takes {passes} passes more")
