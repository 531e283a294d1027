"""A ``Scene`` as markers and back: published by the simulation, for the scripted expert and RViz.

One marker per object: ``ns`` is its name, ``text`` its shape. Two more, ``tool`` and ``table``, have the
tool's pose with the gripper opening as text, and the table's height.
"""

from __future__ import annotations

import numpy as np
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from openvla_ros.errors import InvalidValueError
from openvla_ros.ros.messages import from_stamp, to_stamp
from openvla_ros.values.geometry import Pose
from openvla_ros.values.scene import SHAPES, Scene, SceneObject

TOOL, TABLE = "tool", "table"
TABLE_SIZE = (1.2, 1.2, 0.001)


def to_markers(scene: Scene, stamp_ns: int, frame_id: str) -> MarkerArray:
    """Return ``scene`` as markers in ``frame_id``, the base frame of the arm."""
    header = Header(stamp=to_stamp(stamp_ns), frame_id=frame_id)
    markers = [
        _marker(
            header, item.name, item.shape, Marker.CUBE if item.shape == "cube" else Marker.CYLINDER,
            item.pose, tuple(item.size), tuple(item.colour),
        )
        for item in scene.objects
    ]  # fmt: skip
    table = Pose(np.array([0.35, 0.0, scene.table_m]), np.eye(3))
    markers.append(
        _marker(header, TOOL, repr(scene.gripper), Marker.ARROW, scene.tool, (0.06, 0.006, 0.006), (1, 1, 1))
    )
    markers.append(_marker(header, TABLE, "", Marker.CUBE, table, TABLE_SIZE, (0.72, 0.62, 0.49)))
    return MarkerArray(markers=markers)


def from_markers(message: MarkerArray) -> Scene:
    """Return the scene in ``message``; the inverse of ``to_markers``.

    Raises ``InvalidValueError`` if the tool or the table is missing or a shape is unknown.
    """
    by_name = {marker.ns: marker for marker in message.markers}
    missing = [name for name in (TOOL, TABLE) if name not in by_name]
    if missing:
        raise InvalidValueError(f"the scene's markers lack {missing}; they have {list(by_name)}")
    tool, table = by_name.pop(TOOL), by_name.pop(TABLE)
    return Scene(
        stamp_ns=from_stamp(tool.header.stamp),
        objects=tuple(_object(marker) for marker in by_name.values()),
        tool=_pose(tool),
        gripper=float(tool.text),
        table_m=float(table.pose.position.z),
    )


def _marker(
    header: Header,
    name: str,
    text: str,
    kind: int,
    pose: Pose,
    size: tuple[float, ...],
    colour: tuple[float, ...],
) -> Marker:
    marker = Marker(header=header, ns=name, id=0, type=kind, action=Marker.ADD, text=text)
    p, q = marker.pose.position, marker.pose.orientation
    p.x, p.y, p.z = map(float, pose.position)
    q.x, q.y, q.z, q.w = map(float, pose.quaternion)
    marker.scale.x, marker.scale.y, marker.scale.z = map(float, size)
    red, green, blue = map(float, colour)
    marker.color = ColorRGBA(r=red, g=green, b=blue, a=1.0)
    return marker


def _pose(marker: Marker) -> Pose:
    p, q = marker.pose.position, marker.pose.orientation
    return Pose.from_quaternion([p.x, p.y, p.z], [q.x, q.y, q.z, q.w])


def _object(marker: Marker) -> SceneObject:
    if marker.text not in SHAPES:
        raise InvalidValueError(f"object {marker.ns!r} has shape {marker.text!r}; the shapes are {SHAPES}")
    size = np.array([marker.scale.x, marker.scale.y, marker.scale.z])
    colour = np.array([marker.color.r, marker.color.g, marker.color.b])
    return SceneObject(marker.ns, marker.text, _pose(marker), size, colour)
