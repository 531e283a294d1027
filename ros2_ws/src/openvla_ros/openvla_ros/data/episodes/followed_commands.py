"""How the arm followed the recorded actions of an episode, in every format, and the warning where it did not.

The commanded motion of each step is compared with the motion between the measured poses. They disagree where
a unit, an axis, a frame or a sign is not what the dataset says, where observations and actions are paired
wrongly, and with controllers that add each delta to the measured pose instead of to the last target
(robosuite's OSC, DROID, FMB): the arm then makes only part of a delta before the next one counts, and the
same deltas move an arm that adds them to its target several times too far.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np

from openvla_ros.data.episodes.episode_source import EpisodeSource, WrappedSource
from openvla_ros.errors import InvalidValueError
from openvla_ros.values.arrays import Float
from openvla_ros.values.episode import Episode, pose_deltas

_LOG = logging.getLogger(__name__)

REACHED = "commands_reached"  # provenance: the share, 0 .. 1, or "unknown", where the controller is known
_WHOLE = 0.9  # of a controller known to add deltas to the measured pose
_LITTLE, _FAR = 0.5, 1.5  # of any other: an arm that follows its target makes 0.6 .. 1.1 of a motion
_GAP = 1.5  # steps: what is further apart is not consecutive
_FEWEST = 6  # steps that show something
_MOVED = {"position": 0.01, "rotation": 0.1}  # m, rad: less in a whole episode shows nothing
_WINDOW_S = 1.0  # over which motions are summed, so that a delayed one counts
_UNRELATED, _RELATED, _OPPOSITE = 0.2, 0.7, -0.6  # cosines between commanded and measured motions
_AXIS = 0.3  # share of the whole motion that an axis needs to be judged alone
_LATE_S = 0.5  # longer than an arm takes to follow
_BETTER = 0.1  # by how much the cosine must be larger at another delay
_EARLIEST, _LATEST = -3, 10  # steps of delay that are tried
_AXES = {"position": ("x", "y", "z"), "rotation": ("roll", "pitch", "yaw")}


class FollowedSource(WrappedSource):
    """Another source's episodes; what to know of their commanded actions is logged once for the dataset."""

    def __init__(self, source: EpisodeSource) -> None:
        super().__init__(source)
        self._said: set[str] = set()

    def __getitem__(self, index: int) -> Episode:
        """Return episode ``index`` as it is."""
        episode = self.source[index]
        for about, warning in _warnings(episode):
            if about not in self._said:
                self._said.add(about)
                _LOG.warning("%s: episode %s: %s", self.path, episode.id, warning)
        return episode


def followed_warnings(episode: Episode) -> list[str]:
    """Return what to know before learning the actions of ``episode``: scale, axes, sign or delay disagree."""
    return [warning for _, warning in _warnings(episode)]


def reached_share(commanded: Float, moved: Float, window: int = 1) -> float | None:
    """Return which part of the ``commanded`` motions (T, 3) was ``moved`` (T, 3) within ``window`` steps.

    The two have parallel axes. The share with the least squared error; None if nothing can be said.
    """
    if len(commanded) < 1 or np.abs(commanded).sum() < 1e-3:
        return None
    asked, made = _summed(commanded, window), _summed(moved, window)
    share = float((asked * made).sum() / (asked**2).sum())
    return share if np.isfinite(share) and share > 0.0 else None


def noted_share(actions: Float, positions: Float | None) -> str:
    """Return the note ``REACHED`` for ``actions`` (T, 3+), metres, and the tool's ``positions`` (T, 3)."""
    share = None if positions is None else reached_share(actions[:-1, :3], np.diff(positions, axis=0))
    return "unknown" if share is None else f"{share:.2f}"


def _warnings(episode: Episode) -> Iterator[tuple[str, str]]:
    """Yield (what it is about, the warning)."""
    if episode.provenance.get("actions") == "measured" or episode.space.kind != "tool_delta":
        return
    noted = episode.provenance.get(REACHED)
    if noted is not None and (noted == "unknown" or float(noted) <= _WHOLE):
        made = "only part" if noted == "unknown" else f"{float(noted):.0%}"
        known = "the recording controller adds each delta to the measured pose: the arm made"
        yield "scale", f"{known} {made} of it in a step. {_farther(episode)}"
    if episode.poses is None:
        return
    near = np.diff(episode.stamps_ns) <= _GAP * 1e9 / episode.rate_hz
    if not near.all() or len(near) < _FEWEST:
        return
    measured = pose_deltas(episode.poses, episode.space)
    try:
        factors, in_si = episode.space.si_factors, True
    except InvalidValueError:  # the dataset does not say what 1 stands for
        factors, in_si = np.ones(6), False
    commanded = episode.actions[:-1, :6] * factors
    for part, columns in (("position", slice(0, 3)), ("rotation", slice(3, 6))):
        asked, moved = commanded[:, columns], measured[:, columns]
        least = _MOVED[part] if in_si else 0.0
        if np.abs(moved).sum() >= _MOVED[part] and np.abs(asked).sum() > least:
            yield from _directions(episode, part, asked, moved)
            if in_si and noted is None:
                yield from _scale(episode, part, asked, moved)


