"""Distances between the arm's links, and from them to the table, from the shapes of ``link_covers``.

Moving links are approximated by capsules (a box by one around its longest axis, so it is never too small);
boxes of the base and of the first link, which the others fold onto, stay boxes. Links at most two joints
apart are not compared: on both arms their joint limits keep them apart. The capsules are wider than the
arm: if two of them overlap in one of the profile's named poses, which the arm is known to reach, that
much overlap of that pair is allowed everywhere.

Distances are computed for many configurations at once; negative means too close.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.kinematics.link_covers import LinkCovers, cover_links
from openvla_ros.robot.kinematics.urdf import Shape
from openvla_ros.values.arrays import Float, Int

# Only links with at least this many moving joints between them are compared.
JOINTS_APART = 3
# Points along a capsule's axis that are measured against boxes.
AXIS_POINTS = 5
_SHARES = np.linspace(0.0, 1.0, AXIS_POINTS)[:, None, None, None]
# Axes whose angle has a squared sine below this are measured as parallel ones.
NEARLY_PARALLEL = 1e-9
# Additional margin for overlaps in named poses, metres.
ALLOWANCE = 0.002
# A larger overlap that a named pose allows is worth saying, metres.
WIDE_M = 0.02
# Points around the rim of a cylinder's end, for the table.
RIM_POINTS = 12


@dataclass(frozen=True, eq=False)
class Capsule:
    """A segment with a radius, fixed to one moving frame of the chain."""

    link: str
    frame: int
    start: Float  # (3,) in the frame
    end: Float
    radius: float

    def covers(self, other: Capsule) -> bool:
        """Whether ``other`` lies wholly inside this capsule."""
        if self.frame != other.frame:
            return False
        axis = self.end - self.start
        length = float(axis @ axis)
        for point in (other.start, other.end):
            along = 0.0 if length == 0.0 else float(np.clip((point - self.start) @ axis / length, 0.0, 1.0))
            if np.linalg.norm(point - self.start - along * axis) + other.radius > self.radius + 1e-9:
                return False
        return True


def capsule_around(shape: Shape, link: str, frame: int, offset: Float) -> Capsule:
    """Return a capsule that contains ``shape``, whose link is at ``offset`` (4, 4) in the frame."""
    pose = offset @ shape.origin
    match shape.kind:
        case "sphere":
            half, radius = np.zeros(3), shape.size[0]
        case "cylinder" | "capsule":
            half, radius = np.array([0.0, 0.0, shape.size[1] / 2]), shape.size[0]
        case "box":
            sides = np.array(shape.size) / 2
            longest = int(np.argmax(sides))
            half = np.where(np.arange(3) == longest, sides, 0.0)
            radius = float(np.hypot(*np.delete(sides, longest)))
    reach = pose[:3, :3] @ half
    return Capsule(link, frame, pose[:3, 3] - reach, pose[:3, 3] + reach, radius)


def lowest_points(shape: Shape, offset: Float) -> tuple[Float, float]:
    """Return points (N, 3) in the moving frame and a radius: the lowest point minus it bounds ``shape``."""
    pose = offset @ shape.origin
    match shape.kind:
        case "sphere":
            local, radius = np.zeros((1, 3)), shape.size[0]
        case "cylinder":
            angles = np.arange(RIM_POINTS) * 2 * np.pi / RIM_POINTS
            rim = shape.size[0] / np.cos(np.pi / RIM_POINTS)  # circumscribed
            circle = np.stack([rim * np.cos(angles), rim * np.sin(angles)], axis=1)
            ends = [np.insert(circle, 2, z, axis=1) for z in (-shape.size[1] / 2, shape.size[1] / 2)]
            local, radius = np.concatenate(ends), 0.0
        case "capsule":
            local, radius = (
                np.array([[0.0, 0.0, z] for z in (-shape.size[1] / 2, shape.size[1] / 2)]),
                shape.size[0],
            )
        case "box":
            corners = np.array(np.meshgrid([-0.5, 0.5], [-0.5, 0.5], [-0.5, 0.5])).reshape(3, -1).T
            local, radius = corners * np.array(shape.size), 0.0
    return local @ pose[:3, :3].T + pose[:3, 3], radius


def distance_to_box(points: Float, half: Float) -> Float:
    """Return the signed distances (...,) of points (..., 3) in a box's frame; ``half`` are half its sides."""
    beyond = np.abs(points) - half
    outside = np.sqrt(np.einsum("...i,...i", *(np.maximum(beyond, 0.0),) * 2))
    distance: Float = outside + np.minimum(beyond.max(axis=-1), 0.0)
    return distance


