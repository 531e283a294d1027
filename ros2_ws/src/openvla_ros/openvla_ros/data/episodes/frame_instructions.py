"""Several instructions in one episode: one rule for every source.

Each frame has its own words. An episode keeps the frames of the words that most of them have; those of other
words and those without any are left out, and how many stands in the provenance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from openvla_ros.errors import InvalidValueError
from openvla_ros.values.arrays import Bool
from openvla_ros.values.episode import Episode

LEFT_OUT = "steps_of_other_instructions"


def most_frequent(texts: Sequence[str], usable: Bool | None = None) -> tuple[str, Bool]:
    """Return the words of most of the ``usable`` frames (T,), and the frames (T,) that they cover.

    Frames without words do not count; where no frame has any, the words are empty and cover all.
    """
    said = np.array([text.strip() for text in texts], dtype=object)
    counted = np.ones(len(said), bool) if usable is None else usable
    counts = {text: int((counted & (said == text)).sum()) for text in set(said) if text}
    if not counts:
        return "", np.ones(len(said), bool)
    best = max(sorted(counts), key=lambda text: counts[text])
    return best, np.asarray(said == best, bool)


def with_instructions(episode: Episode, texts: Sequence[str]) -> Episode:
    """Return the steps of ``episode`` that the words of most of its frames ``texts`` (T,) cover."""
    if len(texts) != len(episode):
        raise InvalidValueError(f"{len(texts)} instructions for {len(episode)} frames")
    words, covered = most_frequent(texts)
    left_out = len(texts) - int(covered.sum())
    if not left_out:
        return replace(episode, instruction=words)
    provenance = {**episode.provenance, LEFT_OUT: str(left_out)}
    return replace(episode.take(np.flatnonzero(covered)), instruction=words, provenance=provenance)
