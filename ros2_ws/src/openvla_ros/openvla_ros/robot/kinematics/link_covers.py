"""What each link of an arm is taken to occupy, and the links of which nobody can say.

A link's primitives count as they are. A mesh counts as the shapes of ``mesh_cover``: capsules where
links are held against each other, its box against the table. Where a mesh cannot be read, the link is
checked by what else it has, and named: a person must know where nothing is watched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openvla_ros.errors import KinematicsError, MissingDependencyError
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.kinematics.mesh_cover import MeshCover, cover_mesh
from openvla_ros.robot.kinematics.mesh_files import find_mesh, read_mesh
from openvla_ros.robot.kinematics.urdf import MeshShape, Shape
from openvla_ros.values.arrays import Float


@dataclass(frozen=True, eq=False)
class LinkCovers:
    """Shapes by link name, for every link that has a place; an empty tuple for one without any."""

    shapes: dict[str, tuple[Shape, ...]]  # against other links
    table: dict[str, tuple[Shape, ...]]  # against the table
    unseen: dict[str, str]  # link → why it is not checked, or not fully
    bare: tuple[str, ...]  # links with a <visual> whose file gives them no <collision>

    def blind_spots(self) -> dict[str, str]:
        """Return whose collisions nobody checks, and why, in words."""
        if any(self.shapes.values()) or self.unseen:
            return self.unseen
        return {"every link": "the URDF gives none of them a <collision>"}


def cover_links(chain: KinematicChain, others: Mapping[str, float] | None = None) -> LinkCovers:
    """Return what the links below the chain's base link occupy; reads the meshes' files.

    ``others`` says where joints outside the chain stand, as in ``KinematicChain.link_offsets``. A mesh
    that cannot be read raises nothing: its link is in ``unseen``.
    A link of the base (frame -1) or of the first moving frame, onto which the others fold, is taken as
    its mesh's box where that is smaller than the capsules.
    """
    description, placed = chain.description, chain.link_offsets(others)
    source = Path(description.source)
    shapes: dict[str, tuple[Shape, ...]] = {}
    table: dict[str, tuple[Shape, ...]] = {}
    unseen = _without_place(chain, set(placed))
    for link, (frame, _) in placed.items():
        own = description.links[link]
        unread = description.unread.get(link)
        shapes[link] = table[link] = own
        if unread is None:
            continue
        problems = list(unread.problems)
        for mesh in unread.meshes:
            try:
                cover = _cover(mesh, source)
            except (KinematicsError, MissingDependencyError) as error:
                problems.append(str(error))
                continue
            shapes[link] += (cover.box,) if frame <= 0 and _box_is_smaller(cover) else cover.capsules
            table[link] += (cover.box,)
        if problems:
            unseen[link] = "; ".join(problems)
    bare = tuple(link for link in placed if link in description.unread and description.unread[link].only_seen)
    return LinkCovers(shapes, table, unseen, bare)


def _without_place(chain: KinematicChain, placed: set[str]) -> dict[str, str]:
    """Return why links with shapes are not among ``placed``."""
    description = chain.description
    found = {}
    for link, own in description.links.items():
        unread = description.unread.get(link)
        if link in placed or not (own or (unread and not unread.only_seen)):
            continue
        below, at = False, description.joint_to(link)
        while at is not None and not below:
            below = at.parent == chain.base_link
            at = description.joint_to(at.parent)
        found[link] = (
            "its position is unknown: a joint above it is planar, floating, or has an unusable mimic"
            if below
            else f"it is not attached to the base link {chain.base_link!r}"
        )
    return found


def _cover(mesh: MeshShape, urdf: Path) -> MeshCover:
    """Return the cover of ``mesh``, in its link's frame."""
    cover = cover_mesh(read_mesh(find_mesh(mesh.filename, urdf)) * np.array(mesh.scale))
    return MeshCover(
        tuple(_placed(shape, mesh.origin) for shape in cover.capsules), _placed(cover.box, mesh.origin)
    )


def _placed(shape: Shape, origin: Float) -> Shape:
    return Shape(shape.kind, origin @ shape.origin, shape.size)


def _box_is_smaller(cover: MeshCover) -> bool:
    capsules = sum(np.pi * r**2 * (length + r * 4 / 3) for r, length in (s.size for s in cover.capsules))
    return bool(np.prod(cover.box.size) < capsules)