def segment_distance(p1: Float, q1: Float, p2: Float, q2: Float) -> Float:
    """Return the distances (...,) between segments p1-q1 and p2-q2, (..., 3) each.

    The closest points of two lines, clamped to the segments in turn (Ericson, Real-Time Collision
    Detection, 5.1.9).
    """
    d1, d2, r = q1 - p1, q2 - p2, p1 - p2
    a, e, b = (np.einsum("...i,...i", x, y) for x, y in ((d1, d1), (d2, d2), (d1, d2)))
    c, f = np.einsum("...i,...i", d1, r), np.einsum("...i,...i", d2, r)
    a, e = np.maximum(a, 1e-12), np.maximum(e, 1e-12)
    determinant = a * e - b * b
    parallel = determinant < NEARLY_PARALLEL * a * e
    s = np.where(parallel, 0.0, _share((b * f - c * e) / np.where(parallel, 1.0, determinant)))
    t = _share((b * s + f) / e)
    s = _share((b * t - c) / a)
    gap = r + s[..., None] * d1 - t[..., None] * d2
    distance: Float = np.sqrt(np.einsum("...i,...i", gap, gap))
    return distance


def _share(values: Float) -> Float:
    """Return the values within 0 and 1, as np.clip does more slowly."""
    return np.minimum(np.maximum(values, 0.0), 1.0)


class SelfCollision:
    """Distances between the links of one arm that are not neighbours.

    Args:
        chain: The arm.
        others: Where joints outside the chain stand, as in ``KinematicChain.link_offsets``.
        known_poses: Joint positions (K, J) that the arm is known to reach; none: no overlap is allowed.
        covers: What the links occupy, where it is known already; otherwise the meshes are read for it.
    """

    def __init__(
        self,
        chain: KinematicChain,
        others: Mapping[str, float],
        known_poses: Sequence[Sequence[float]],
        covers: LinkCovers | None = None,
    ) -> None:
        shapes, links = (covers or cover_links(chain, others)).shapes, chain.link_offsets(others)
        placed = [
            (link, frame, offset, shape) for link, (frame, offset) in links.items() for shape in shapes[link]
        ]
        boxes = [part for part in placed if part[1] <= 0 and part[3].kind == "box"]
        self.capsules = _without_covered(
            [
                capsule_around(shape, link, frame, offset)
                for link, frame, offset, shape in placed
                if frame > 0 or shape.kind != "box"
            ]
        )
        self._start = np.array([capsule.start for capsule in self.capsules]).reshape(-1, 3)
        self._end = np.array([capsule.end for capsule in self.capsules]).reshape(-1, 3)
        self._radius = np.array([capsule.radius for capsule in self.capsules])
        frame = np.array([capsule.frame for capsule in self.capsules], dtype=np.int64)
        # In ``margins`` the base's frame comes first, so that frame -1 is row 0.
        self._row: Int = frame + 1
        first, second = np.triu_indices(len(self.capsules), k=1)
        apart = np.abs(frame[first] - frame[second]) >= JOINTS_APART
        self._first: Int = first[apart]
        self._second: Int = second[apart]

        self._box_row: Int = np.array([box[1] + 1 for box in boxes], dtype=np.int64)
        self._box_pose = np.array([offset @ shape.origin for _, _, offset, shape in boxes]).reshape(-1, 4, 4)
        self._box_half = np.array([shape.size for *_, shape in boxes]).reshape(-1, 3) / 2
        above = frame[None, :] - (self._box_row[:, None] - 1) >= JOINTS_APART
        self._box, self._onto = np.nonzero(above)

        names = [capsule.link for capsule in self.capsules]
        self._pairs = [
            *((names[i], names[j]) for i, j in zip(self._first, self._second, strict=True)),
            *((boxes[b][0], names[i]) for b, i in zip(self._box, self._onto, strict=True)),
        ]
        self._allowed: Float = np.zeros(len(self._pairs))
        if len(known_poses):
            known = self.margins(chain.frames(np.array(known_poses, dtype=np.float64))).min(axis=0)
            self._allowed = np.minimum(0.0, known - ALLOWANCE)

    def margins(self, frames: Float) -> Float:
        """Return the distances (B, M), metres, minus the allowance, for chain frames (B, J + 1, 4, 4)."""
        rows = np.empty((len(frames), frames.shape[1] + 1, 4, 4))
        rows[:, 0], rows[:, 1:] = np.eye(4), frames
        held = rows[:, self._row]
        start, end = _moved(held, self._start), _moved(held, self._end)
        i, j = self._first, self._second
        between = segment_distance(start[:, i], end[:, i], start[:, j], end[:, j])
        between -= self._radius[i] + self._radius[j]
        onto = self._onto
        points = start[:, onto] + _SHARES * (end - start)[:, onto]
        boxes = (rows[:, self._box_row] @ self._box_pose)[:, self._box]
        local = ((points - boxes[..., :3, 3])[..., None, :] @ boxes[..., :3, :3])[..., 0, :]
        surface = distance_to_box(local, self._box_half[self._box]).min(axis=0) - self._radius[onto]
        margins: Float = np.concatenate([between, surface], axis=1) - self._allowed
        return margins

    def lever_arms(self, chain: KinematicChain) -> Float:
        """Return how far each joint of ``chain`` can change each margin (M, J), metres per radian.

        A distance changes by no more than the farthest moved of its points, as one link sees the other. The
        points of a capsule's axis lie between its ends, so none of them moves farther than both ends.
        """
        moved = np.concatenate([self._second, self._onto])  # the capsule that the joints between move
        seen_from = np.concatenate([self._row[self._first], self._box_row[self._box]]) - 1
        frame = self._row[moved] - 1
        levers = np.zeros((len(moved), len(chain.joints)))
        for anchor, at in set(zip(seen_from.tolist(), frame.tolist(), strict=True)):
            here = (seen_from == anchor) & (frame == at)
            ends = (self._start[moved[here]], self._end[moved[here]])
            levers[here] = np.maximum(*(chain.lever_arms(anchor, at, points) for points in ends))
        return levers

    @property
    def rounding_m(self) -> float:
        """How much a margin can differ from the true distance: nearly parallel axes count as parallel.

        Turned to be parallel, one of them moves by its length times the angle: so does the distance, the two
        points between which it is measured, and what they are measured to.
        """
        lengths = np.linalg.norm(self._end - self._start, axis=1)
        return 4.0 * math.sqrt(NEARLY_PARALLEL) * float(lengths.max(initial=0.0)) + 1e-6

    def pair(self, index: int) -> tuple[str, str]:
        """Return the names of the two links of column ``index`` of ``margins``."""
        return self._pairs[index]

    def summary(self, bare: Sequence[str] = ()) -> str:
        """Return in one line what is compared, and what is not; ``bare`` are links without a <collision>."""
        pairs = {tuple(sorted(pair)) for pair in self._pairs}
        text = f"{len(pairs)} pairs of links are checked; links less than {JOINTS_APART} joints apart are not"
        wide = [f"{' and '.join(pair)} by {m:.3f} m" for pair, m in self.allowances.items() if m > WIDE_M]
        if wide:
            text += f"; allowed to overlap as in a named pose: {', '.join(wide)}"
        if bare:
            text += f"; without a <collision>: {', '.join(bare)}"
        return text

    @property
    def allowances(self) -> dict[tuple[str, str], float]:
        """The overlaps in metres that named poses allow, largest for each pair of links."""
        found: dict[tuple[str, str], float] = {}
        for pair, allowed in zip(self._pairs, self._allowed, strict=True):
            if allowed < 0.0:
                found[pair] = max(found.get(pair, 0.0), -float(allowed))
        return found


