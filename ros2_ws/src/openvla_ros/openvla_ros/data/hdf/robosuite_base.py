"""Where a robosuite arm stands in the world, from the MuJoCo model that a demonstration carries.

Poses that robosuite reports are in the world frame; an arm's own commands and poses are in its base's.
"""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np

from openvla_ros.errors import DatasetError
from openvla_ros.values.geometry import Pose

BASE = "robot0_base"
_OTHER_ROTATIONS = ("euler", "axisangle", "xyaxes", "zaxis")


def base_pose(model_file: str) -> Pose:
    """Return the pose of the first robot's base in the world.

    Raises ``DatasetError`` if the model is no XML, has no such body, or the body moves.
    """
    try:
        root = ElementTree.fromstring(model_file)
    except ElementTree.ParseError as error:
        raise DatasetError(f"model_file is not XML: {error}") from error
    chain = _chain_to(root.find("worldbody"))
    if not chain:
        raise DatasetError(f"model_file has no body {BASE!r}")
    pose = Pose.identity()
    for body in chain:
        name = body.get("name", "")
        if body.find("joint") is not None or body.find("freejoint") is not None:
            raise DatasetError(f"the robot's base moves: body {name!r} of model_file has a joint")
        pose = pose @ _placed(body, f"body {name!r} of model_file")
    return pose


def _chain_to(world: ElementTree.Element | None) -> list[ElementTree.Element]:
    """Return the bodies from the world's child down to the base; empty if there is none."""
    for body in () if world is None else world.findall("body"):
        if body.get("name") == BASE:
            return [body]
        if below := _chain_to(body):
            return [body, *below]
    return []


def _placed(body: ElementTree.Element, origin: str) -> Pose:
    """Return a body's pose in its parent; MuJoCo writes quaternions w first."""
    for name in _OTHER_ROTATIONS:
        if body.get(name) is not None:
            raise DatasetError(f"{origin}: its orientation is given as {name}; only quat is read")
    position = _numbers(body.get("pos", "0 0 0"), 3, origin)
    w, x, y, z = _numbers(body.get("quat", "1 0 0 0"), 4, origin)
    return Pose.from_quaternion(position, np.array([x, y, z, w]))


def _numbers(text: str, count: int, origin: str) -> list[float]:
    try:
        values = [float(word) for word in text.split()]
    except ValueError as error:
        raise DatasetError(f"{origin}: {text!r} are not {count} numbers") from error
    if len(values) != count or not np.isfinite(values).all():
        raise DatasetError(f"{origin}: {text!r} are not {count} numbers")
    return values
