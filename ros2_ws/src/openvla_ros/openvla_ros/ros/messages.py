"""Conversions between ROS messages and the package's values, each next to its inverse.

Stamps are nanoseconds of the ROS clock. Other drivers' image encodings are decoded in ``image_messages``;
here is only the encoding that our own nodes publish.
"""

from __future__ import annotations

import array
import math
from collections.abc import Sequence

import numpy as np
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from openvla_ros.errors import InvalidValueError
from openvla_ros.robot.safety.chunk import ReceivedChunk
from openvla_ros.values.action import ActionChunk, ActionSpace
from openvla_ros.values.arrays import Float
from openvla_ros.values.arrays import Image as ImageArray
from openvla_ros.values.geometry import Pose
from openvla_ros.values.time import NS_PER_S as NS_PER_S
from openvla_ros.values.time import nanoseconds

PROBABILITY, ENTROPY = "probability/", "entropy/"
# A serialised chunk: room for 150 steps of 7 dimensions with probability and entropy. What fits in here
# takes 6 ms to deserialise at worst (empty points); a state of the size of LARGEST_BYTES below 1 ms.
LARGEST_CHUNK_BYTES = 32 << 10
LARGEST_INSTRUCTION_BYTES = 4 << 10  # a serialised String; prompts of a robot are a sentence
NAME_LENGTH = 100  # of a chunk's names and frame; ours are shorter


