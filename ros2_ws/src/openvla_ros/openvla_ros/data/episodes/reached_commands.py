"""How much of each commanded delta the arm actually moved, with a warning if that is little.

Some controllers, robosuite's OSC and DROID's among them, add each delta to the measured pose, not to the last
target. The arm then makes only part of it before the next one counts, and the same deltas move an arm that
adds them to its target several times too far.
"""

from __future__ import annotations

import numpy as np

from openvla_ros.values.arrays import Float
from openvla_ros.values.episode import Episode

REACHED = "commands_reached"  # provenance: the share, 0 .. 1, or "unknown"
_COMMANDED_M = 1e-3  # less than this in a whole episode shows nothing
_WHOLE = 0.9


def reached_share(actions: Float, positions: Float | None) -> float | None:
    """Return which part of its commanded translations (T, 3+), metres, the tool at ``positions`` (T, 3) made.

    The two have parallel axes. The share with the least squared error; None if nothing can be said.
    """
    if positions is None or len(positions) < 2:
        return None
    commanded = actions[:-1, :3]
    moved = np.diff(positions, axis=0)
    if np.abs(commanded).sum() < _COMMANDED_M:
        return None
    share = float((commanded * moved).sum() / (commanded**2).sum())
    return share if np.isfinite(share) and share > 0.0 else None


def reached_warning(episode: Episode) -> str | None:
    """Return what to know before learning the commanded actions of ``episode``, or None."""
    noted = episode.provenance.get(REACHED)
    if noted is None or (noted != "unknown" and float(noted) > _WHOLE):
        return None
    made = "only part" if noted == "unknown" else f"{float(noted):.0%}"
    remedy = (
        "--actions measured takes the arm's measured motion instead"
        if episode.poses is not None
        else "the file has no poses in the base frame, so measured actions cannot be taken instead"
    )
    return (
        "the recording controller adds each delta to the measured pose: the arm made "
        f"{made} of it in a step. An arm that adds deltas to its target, as here, moves farther with the "
        f"same actions; {remedy}"
    )
