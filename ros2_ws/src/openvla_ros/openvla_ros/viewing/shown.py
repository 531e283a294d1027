"""What can be shown, whatever the viewer: values, each with a path and a moment.

A recording and a running robot become the same values, and each viewer shows all of them, so that two
viewers can't show different things. Knows nothing of ROS, of files or of a viewer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from openvla_ros.robot.kinematics.urdf import Shape
from openvla_ros.values.arrays import Float
from openvla_ros.values.geometry import Pose

Level = Literal["info", "warning", "error"]
ImageFormat = Literal["jpeg", "png"]

# The paths; a viewer may turn them into names of its own.
CAMERA = "camera"  # camera/<name>
JOINTS, GRIPPER, TOOL = "joints", "gripper", "tool"  # <path>/measured, <path>/commanded
MEASURED, COMMANDED = "measured", "commanded"
TRAIL = "tool_path"  # <path>/measured, <path>/commanded; not below the tool, whose pose would move it
ARM = "arm"  # the links
ACTION, PROBABILITY, ENTROPY = "action", "probability", "entropy"  # <path>/policy, <path>/teleop
CHUNK, CHUNK_PATH = "chunk", "chunk_path"
INSTRUCTION = "instruction"
STATUS = "status"  # of the controller: its state, who has the arm, the verdict in force
VERDICTS, TOLD, DIAGNOSTICS, PROBLEMS = "log/verdict", "log/instruction", "log/diagnostics", "log/problems"
RATES = "rate"


@dataclass(frozen=True)
class Moment:
    """When something was, nanoseconds."""

    stamp_ns: int  # the message's own stamp; where it has none, when it was received
    received_ns: int  # when the recorder, or this program, received it; of a dataset's step its stamp


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """An image of a camera, upright as the policy sees it, as JPEG or PNG."""

    path: str
    moment: Moment
    data: bytes
    format: ImageFormat


@dataclass(frozen=True, eq=False)
class Scalars:
    """Named numbers, plotted over time. NaN where a value is missing."""

    path: str
    moment: Moment
    names: tuple[str, ...]
    values: Float  # (N,)


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of named numbers: the steps of a chunk."""

    path: str
    moment: Moment
    columns: tuple[str, ...]
    values: Float  # (T, N)


@dataclass(frozen=True)
class LogText:
    """One entry of a log."""

    path: str
    moment: Moment
    text: str
    level: Level = "info"


@dataclass(frozen=True)
class Caption:
    """A text that counts until the next one."""

    path: str
    moment: Moment
    text: str


@dataclass(frozen=True, eq=False)
class ToolPose:
    """A pose of the tool in the base frame, metres."""

    path: str
    moment: Moment
    pose: Pose


@dataclass(frozen=True, eq=False)
class Line:
    """A line through points in the base frame."""

    path: str
    moment: Moment
    points: Float  # (N, 3) metres


@dataclass(frozen=True, eq=False)
class LinkPoses:
    """The pose of every link in the base frame."""

    path: str
    moment: Moment
    poses: Mapping[str, Pose]  # by the link's name in the URDF


Shown = EncodedImage | Scalars | Table | LogText | Caption | ToolPose | Line | LinkPoses


@dataclass(frozen=True, eq=False)
class Stage:
    """What does not change while something is shown: the arm's links, and the cameras."""

    title: str
    base_frame: str  # as in tf
    frame_prefix: str  # of the links' names in tf
    shapes: Mapping[str, tuple[Shape, ...]]  # link name → what it occupies, in the link's frame
    cameras: tuple[str, ...]
    joints: tuple[str, ...]  # of the arm
    actions: tuple[str, ...]  # names of an action's numbers
