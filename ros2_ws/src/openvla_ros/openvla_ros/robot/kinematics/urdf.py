"""Reads a URDF: links with their collision shapes, joints with origins, axes and limits.

Only the parts that kinematics and collision checks need; errors name the link or joint. Visuals, inertias
and meshes are for simulators and viewers, and are ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import numpy as np

from openvla_ros.errors import KinematicsError
from openvla_ros.resources import share_path
from openvla_ros.values.arrays import Float, read_only
from openvla_ros.values.geometry import transform_euler_to_matrix

JOINT_TYPES = ("revolute", "continuous", "prismatic", "fixed")
JointType = Literal["revolute", "continuous", "prismatic", "fixed"]
ShapeKind = Literal["box", "cylinder", "sphere"]


@dataclass(frozen=True, eq=False)
class Shape:
    """One collision primitive of a link."""

    kind: ShapeKind
    origin: Float  # (4, 4) pose in the link's frame
    size: tuple[float, ...]  # metres: box x y z, cylinder radius length (along z), sphere radius


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
    links: dict[str, tuple[Shape, ...]]  # link name → its collision shapes
    joints: dict[str, Joint]

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
    links = {_name(link, source): _shapes(link, source) for link in root.findall("link")}
    joints: dict[str, Joint] = {}
    for element in root.findall("joint"):
        joint = _joint(element, source)
        for link in (joint.parent, joint.child):
            if link not in links:
                raise KinematicsError(
                    f"{source}: joint {joint.name!r} refers to link {link!r}, which does not exist"
                )
        if any(joint.child == other.child for other in joints.values()):
            raise KinematicsError(f"{source}: link {joint.child!r} is the child of more than one joint")
        joints[joint.name] = joint
    return RobotDescription(source, links, joints)


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
        matrix[:3, :3] = transform_euler_to_matrix(
            _floats(element.get("rpy"), 3, f"{what}: origin rpy", zeros)
        )
    return read_only(matrix)


def _shapes(link: ElementTree.Element, source: str) -> tuple[Shape, ...]:
    what = f"{source}: link {link.get('name')!r}"
    shapes = []
    for collision in link.findall("collision"):
        origin = _origin(collision.find("origin"), f"{what} collision")
        geometry = collision.find("geometry")
        primitive = None if geometry is None else next(iter(geometry), None)
        if primitive is None:
            raise KinematicsError(f"{what} has a collision without geometry")
        match primitive.tag:
            case "box":
                size = _floats(primitive.get("size"), 3, f"{what} box size")
                shapes.append(Shape("box", origin, tuple(size)))
            case "cylinder":
                radius = _floats(primitive.get("radius"), 1, f"{what} cylinder radius")
                length = _floats(primitive.get("length"), 1, f"{what} cylinder length")
                shapes.append(Shape("cylinder", origin, (radius[0], length[0])))
            case "sphere":
                radius = _floats(primitive.get("radius"), 1, f"{what} sphere radius")
                shapes.append(Shape("sphere", origin, tuple(radius)))
            case other:
                raise KinematicsError(
                    f"{what} has a collision <{other}>; only box, cylinder and sphere are supported"
                )
    return tuple(shapes)


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
    axis_element = element.find("axis")
    axis = np.array(
        _floats(None if axis_element is None else axis_element.get("xyz"), 3, f"{what}: axis", (1, 0, 0))
    )
    length = float(np.linalg.norm(axis))
    if length < 1e-9:
        raise KinematicsError(f"{what}: axis {axis.tolist()} has no direction")
    lower, upper, velocity = _limits(element, kind, what)
    return Joint(
        name,
        kind,  # type: ignore[arg-type]
        ends["parent"],
        ends["child"],
        _origin(element.find("origin"), what),
        read_only(axis / length),
        lower,
        upper,
        velocity,
        _mimic(element, what),
    )


def _limits(element: ElementTree.Element, kind: str, what: str) -> tuple[float, float, float]:
    limit = element.find("limit")
    velocity = np.inf
    if limit is not None:
        velocity = _floats(limit.get("velocity"), 1, f"{what}: limit velocity")[0]
    if kind not in ("revolute", "prismatic"):
        return -np.inf, np.inf, velocity
    if limit is None:
        raise KinematicsError(f"{what} is {kind} and has no <limit>")
    lower = _floats(limit.get("lower"), 1, f"{what}: limit lower", (0.0,))[0]
    upper = _floats(limit.get("upper"), 1, f"{what}: limit upper", (0.0,))[0]
    if lower >= upper:
        raise KinematicsError(f"{what}: limits {lower} .. {upper} are empty or reversed")
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
