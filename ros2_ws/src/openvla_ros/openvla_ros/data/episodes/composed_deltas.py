"""Fewer, larger steps: consecutive actions composed into one, exactly, for a robot that acts at a lower rate.

Done only where it was asked for, and only by a whole number: 30 Hz becomes 5 Hz by composing six deltas into
one. Of actions that state targets the last one counts. Gaps are never composed over; steps left over at a
gap or at the end are left out and counted.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np

from openvla_ros.data.episodes.episode_source import EpisodeSource, WrappedSource
from openvla_ros.errors import DatasetError
from openvla_ros.robot.kinematics.delta_actions import compose, delta_between
from openvla_ros.values.action import ActionSpace
from openvla_ros.values.arrays import Float, Int
from openvla_ros.values.episode import Episode
from openvla_ros.values.geometry import Pose

_GAP = 1.5  # steps: what is further apart is not consecutive
INCOMPLETE = "steps_not_composed"


class ComposedSource(WrappedSource):
    """Another source's episodes at a lower rate."""

    def __init__(self, source: EpisodeSource, rate_hz: float) -> None:
        super().__init__(source)
        if not (math.isfinite(rate_hz) and rate_hz > 0.0):
            raise DatasetError(
                f"--rate is {rate_hz:g}; it must be a rate above 0 Hz that the recorded rate is a multiple of"
            )
        self._rate_hz = rate_hz

    def __getitem__(self, index: int) -> Episode:
        """Return episode ``index`` at the lower rate; raises ``DatasetError`` if that is not possible."""
        return at_rate(self.source[index], self._rate_hz)


def at_rate(episode: Episode, rate_hz: float) -> Episode:
    """Return ``episode`` with actions for ``rate_hz``, each composed of consecutive ones.

    Images and states are those at the start of each step, the gripper's command the last one, and a step
    counts as a person's if any of its parts was. Raises ``DatasetError`` unless the episode's rate is a whole
    multiple, and ``InvalidValueError`` if the unit of its actions is not known.
    """
    factor = round(episode.rate_hz / rate_hz)
    if factor < 1 or abs(factor * rate_hz - episode.rate_hz) > 1e-6 * episode.rate_hz:
        raise DatasetError(
            f"episode {episode.id!r}: recorded at {episode.rate_hz:g} Hz; {rate_hz:g} Hz cannot be "
            "composed from that: the recorded rate must be a multiple of it"
        )
    if factor == 1:
        return episode
    firsts = _group_starts(episode, factor)
    if not len(firsts):
        raise DatasetError(
            f"episode {episode.id!r}: no {factor} consecutive steps at {episode.rate_hz:g} Hz make one at "
            f"{rate_hz:g} Hz"
        )
    groups = firsts[:, None] + np.arange(factor)
    space = replace(episode.space, rate_hz=rate_hz)
    left_out = len(episode) - groups.size
    provenance = {**episode.provenance, "composed_from_hz": f"{episode.rate_hz:g}"}
    if left_out:
        provenance[INCOMPLETE] = str(left_out)
    return replace(
        episode.take(firsts),
        space=space,
        rate_hz=rate_hz,
        actions=np.array([composed(episode.actions[group], space) for group in groups]),
        intervention=episode.intervention[groups].any(axis=1),
        provenance=provenance,
    )


def composed(actions: Float, space: ActionSpace) -> Float:
    """Return the one action (D,) that does what ``actions`` (N, D) do one after the other."""
    if space.is_absolute:
        return np.array(actions[-1])
    if space.kind == "joint_delta":
        return np.append(actions[:, :-1].sum(axis=0), actions[-1, -1])
    factors = space.si_factors
    start = Pose(np.zeros(3), np.eye(3))
    end = start
    for motion in actions[:, :6] * factors:
        end = compose(end, motion, space)
    return np.concatenate([delta_between(start, end, space) / factors, actions[-1, 6:]])


def _group_starts(episode: Episode, factor: int) -> Int:
    """Return where groups of ``factor`` consecutive steps start."""
    apart = np.diff(episode.stamps_ns) > _GAP * 1e9 / episode.rate_hz
    edges = [0, *(np.flatnonzero(apart) + 1), len(episode)]
    starts = [np.arange(first, last - factor + 1, factor) for first, last in pairwise(edges)]
    return np.concatenate(starts).astype(np.int64)
