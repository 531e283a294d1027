"""Reads a URDF: links with their collision shapes, joints with origins, axes and limits.

Only the parts that kinematics and collision checks need; errors name the link or joint. Kinematics need no
shapes: a collision shape that is not a primitive is kept as a mesh's file name, or as a problem in words,
for ``link_covers``. A fixed joint's axis, limits and mimic are ignored (wiki.ros.org/urdf/XML/joint), and so
are visuals and inertias.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import numpy as np

from openvla_ros.errors import KinematicsError
from openvla_ros.resources import share_path
from openvla_ros.values.arrays import Float, read_only
from openvla_ros.values.geometry import transform_euler_to_matrix, transform_quaternion_to_matrix

JOINT_TYPES = ("revolute", "continuous", "prismatic", "fixed", "planar", "floating")
JointType = Literal["revolute", "continuous", "prismatic", "fixed", "planar", "floating"]
# Joints whose position is more than one number: they can stand in a file, but not in a chain.
MANY_POSITIONS = ("planar", "floating")
ShapeKind = Literal["box", "cylinder", "sphere", "capsule"]
# The attributes of each primitive and how many numbers each holds, in the order of ``Shape.size``.
SIZES = {
    "box": (("size", 3),),
    "cylinder": (("radius", 1), ("length", 1)),
    "sphere": (("radius", 1),),
    "capsule": (("radius", 1), ("length", 1)),  # since URDF 1.2
}


@dataclass(frozen=True, eq=False)
class Shape:
    """One collision primitive of a link."""

    kind: ShapeKind
    origin: Float  # (4, 4) pose in the link's frame
    # Metres: box x y z, cylinder radius length (along z), sphere radius, capsule radius length (of its
    # cylindrical part, along z).
    size: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class MeshShape:
    """A collision shape that stands in a file of its own, as the URDF names it."""

    filename: str  # package://, file://, or relative to the URDF
    origin: Float  # (4, 4) pose in the link's frame
    scale: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class UnreadShapes:
    """What a link says of its extent besides primitives."""

    meshes: tuple[MeshShape, ...] = ()
    problems: tuple[str, ...] = ()  # collision elements that nothing here can use, in words
    only_seen: bool = False  # there is a <visual> and no <collision>


@dataclass(frozen=True, eq=False)
class Joint:
    """One joint: the child link's origin in its parent, and how it moves."""

    name: str
    kind: JointType
    parent: str
    child: str
    origin: Float  # (4, 4) pose of the child's frame in the parent's at position 0
    axis: Float  # (3,) unit vector in the child's frame
    lower: float  # radians or metres; ±inf for continuous joints
    upper: float
    velocity: float  # rad/s or m/s; inf where the file states none
    mimic: tuple[str, float, float] | None = None  # joint, multiplier, offset


@dataclass(frozen=True, eq=False)
class RobotDescription:
    """The tree of links and joints of one URDF file."""

    source: str
    links: dict[str, tuple[Shape, ...]]  # link name → its collision primitives
    joints: dict[str, Joint]
    name: str = ""  # the robot's, as the file gives it
    unread: dict[str, UnreadShapes] = field(default_factory=dict)  # only links that have something of it

    def joint_to(self, link: str) -> Joint | None:
        """Return the joint whose child is ``link``, or None for the root."""
        return next((joint for joint in self.joints.values() if joint.child == link), None)

    def path(self, base_link: str, link: str) -> list[Joint]:
        """Return the joints from ``base_link`` to ``link``, base first.

        Raises ``KinematicsError`` if either is missing or ``link`` is not a descendant of ``base_link``.
        """
        for name in (base_link, link):
            if name not in self.links:
                raise KinematicsError(
                    f"{self.source} has no link {name!r}; its links: {', '.join(self.links)}"
                )
        found: list[Joint] = []
        while link != base_link:
            joint = self.joint_to(link)
            if joint is None:
                raise KinematicsError(
                    f"{self.source}: there is no chain of joints from {base_link!r} to {link!r}"
                )
            found.insert(0, joint)
            link = joint.parent
        return found

    def roots(self) -> list[str]:
        """Return the links that are no joint's child."""
        children = {joint.child for joint in self.joints.values()}
        return [link for link in self.links if link not in children]

    def leader(self, joint: Joint) -> tuple[Joint, float, float]:
        """Return the joint that decides where ``joint`` stands, and the multiplier and offset to it.

        A joint without ``<mimic>`` is its own leader. Raises ``KinematicsError`` naming a mimic whose
        leader does not exist, is no single-valued joint, or follows the joint itself.
        """
        multiplier, offset, at = 1.0, 0.0, joint
        seen = [joint.name]
        while at.mimic is not None:
            name, factor, shift = at.mimic
            offset += multiplier * shift
            multiplier *= factor
            if name in seen:
                raise KinematicsError(f"{self.source}: joints {', '.join(seen)} mimic each other in a cycle")
            if name not in self.joints or self.joints[name].kind in ("fixed", *MANY_POSITIONS):
                what = "does not exist" if name not in self.joints else f"is {self.joints[name].kind}"
                raise KinematicsError(f"{self.source}: joint {at.name!r} mimics joint {name!r}, which {what}")
            at = self.joints[name]
            seen.append(name)
        return at, multiplier, offset


