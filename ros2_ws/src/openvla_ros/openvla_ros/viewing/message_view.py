"""Messages to what is shown of them: the one description of a robot's topics, recorded or live.

A message comes serialised, with the role of its topic (see ``EpisodeMetadata``), as a recording stores it and
a raw subscription delivers it. What cannot be read is shown as a problem in words. Knows no viewer, no
file and no ROS.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from openvla_ros.data.bags import cdr
from openvla_ros.data.episodes.encoded_images import image_format
from openvla_ros.errors import DatasetError, InvalidValueError
from openvla_ros.preprocessing.image_encoding import encode_jpeg
from openvla_ros.profile import CameraProfile, RobotProfile
from openvla_ros.robot.authority import PERSON
from openvla_ros.robot.kinematics.action_targets import joint_actions, tool_actions
from openvla_ros.streams.sampling import arm_sample, upright
from openvla_ros.values.arrays import Float
from openvla_ros.values.geometry import Pose
from openvla_ros.values.time import NS_PER_S
from openvla_ros.values.verdict import Reason, SafetyVerdict
from openvla_ros.viewing import shown
from openvla_ros.viewing.robot_figure import RobotFigure
from openvla_ros.viewing.shown import Moment, Shown
from openvla_ros.viewing.trail import Pace, Trail

# Commands have the driver's own topic: these are their roles here.
ARM_COMMAND, GRIPPER_COMMAND = "command/arm", "command/gripper"
POLICY_WORDS = "policy/instruction"  # the instruction in force, where a policy runs
JPEG_QUALITY = 95  # of images that come raw, or have to be turned
FIGURE_PERIOD_S = 0.04  # how often the links and the tool are placed anew
PROBLEM_PERIOD_S = 1.0  # how often the same topic's problems are told
TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
# Types of command that are plain positions of the arm's joints, in order → the field.
POSITIONS = {"std_msgs/msg/Float64MultiArray": "data", "interbotix_xs_msgs/msg/JointGroupCommand": "cmd"}
LEVELS: tuple[shown.Level, ...] = ("info", "warning", "error", "error")  # of a DiagnosticStatus; 3: stale
PREFIXES = {"probability/": shown.PROBABILITY, "entropy/": shown.ENTROPY}


class MessageView:
    """Turns one robot's messages into what is shown, in the order in which they were received."""

    def __init__(
        self, profile: RobotProfile, definitions: Mapping[str, str], figure: RobotFigure | None
    ) -> None:
        """``definitions``: of every message type that comes. Without a figure no links are placed."""
        self._profile, self._figure, self._space = profile, figure, profile.space()
        self._decode = cdr.MessageDecoder(definitions)
        self._cameras = {f"camera/{camera.name}/image_raw": camera for camera in profile.cameras}
        self._views: dict[str, Callable[[str, Moment, Any], Iterator[Shown]]] = {
            "joint_states": self._joint_state,
            ARM_COMMAND: self._arm_command,
            GRIPPER_COMMAND: self._gripper_command,
            "controller/target_pose": partial(self._tool_pose, shown.COMMANDED),
            "controller/verdict": self._verdict,
            "policy/action_chunk": partial(self._chunk, "policy"),
            "teleop/action_chunk": partial(self._chunk, "teleop"),
            "/diagnostics": self._diagnostics,
        }
        for role in ("instruction", "recorder/instruction", POLICY_WORDS):
            self._views[role] = partial(self._instruction, role)
        if figure is None:  # otherwise the measured joints say it, at their own stamps
            self._views["controller/current_pose"] = partial(self._tool_pose, shown.MEASURED)
        self._pace = Pace(FIGURE_PERIOD_S)
        self._tool_paces = {path: Pace(FIGURE_PERIOD_S) for path in (shown.MEASURED, shown.COMMANDED)}
        self._trails = {path: Trail() for path in (shown.MEASURED, shown.COMMANDED)}
        self._target: Pose | None = None  # the newest commanded one
        self._joints: Float | None = None  # (J,) the newest measured ones
        self._words: dict[str, str] = {}  # role → the newest instruction
        self._levels: dict[str, int] = {}  # of each component's diagnostics
        self._problems: dict[str, Pace] = {}

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles of which something is shown."""
        return (*self._cameras, *self._views)

    def show(self, role: str, type_name: str, data: cdr.Bytes, received_ns: int) -> Iterator[Shown]:
        """Yield what is shown of one message; nothing for a role that is not shown."""
        try:
            if role in self._cameras:
                yield self._image(self._cameras[role], type_name, data, received_ns)
            elif role in self._views:
                message = self._decode(type_name, data)
                moment = Moment(_stamp_ns(message) or received_ns, received_ns)
                yield from self._views[role](type_name, moment, message)
        except (DatasetError, ValueError) as error:  # InvalidValueError among them
            yield from self._problem(role, received_ns, str(error))

    def _problem(self, role: str, received_ns: int, text: str) -> Iterator[Shown]:
        if self._problems.setdefault(role, Pace(PROBLEM_PERIOD_S)).due(received_ns):
            moment = Moment(received_ns, received_ns)
            yield shown.LogText(shown.PROBLEMS, moment, f"{role}: {text}", "warning")

    def _image(self, camera: CameraProfile, type_name: str, data: cdr.Bytes, received_ns: int) -> Shown:
        path = f"{shown.CAMERA}/{camera.name}"
        moment = Moment(cdr.header_stamp_ns(data), received_ns)
        if type_name == cdr.COMPRESSED_IMAGE and not camera.rotate_deg:
            stored = bytes(cdr.parse_compressed_image(data)[1])
            kind = image_format(stored)
            if kind in ("jpeg", "png"):
                return shown.EncodedImage(path, moment, stored, kind)  # type: ignore[arg-type]
        image = upright(camera, cdr.decode_image(type_name, data))
        return shown.EncodedImage(path, moment, encode_jpeg(image, JPEG_QUALITY), "jpeg")

    def _joint_state(self, _type_name: str, moment: Moment, message: Any) -> Iterator[Shown]:
        sample = arm_sample(self._profile, message.name, message.position)
        if sample is None:
            return  # of another driver
        arm, gripper = self._profile.arm, self._profile.gripper
        positions = sample.select(arm.joints)
        (finger_m,) = sample.select((gripper.joint,))
        yield _scalars(shown.JOINTS, shown.MEASURED, moment, arm.joints, positions)
        yield _opening(shown.MEASURED, moment, gripper.opening(float(finger_m)))
        self._joints = positions
        if self._figure is not None and self._pace.due(moment.stamp_ns):
            yield shown.LinkPoses(shown.ARM, moment, self._figure.poses(positions, float(finger_m)))
            yield from self._placed(shown.MEASURED, moment, self._figure.tool(positions))

    def _tool_pose(self, kind: str, _type_name: str, moment: Moment, message: Any) -> Iterator[Shown]:
        p, q = message.pose.position, message.pose.orientation
        pose = Pose.from_quaternion([p.x, p.y, p.z], [q.x, q.y, q.z, q.w])
        if kind == shown.COMMANDED:
            self._target = pose
        if self._tool_paces[kind].due(moment.stamp_ns):
            yield from self._placed(kind, moment, pose)

    def _placed(self, kind: str, moment: Moment, pose: Pose) -> Iterator[Shown]:
        yield shown.ToolPose(f"{shown.TOOL}/{kind}", moment, pose)
        points = self._trails[kind].add(moment.stamp_ns, pose.position)
        if points is not None:
            yield shown.Line(f"{shown.TRAIL}/{kind}", moment, points)

    def _arm_command(self, type_name: str, moment: Moment, message: Any) -> Iterator[Shown]:
        joints = self._profile.arm.joints
        if type_name == TRAJECTORY:
            if not message.points:
                return
            first = message.points[0]  # what is due now; the stop follows it
            values = _selected(message.joint_names, first.positions, joints)
            delay_ns = int(first.time_from_start.sec) * NS_PER_S + int(first.time_from_start.nanosec)
            moment = Moment(moment.stamp_ns + delay_ns, moment.received_ns)
        elif type_name in POSITIONS:
            values = np.array(getattr(message, POSITIONS[type_name]), np.float64)
            if values.shape != (len(joints),):
                raise InvalidValueError(f"a command of {values.size} numbers for {len(joints)} joints")
        else:
            return  # a pose or a velocity of the tool, whose path is shown
        yield _scalars(shown.JOINTS, shown.COMMANDED, moment, joints, values)

    def _gripper_command(self, type_name: str, moment: Moment, message: Any) -> Iterator[Shown]:
        gripper = self._profile.gripper
        if type_name != TRAJECTORY or not message.points:
            return
        (position,) = _selected(message.joint_names, message.points[-1].positions, (gripper.joint,))
        yield _opening(shown.COMMANDED, moment, gripper.opening(float(position)))

    def _chunk(self, source: str, _type_name: str, moment: Moment, message: Any) -> Iterator[Shown]:
        names, columns = self._space.names, tuple(message.joint_names)
        width = len(names)
        rows = [np.array(point.positions, np.float64) for point in message.points]
        if columns[:width] != names or not rows or any(len(row) != len(columns) for row in rows):
            raise InvalidValueError(
                f"a chunk of {len(rows)} steps with the dimensions {list(columns)}; the robot's are "
                f"{list(names)}"
            )
        values = np.array(rows)
        yield shown.Table(f"{shown.CHUNK}/{source}", moment, columns, values)
        yield _scalars(shown.ACTION, source, moment, names, values[0, :width])
        for prefix, path in PREFIXES.items():
            where = [i for i, column in enumerate(columns) if column.startswith(prefix)]
            if where:
                plain = tuple(columns[i].removeprefix(prefix) for i in where)
                yield _scalars(path, source, moment, plain, values[0, where])
        points = self._chunk_points(values[:, :width])
        if points is not None:
            yield shown.Line(f"{shown.CHUNK_PATH}/{source}", moment, points)

    def _chunk_points(self, actions: Float) -> Float | None:
        """Return where the chunk leads (T + 1, 3) from the newest commanded tool pose; None if unknown."""
        moves = tool_actions(self._space)
        if moves is not None:
            poses = [self._target]
            for action in actions:
                if poses[-1] is None:
                    return None
                poses.append(moves.after(poses[-1], action))
            return np.array([pose.position for pose in poses if pose is not None])
        if self._figure is None or self._joints is None:
            return None
        turns, joints = joint_actions(self._space), [self._joints]
        for action in actions:
            joints.append(turns.after(joints[-1], action))
        return np.array([self._figure.tool(q).position for q in joints])

    def _verdict(self, _type_name: str, moment: Moment, message: Any) -> Iterator[Shown]:
        values = {pair.key: pair.value for pair in message.values}
        try:
            outcome = "command" if values["outcome"] == "command" else "hold"
            reason = Reason(values.get("reason", "ok" if outcome == "command" else ""))
            verdict = SafetyVerdict(outcome, reason, values.get("detail", ""))  # type: ignore[arg-type]
        except (KeyError, ValueError) as error:
            raise InvalidValueError(
                f"{message.name!r} is not a verdict of the controller: {error}"
            ) from error
        text = str(verdict)
        if values.get("kind") == "refusal":
            whose = "a person's" if values.get("source") == PERSON else values.get("source", "")
            text = f"refused {whose} chunk; {text}" if whose else f"refused; {text}"
        else:
            state, owner = values.get("state", ""), values.get("owner", "")
            yield shown.Caption(shown.STATUS, moment, f"{state}, owner {owner}; {text}")
        yield shown.LogText(shown.VERDICTS, moment, text, LEVELS[min(int(message.level), 3)])

    def _instruction(self, role: str, _type_name: str, moment: Moment, message: Any) -> Iterator[Shown]:
        words = self._words[role] = str(message.data).strip()
        yield shown.LogText(shown.TOLD, moment, f"{role}: {words or '(none)'}")
        if role == POLICY_WORDS or POLICY_WORDS not in self._words:
            yield shown.Caption(shown.INSTRUCTION, moment, words)

    def _diagnostics(self, _type_name: str, moment: Moment, message: Any) -> Iterator[Shown]:
        for status in message.status:
            level = min(int(status.level), 3)
            if level != self._levels.get(status.name, 0):
                text = f"{status.name}: {status.message}"
                yield shown.LogText(shown.DIAGNOSTICS, moment, text, LEVELS[level])
            self._levels[status.name] = level
            for pair in status.values:
                if pair.key == "rate_hz":
                    name = re.sub(r"[^a-z0-9]+", "_", status.name.lower()).strip("_")
                    yield _scalars(shown.RATES, name, moment, ("rate_hz",), np.array([float(pair.value)]))


def _stamp_ns(message: Any) -> int:
    """Return the message's own stamp; 0 if it has none."""
    header = getattr(message, "header", None)
    return 0 if header is None else int(header.stamp.sec) * NS_PER_S + int(header.stamp.nanosec)


def _scalars(group: str, name: str, moment: Moment, names: tuple[str, ...], values: Float) -> Shown:
    return shown.Scalars(f"{group}/{name}", moment, names, values)


def _opening(kind: str, moment: Moment, opening: float) -> Shown:
    return _scalars(shown.GRIPPER, kind, moment, ("opening",), np.array([opening]))


def _selected(names: Any, values: Any, wanted: tuple[str, ...]) -> Float:
    index = {name: i for i, name in enumerate(names)}
    missing = [name for name in wanted if name not in index]
    if missing or len(values) != len(names):
        raise InvalidValueError(
            f"a command of {len(values)} positions for {list(names)}; the profile's joints are {list(wanted)}"
        )
    return np.array([values[index[name]] for name in wanted], np.float64)
