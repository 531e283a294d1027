"""A mesh as simple shapes that contain it: one to three capsules, and a box.

A capsule covers everything between the points that it contains, so that a capsule around a slice of a
closed mesh contains the slice's inside too. The slices lie along the capsule that would hold the whole
mesh; more of them are made where that makes the cover clearly smaller.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openvla_ros.robot.kinematics.urdf import Shape
from openvla_ros.values.arrays import Float

MOST_SLICES = 3
# One slice more must make the cover smaller than this share of what it was.
WORTH = 0.8
# The capsule's axis is sought among the points farthest out in so many directions, its middle in so many
# steps (Bădoiu and Clarkson's rule); its radius and ends are then exact for all points.
DIRECTIONS, STEPS = 200, 48
# Added to every radius, metres: what rounding may lose.
ROUNDING_M = 1e-9


@dataclass(frozen=True, eq=False)
class MeshCover:
    """Shapes in the mesh's own frame; the capsules together contain it, and so does the box."""

    capsules: tuple[Shape, ...]
    box: Shape


@dataclass(frozen=True, eq=False)
class _Capsule:
    start: Float  # (3,)
    end: Float
    radius: float

    @property
    def volume(self) -> float:
        return float(np.pi * self.radius**2 * (np.linalg.norm(self.end - self.start) + self.radius * 4 / 3))

    @property
    def shape(self) -> Shape:
        axis = self.end - self.start
        pose = np.eye(4)
        pose[:3, :3] = _turned_to(axis)
        pose[:3, 3] = (self.start + self.end) / 2
        return Shape("capsule", pose, (self.radius, float(np.linalg.norm(axis))))


def cover_mesh(triangles: Float) -> MeshCover:
    """Return shapes that contain the mesh of ``triangles`` (T, 3, 3), metres."""
    lower, upper = triangles.min(axis=(0, 1)), triangles.max(axis=(0, 1))
    pose = np.eye(4)
    pose[:3, 3] = (lower + upper) / 2
    box = Shape("box", pose, tuple((upper - lower).tolist()))
    best = [_around(triangles.reshape(-1, 3))]
    whole = best[0].end - best[0].start
    length = float(np.linalg.norm(whole))
    if length > 0.0:
        for count in range(2, MOST_SLICES + 1):
            parts = [_around(points) for points in _slices(triangles, whole / length, count)]
            if sum(part.volume for part in parts) < WORTH * sum(part.volume for part in best):
                best = parts
    return MeshCover(tuple(capsule.shape for capsule in best), box)


def _slices(triangles: Float, axis: Float, count: int) -> list[Float]:
    """Return the corners of each slice (N, 3): the mesh's own, and where a cut passes through its edges."""
    along = triangles @ axis
    cuts = np.linspace(along.min(), along.max(), count + 1)[1:-1]
    edges = np.stack([triangles, np.roll(triangles, -1, axis=1)], axis=2).reshape(-1, 2, 3)
    at = edges @ axis
    crossings = []
    for cut in cuts:
        crossed = (at[:, 0] - cut) * (at[:, 1] - cut) < 0.0
        start, end = edges[crossed, 0], edges[crossed, 1]
        share = (cut - at[crossed, 0]) / (at[crossed, 1] - at[crossed, 0])
        crossings.append(start + share[:, None] * (end - start))
    corners, place = triangles.reshape(-1, 3), along.ravel()
    bounds = np.concatenate([[-np.inf], cuts, [np.inf]])
    found = []
    for i in range(count):
        inside = corners[(place >= bounds[i]) & (place <= bounds[i + 1])]
        points = np.concatenate([inside, *crossings[max(0, i - 1) : i + 1]])
        if len(points):
            found.append(points)
    return found


def _around(points: Float) -> _Capsule:
    """Return about the smallest capsule around ``points`` (N, 3)."""
    outer = points[np.unique(np.argmax(points @ _DIRECTIONS, axis=0))]
    centred = outer - outer.mean(axis=0)
    _, own = np.linalg.eigh(centred.T @ centred)
    best = min(
        (_Line.through(outer, axis) for axis in (*np.eye(3), *own.T)),
        key=lambda line: line.around(outer).volume,
    )
    return best.around(points)


@dataclass(frozen=True, eq=False)
class _Line:
    """A line in space: its direction, two more across it, and where it passes between those."""

    frame: Float  # (3, 3) columns: the two across, then the direction
    middle: Float  # (2,)

    @classmethod
    def through(cls, points: Float, axis: Float) -> _Line:
        """Return the line along ``axis`` that is about the nearest to the farthest of ``points`` (N, 3)."""
        frame = _turned_to(axis)
        flat = points @ frame[:, :2]
        middle: Float = (flat.min(axis=0) + flat.max(axis=0)) / 2
        for step in range(1, STEPS + 1):
            far = flat[np.argmax(((flat - middle) ** 2).sum(axis=1))]
            middle = middle + (far - middle) / (step + 1)
        return cls(frame, middle)

    def around(self, points: Float) -> _Capsule:
        """Return the smallest capsule on this line that contains ``points`` (N, 3)."""
        across, axis = self.frame[:, :2], self.frame[:, 2]
        along, off = points @ axis, np.linalg.norm(points @ across - self.middle, axis=1)
        radius = float(off.max()) + ROUNDING_M
        # A point lies in the capsule where the segment passes within ``reach`` of it along the axis.
        reach = np.sqrt(np.maximum(radius**2 - off**2, 0.0))
        start, end = float((along + reach).min()), float((along - reach).max())
        if start > end:
            start = end = (start + end) / 2
        foot = across @ self.middle
        return _Capsule(foot + start * axis, foot + end * axis, radius)


def _turned_to(axis: Float) -> Float:
    """Return a rotation (3, 3) whose third column is ``axis``'s direction; the identity for none."""
    length = float(np.linalg.norm(axis))
    if length == 0.0:
        return np.eye(3)
    third = axis / length
    other = np.eye(3)[int(np.argmin(np.abs(third)))]
    first = np.cross(other, third)
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(third, first), third], axis=1)


def _over_the_sphere(count: int) -> Float:
    """Return directions (3, count) spread evenly over the sphere, on a spiral of the golden angle."""
    height = 1.0 - (2.0 * np.arange(count) + 1.0) / count
    angle = np.arange(count) * np.pi * (3.0 - np.sqrt(5.0))
    flat = np.sqrt(1.0 - height**2)
    return np.stack([flat * np.cos(angle), flat * np.sin(angle), height])


_DIRECTIONS = _over_the_sphere(DIRECTIONS)