class TableClearance:
    """Heights of the moving links' lowest points above the table, which is ``height_m`` above the base.

    The other arguments are those of ``SelfCollision``.
    """

    def __init__(
        self,
        chain: KinematicChain,
        others: Mapping[str, float],
        height_m: float,
        covers: LinkCovers | None = None,
    ) -> None:
        points, radii, frames, names = [np.zeros((0, 3))], [], [], []
        shapes = (covers or cover_links(chain, others)).table
        for link, (frame, offset) in chain.link_offsets(others).items():
            for shape in shapes[link] if frame > 0 else ():
                corners, radius = lowest_points(shape, offset)
                points.append(corners)
                radii += [radius] * len(corners)
                frames += [frame] * len(corners)
                names += [link] * len(corners)
        self._points = np.concatenate(points)
        self._below = np.array(radii) + height_m
        self._frame = np.array(frames, dtype=np.int64)
        self._links = names

    def margins(self, frames: Float) -> Float:
        """Return the heights (B, N) in metres above the table for chain frames (B, J + 1, 4, 4)."""
        rows = frames[:, self._frame, 2]
        heights: Float = np.einsum("bni,ni->bn", rows[..., :3], self._points) + rows[..., 3] - self._below
        return heights

    def lever_arms(self, chain: KinematicChain) -> Float:
        """Return how far each joint of ``chain`` can change each margin (N, J), metres per radian."""
        levers = np.zeros((len(self._points), len(chain.joints)))
        for frame in np.unique(self._frame):
            here = self._frame == frame
            levers[here] = chain.lever_arms(-1, frame, self._points[here])
        return levers

    def link(self, index: int) -> str:
        """Return the name of the link of column ``index`` of ``margins``."""
        return self._links[index]


def _moved(frames: Float, points: Float) -> Float:
    moved: Float = np.einsum("bcij,cj->bci", frames[..., :3, :3], points) + frames[..., :3, 3]
    return moved


def _without_covered(capsules: list[Capsule]) -> list[Capsule]:
    kept: list[Capsule] = []
    for capsule in sorted(capsules, key=lambda c: -(c.radius + float(np.linalg.norm(c.end - c.start)))):
        if not any(other.covers(capsule) for other in kept):
            kept.append(capsule)
    return sorted(kept, key=lambda c: c.frame)