def find_urdf(name_or_path: str) -> Path:
    """Return the file for a profile's ``arm.urdf``: in the package's ``urdf`` folder, or a path.

    Raises ``KinematicsError`` listing the package's own descriptions.
    """
    path = Path(name_or_path)
    path = path if path.is_absolute() else share_path() / "urdf" / name_or_path
    if not path.is_file():
        known = ", ".join(sorted(p.name for p in (share_path() / "urdf").glob("*.urdf")))
        raise KinematicsError(f"no URDF {name_or_path!r} (searched {path}); the package has {known}")
    return path


def read_urdf(path: Path) -> RobotDescription:
    """Return the links and joints of the URDF file at ``path``.

    Raises ``KinematicsError`` naming the file and the link or joint that cannot be used.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise KinematicsError(f"{path}: not a readable URDF: {error}") from error
    source = str(path)
    _check_root(root, source)
    links: dict[str, tuple[Shape, ...]] = {}
    unread: dict[str, UnreadShapes] = {}
    for element in root.findall("link"):
        name = _name(element, source)
        if name in links:
            raise KinematicsError(f"{source}: link {name!r} is defined twice")
        links[name], rest = _shapes(element, source)
        if rest is not None:
            unread[name] = rest
    joints: dict[str, Joint] = {}
    for element in root.findall("joint"):
        joint = _joint(element, source)
        if joint.name in joints:
            raise KinematicsError(f"{source}: joint {joint.name!r} is defined twice")
        for link in (joint.parent, joint.child):
            if link not in links:
                raise KinematicsError(
                    f"{source}: joint {joint.name!r} refers to link {link!r}, which does not exist"
                )
        if any(joint.child == other.child for other in joints.values()):
            raise KinematicsError(f"{source}: link {joint.child!r} is the child of more than one joint")
        joints[joint.name] = joint
    _check_tree(links, joints, source)
    return RobotDescription(source, links, joints, root.get("name") or "", unread)


def _check_root(root: ElementTree.Element, source: str) -> None:
    if root.tag != "robot":
        raise KinematicsError(f"{source}: not a URDF: its root is <{root.tag}>, not <robot>")
    if any("/xacro}" in element.tag for element in root.iter() if isinstance(element.tag, str)):
        raise KinematicsError(f"{source} is a xacro file: expand it first, xacro {source} > robot.urdf")


def _check_tree(links: Iterable[str], joints: dict[str, Joint], source: str) -> None:
    """Refuse a circle of joints, in which no link would have a place."""
    above = {joint.child: joint for joint in joints.values()}
    for link in links:
        at, passed = link, {link}
        while at in above:
            at = above[at].parent
            if at in passed:
                raise KinematicsError(
                    f"{source}: link {at!r} is its own ancestor through joint {above[at].name!r}"
                )
            passed.add(at)


def _name(element: ElementTree.Element, source: str) -> str:
    name = element.get("name")
    if not name:
        raise KinematicsError(f"{source}: a <{element.tag}> has no name")
    return name


def _floats(text: str | None, count: int, what: str, default: tuple[float, ...] | None = None) -> list[float]:
    if text is None and default is not None:
        return list(default)
    try:
        values = [float(part) for part in (text or "").split()]
    except ValueError:
        values = []
    if len(values) != count or not np.all(np.isfinite(values)):
        raise KinematicsError(f"{what} is {text!r}; it must be {count} finite number(s)")
    return values


def _origin(element: ElementTree.Element | None, what: str) -> Float:
    matrix = np.eye(4)
    if element is not None:
        zeros = (0.0, 0.0, 0.0)
        matrix[:3, 3] = _floats(element.get("xyz"), 3, f"{what}: origin xyz", zeros)
        rpy, xyzw = element.get("rpy"), element.get("quat_xyzw")  # the latter since URDF 1.2
        if rpy is not None and xyzw is not None:
            raise KinematicsError(f"{what}: origin has both rpy {rpy!r} and quat_xyzw {xyzw!r}")
        if xyzw is None:
            matrix[:3, :3] = transform_euler_to_matrix(_floats(rpy, 3, f"{what}: origin rpy", zeros))
        else:
            quaternion = _floats(xyzw, 4, f"{what}: origin quat_xyzw")
            if np.linalg.norm(quaternion) < 1e-9:
                raise KinematicsError(f"{what}: origin quat_xyzw is {xyzw!r}; it must not be all zeros")
            matrix[:3, :3] = transform_quaternion_to_matrix(quaternion)
    return read_only(matrix)


def _shapes(link: ElementTree.Element, source: str) -> tuple[tuple[Shape, ...], UnreadShapes | None]:
    """Return a link's collision primitives, and the rest if there is any."""
    what = f"{source}: link {link.get('name')!r}"
    shapes: list[Shape] = []
    meshes: list[MeshShape] = []
    problems: list[str] = []
    collisions = link.findall("collision")
    for collision in collisions:
        origin = _origin(collision.find("origin"), f"{what} collision")
        geometry = collision.find("geometry")
        primitive = None if geometry is None else next(iter(geometry), None)
        if primitive is None:
            problems.append("a <collision> has no geometry")
        elif primitive.tag == "mesh":
            meshes.append(_mesh(primitive, origin, what))
        elif primitive.tag in SIZES:
            size = [
                value
                for key, count in SIZES[primitive.tag]
                for value in _floats(primitive.get(key), count, f"{what} {primitive.tag} {key}")
            ]
            shapes.append(Shape(primitive.tag, origin, tuple(size)))  # type: ignore[arg-type]
        else:
            problems.append(f"a <collision> is a <{primitive.tag}>, which is not supported")
    only_seen = not collisions and link.find("visual/geometry") is not None
    if not (meshes or problems or only_seen):
        return tuple(shapes), None
    return tuple(shapes), UnreadShapes(tuple(meshes), tuple(problems), only_seen)


