"""What an arm reaches, and a pose to begin from, measured from random joint positions of a fixed seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.kinematics.collision import SelfCollision, TableClearance
from openvla_ros.values.arrays import Float

SAMPLES, SEED = 20_000, 0
BATCH = 500
# A neutral pose is no better for more than this between links, metres, and this share of half a joint's
# range to its limits.
ENOUGH_CLEARANCE_M = 0.05
ENOUGH_ROOM = 0.5
# How much worse a pose is for each radian that its joints are from 0 on average: a base turned backwards.
TURNED = 0.2


@dataclass(frozen=True, eq=False)
class Reach:
    """What was found; poses in which links touch, or that go below the base link's plane, do not count."""

    lower: Float  # (3,) metres, of the tool point in the base frame
    upper: Float
    free: float  # share of the samples that count
    neutral: Float | None  # (J,) the pose that is best to begin from; None where no sample counts
    manipulability: float  # of ``neutral``: the smallest gain from joint speeds, unit reach, to tool speed
    clearance_m: float  # of ``neutral``: to the nearest pair of links; inf where none are compared
    inseparable: tuple[tuple[str, str], ...]  # pairs whose covers touch in every sample; not counted


def measure_reach(
    chain: KinematicChain, lower: Float, upper: Float, collision: SelfCollision, table: TableClearance
) -> Reach:
    """Return what ``chain`` reaches with joints within ``lower`` .. ``upper`` (J,).

    ``table`` is the plane through the base link. The same arguments give the same result.
    """
    q = np.random.default_rng(SEED).uniform(lower, upper, (SAMPLES, len(lower)))
    parts = [_margins(chain, q[i : i + BATCH], collision, table) for i in range(0, len(q), BATCH)]
    tool, links, above = (np.concatenate(part) for part in zip(*parts, strict=True))
    touching = links.shape[0] > 0 and (links < 0.0).all(axis=0)
    columns = np.flatnonzero(touching) if links.shape[1] else np.zeros(0, dtype=int)
    pairs = tuple(sorted({collision.pair(int(column)) for column in columns}))
    clearance = np.delete(links, columns, axis=1).min(axis=1, initial=np.inf)
    counts = (clearance >= 0.0) & (above >= 0.0) & (tool[:, 2] >= 0.0)
    if not counts.any():
        nothing = np.zeros(3)
        return Reach(nothing, nothing, 0.0, None, 0.0, 0.0, pairs)
    points = tool[counts]
    best, manipulability = _best(chain, q[counts], clearance[counts], lower, upper, points)
    return Reach(
        points.min(axis=0),
        points.max(axis=0),
        float(counts.mean()),
        q[counts][best],
        manipulability,
        float(clearance[counts][best]),
        pairs,
    )


def _margins(
    chain: KinematicChain, q: Float, collision: SelfCollision, table: TableClearance
) -> tuple[Float, Float, Float]:
    frames = chain.frames(q)
    heights = table.margins(frames).min(axis=1, initial=np.inf)
    return frames[:, -1, :3, 3], collision.margins(frames), heights


def _best(
    chain: KinematicChain, q: Float, clearance: Float, lower: Float, upper: Float, tool: Float
) -> tuple[int, float]:
    """Return the row of ``q`` that is best to begin from, and its manipulability."""
    jacobians = np.array([chain.jacobian(row) for row in q])
    jacobians[:, :3] /= max(float(np.linalg.norm(tool, axis=1).max()), 1e-9)  # metres in units of the reach
    smallest = np.linalg.svd(jacobians, compute_uv=False).min(axis=1)
    room = (np.minimum(q - lower, upper - q) / ((upper - lower) / 2)).min(axis=1)
    score = smallest * np.minimum(room, ENOUGH_ROOM) * np.minimum(clearance, ENOUGH_CLEARANCE_M)
    score /= 1.0 + TURNED * np.abs(q - np.clip(0.0, lower, upper)).mean(axis=1)
    best = int(np.argmax(score))
    return best, float(smallest[best])