def to_stamp(stamp_ns: int) -> Time:
    """Return nanoseconds as a message stamp."""
    return Time(sec=stamp_ns // NS_PER_S, nanosec=stamp_ns % NS_PER_S)


def from_stamp(stamp: Time) -> int:
    """Return a message stamp as nanoseconds."""
    return int(stamp.sec) * NS_PER_S + int(stamp.nanosec)


def to_duration(seconds: float) -> Duration:
    """Return seconds (≥ 0) as a duration message, rounded to nanoseconds."""
    total = nanoseconds(seconds)
    return Duration(sec=total // NS_PER_S, nanosec=total % NS_PER_S)


def from_duration(duration: Duration) -> float:
    """Return a duration message as seconds."""
    return int(duration.sec) + int(duration.nanosec) / NS_PER_S


def to_image(image: ImageArray, stamp_ns: int, frame_id: str) -> Image:
    """Return a uint8 (H, W, 3) RGB array as an ``rgb8`` message."""
    pixels = array.array("B")
    pixels.frombytes(np.ascontiguousarray(image).data.cast("B"))  # 0.1 ms; an ndarray takes 145
    height, width, _ = image.shape
    message = Image(height=height, width=width, encoding="rgb8", is_bigendian=0, step=3 * width)
    message.header = Header(stamp=to_stamp(stamp_ns), frame_id=frame_id)
    message.data = pixels
    return message


def to_pose(pose: Pose, stamp_ns: int, frame_id: str) -> PoseStamped:
    """Return ``pose`` as a message in ``frame_id``."""
    message = PoseStamped(header=Header(stamp=to_stamp(stamp_ns), frame_id=frame_id))
    p, q = message.pose.position, message.pose.orientation
    p.x, p.y, p.z = map(float, pose.position)
    q.x, q.y, q.z, q.w = map(float, pose.quaternion)
    return message


def from_pose(message: PoseStamped) -> Pose:
    """Return the pose in ``message``; raises ``InvalidValueError`` on a zero quaternion or NaN."""
    p, q = message.pose.position, message.pose.orientation
    return Pose.from_quaternion([p.x, p.y, p.z], [q.x, q.y, q.z, q.w])


def to_joint_trajectory(
    names: Sequence[str],
    positions: Float,
    times_s: Sequence[float],
    stamp_ns: int,
    frame_id: str = "",
    velocities: Float | None = None,
) -> JointTrajectory:
    """Return rows of ``positions`` (T, J) at ``times_s`` (T,) after the stamp as a trajectory message.

    A stamp of 0 means "start now" to a joint trajectory controller.
    """
    message = JointTrajectory(
        header=Header(stamp=to_stamp(stamp_ns), frame_id=frame_id), joint_names=list(names)
    )
    # As arrays: a message checks the values of a list one by one.
    for row, seconds in enumerate(times_s):
        point = JointTrajectoryPoint()
        due = point.time_from_start  # filled where it is: another Duration would be made only to be dropped
        due.sec, due.nanosec = divmod(nanoseconds(seconds), NS_PER_S)
        point.positions = array.array("d", positions[row].tolist())
        if velocities is not None:
            point.velocities = array.array("d", velocities[row].tolist())
        message.points.append(point)
    return message


def to_chunk_message(chunk: ActionChunk, frame_id: str) -> JointTrajectory:
    """Return ``chunk`` as a message: named dimensions, one point per step, the observation's stamp.

    The bins' probabilities and entropies (nats) follow as dimensions ``probability/<name>`` and
    ``entropy/<name>`` if the policy provides them.
    """
    names, columns = list(chunk.space.names), [chunk.actions]
    for prefix, values in ((PROBABILITY, chunk.probability), (ENTROPY, chunk.entropy)):
        if values is not None:
            names += [prefix + name for name in chunk.space.names]
            columns.append(values)
    times = [(step + 1) * chunk.space.step_s for step in range(len(chunk))]
    return to_joint_trajectory(names, np.hstack(columns), times, chunk.observation_stamp_ns, frame_id)


def from_chunk_message(message: JointTrajectory, space: ActionSpace, frame_id: str) -> ActionChunk:
    """Return the chunk in ``message``; the inverse of ``to_chunk_message``.

    Raises ``InvalidValueError`` if names, widths, frame or values do not match ``space``: a chunk that is
    not fully understood is not executed in part.
    """
    if message.header.frame_id != frame_id:
        raise InvalidValueError(
            f"the chunk's frame is {message.header.frame_id!r}; this robot's actions are in {frame_id!r}"
        )
    names = tuple(message.joint_names)
    width = space.width
    if names[:width] != space.names:
        raise InvalidValueError(f"the chunk's dimensions are {names}; this robot's are {space.names}")
    rows = [list(point.positions) for point in message.points]
    if not rows or any(len(row) != len(names) for row in rows):
        lengths = sorted({len(row) for row in rows})
        raise InvalidValueError(f"the chunk's points have {lengths or 'no'} values for {len(names)} names")
    values = np.array(rows, dtype=np.float64)
    extra: dict[str, Float] = {}
    rest = names[width:]
    for prefix, key in ((PROBABILITY, "probability"), (ENTROPY, "entropy")):
        if rest[:width] == tuple(prefix + name for name in space.names):
            start = len(names) - len(rest)
            extra[key] = values[:, start : start + width]
            rest = rest[width:]
    if rest:
        raise InvalidValueError(f"the chunk has unknown dimensions: {rest}")
    return ActionChunk(
        actions=values[:, :width], observation_stamp_ns=from_stamp(message.header.stamp), space=space, **extra
    )


def to_received_chunk(message: JointTrajectory, space: ActionSpace) -> ReceivedChunk:
    """Return the contents of ``message``, valid or not; the controller's checks report what is wrong.

    Dimensions of probability and entropy are skipped. Points of different length, and too many names or
    points, result in an array that fails the width check; steps of different duration in a duration of NaN.
    """
    every, rows = message.joint_names, [point.positions for point in message.points]
    keep = [i for i, name in enumerate(every) if not name.startswith((PROBABILITY, ENTROPY))]
    # A failed check quotes the names: this much of each is enough.
    names = [every[i][:NAME_LENGTH] for i in keep[: space.width + 1]]
    if len(every) <= 3 * space.width and all(len(row) == len(every) for row in rows):
        values = np.array(rows, dtype=np.float64).reshape(len(rows), len(every))[:, keep]
    else:
        values = np.zeros((len(rows), 0))
    times = np.array([from_duration(point.time_from_start) for point in message.points])
    step_s = float(times[0]) if len(times) else float("nan")
    if not np.allclose(times, step_s * np.arange(1, len(times) + 1), rtol=0.02):
        step_s = float("nan")
    frame_id = message.header.frame_id[:NAME_LENGTH]
    return ReceivedChunk(tuple(names), frame_id, from_stamp(message.header.stamp), step_s, values)


def joint_values(message: JointState, names: Sequence[str], field: str = "position") -> Float:
    """Return the values of ``names`` (J,) from a joint state, in that order.

    ``field`` is ``position`` (rad or m), ``velocity`` or ``effort``. Raises ``InvalidValueError``
    naming the joints that are missing and those that the message has, or one that it names twice.
    """
    index = {name: i for i, name in enumerate(message.name)}
    missing = [name for name in names if name not in index]
    if missing:
        raise InvalidValueError(f"the joint state lacks {missing}; it has {list(message.name)}")
    if len(index) < len(message.name) and (double := [n for n in names if message.name.count(n) > 1]):
        raise InvalidValueError(f"the joint state contains {double} twice")
    values = getattr(message, field)
    if len(values) != len(message.name):
        raise InvalidValueError(
            f"the joint state has {len(values)} values of {field} for {len(message.name)} names"
        )
    return np.array([values[index[name]] for name in names], dtype=np.float64)


def joint_position(message: JointState, name: str) -> float | None:
    """Return the position of one joint (rad or m), or ``None`` if the message has no finite one."""
    if message.name.count(name) != 1 or len(message.position) != len(message.name):
        return None
    position = float(message.position[message.name.index(name)])
    return position if math.isfinite(position) else None