def _mesh(element: ElementTree.Element, origin: Float, what: str) -> MeshShape:
    filename = element.get("filename")
    if not filename:
        raise KinematicsError(f"{what} has a collision <mesh> without a filename")
    scale = _floats(element.get("scale"), 3, f"{what} mesh scale", (1.0, 1.0, 1.0))
    return MeshShape(filename, origin, (scale[0], scale[1], scale[2]))


def _joint(element: ElementTree.Element, source: str) -> Joint:
    name = _name(element, source)
    what = f"{source}: joint {name!r}"
    kind = element.get("type")
    if kind not in JOINT_TYPES:
        raise KinematicsError(f"{what} has type {kind!r}; it must be one of {', '.join(JOINT_TYPES)}")
    ends = {}
    for end in ("parent", "child"):
        part = element.find(end)
        link = None if part is None else part.get("link")
        if link is None:
            raise KinematicsError(f"{what} has no {end} link")
        ends[end] = link
    return Joint(
        name,
        kind,  # type: ignore[arg-type]
        ends["parent"],
        ends["child"],
        _origin(element.find("origin"), what),
        _axis(element, kind, what),
        *_limits(element, kind, what),
        None if kind == "fixed" else _mimic(element, what),
    )


def _axis(element: ElementTree.Element, kind: str, what: str) -> Float:
    """Return the unit axis; of a joint that has none the default, whatever the file says there."""
    stated = element.find("axis")
    default = (1.0, 0.0, 0.0)
    if stated is None or kind in ("fixed", "floating"):
        return read_only(np.array(default))
    axis = np.array(_floats(stated.get("xyz"), 3, f"{what}: axis", default))
    length = float(np.linalg.norm(axis))
    if length < 1e-9:
        raise KinematicsError(f"{what}: axis {axis.tolist()} has no direction")
    return read_only(axis / length)


def _limits(element: ElementTree.Element, kind: str, what: str) -> tuple[float, float, float]:
    """Return lower and upper limit, and velocity.

    Lower and upper may be equal or reversed: it is refused where such a joint is to move.
    """
    limit = element.find("limit")
    if kind in ("fixed", *MANY_POSITIONS) or (limit is None and kind == "continuous"):
        return -np.inf, np.inf, np.inf
    if limit is None:
        raise KinematicsError(f"{what} is {kind} and has no <limit>")
    velocity = _floats(limit.get("velocity"), 1, f"{what}: limit velocity", (np.inf,))[0]
    if kind == "continuous":
        return -np.inf, np.inf, velocity
    lower = _floats(limit.get("lower"), 1, f"{what}: limit lower", (0.0,))[0]
    upper = _floats(limit.get("upper"), 1, f"{what}: limit upper", (0.0,))[0]
    return lower, upper, velocity


def _mimic(element: ElementTree.Element, what: str) -> tuple[str, float, float] | None:
    mimic = element.find("mimic")
    if mimic is None:
        return None
    leader = mimic.get("joint")
    if leader is None:
        raise KinematicsError(f"{what}: <mimic> names no joint")
    multiplier = _floats(mimic.get("multiplier"), 1, f"{what}: mimic multiplier", (1.0,))[0]
    offset = _floats(mimic.get("offset"), 1, f"{what}: mimic offset", (0.0,))[0]
    return leader, multiplier, offset