def _directions(episode: Episode, part: str, asked: Float, moved: Float) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with signs, axes and the order in time of motions (T, 3)."""
    delay = _delay(asked, moved)
    pairs = _delayed(asked, moved, delay)
    cosine = _cosine(*pairs)
    axes = {
        name: _cosine(pairs[0][:, index], pairs[1][:, index])
        for index, name in enumerate(_AXES[part])
        if all(np.linalg.norm(motion[:, index]) > _AXIS * np.linalg.norm(motion) for motion in pairs)
    }
    turned = [name for name, value in axes.items() if value < _OPPOSITE]
    if cosine < _OPPOSITE:
        yield (
            f"{part} sign",
            f"the arm's {part} changed opposite to the actions: is their sign right?",
        )
    elif turned and max(axes.values()) > -_OPPOSITE:
        for name in turned:
            yield f"{part} {name}", f"{name} changed opposite to the actions: is its sign right?"
    elif cosine < _UNRELATED:
        text = (
            f"the arm's {part} did not change as the recorded actions say (cosine {cosine:.2f}): are their "
            f"columns, axes ({episode.space.frame} frame) and order in time right?"
        )
        yield f"{part} axes", text
    elif delay < 0:
        text = (
            f"the arm's {part} changed {-delay} steps before the recorded action: observations were stored "
            "after the action that caused them"
        )
        yield f"{part} delay", text
    elif delay / episode.rate_hz >= _LATE_S:
        text = (
            f"the arm's {part} changed {delay} steps ({delay / episode.rate_hz:.2g} s) after the recorded "
            "action: are images and actions from one clock?"
        )
        yield f"{part} delay", text


def _scale(episode: Episode, part: str, asked: Float, moved: Float) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the size of motions (T, 3) that have the commanded direction."""
    pairs = _delayed(asked, moved, _delay(asked, moved))
    share = reached_share(*pairs, max(1, round(_WINDOW_S * episode.rate_hz)))
    if _cosine(*pairs) < _RELATED or share is None:
        return
    if share < _LITTLE:
        text = (
            f"the arm made {share:.0%} of the commanded change of {part}: a wrong unit, or a controller that "
            f"adds each delta to the measured pose. {_farther(episode)}"
        )
        yield f"{part} scale", text
    elif share > _FAR:
        text = f"the arm's {part} changed {share:.1f} times as far as commanded: is the actions' unit right?"
        yield f"{part} scale", text


def _delay(asked: Float, moved: Float) -> int:
    """Return by how many steps motions come after their commands, whatever the sign of each axis.

    0 or 1, as with any arm, unless another delay fits clearly better.
    """
    most = len(asked) // 4  # what few steps show of a long delay is chance
    scores = {
        delay: _likeness(*_delayed(asked, moved, delay))
        for delay in range(max(_EARLIEST, -most), min(_LATEST, most) + 1)
    }
    usual = max((0, 1), key=lambda delay: scores[delay])
    best = max(scores, key=lambda delay: scores[delay])
    return best if scores[best] - scores[usual] > _BETTER else usual


def _likeness(first: Float, second: Float) -> float:
    norm = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(np.abs((first * second).sum(axis=0)).sum()) / norm if norm > 0.0 else 0.0


def _farther(episode: Episode) -> str:
    remedy = (
        "--actions measured takes the arm's measured motion instead"
        if episode.poses is not None
        else "the file has no poses in the base frame, so measured actions cannot be taken instead"
    )
    return f"An arm that adds deltas to its target, as here, moves farther with the same actions; {remedy}"


def _delayed(asked: Float, made: Float, delay: int) -> tuple[Float, Float]:
    """Return the pairs in which the motion comes ``delay`` steps after the command."""
    if delay >= 0:
        return asked[: len(asked) - delay], made[delay:]
    return asked[-delay:], made[:delay]


def _summed(motion: Float, window: int) -> Float:
    """Return the motions (N, 3) over ``window`` consecutive steps, or over all where there are fewer."""
    total = np.concatenate([np.zeros((1, motion.shape[1])), np.cumsum(motion, axis=0)])
    width = min(window, len(motion))
    summed: Float = total[width:] - total[:-width]
    return summed


def _cosine(first: Float, second: Float) -> float:
    norm = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float((first * second).sum()) / norm if norm > 0.0 else 0.0
