"""Shows things in Foxglove: an MCAP file of its own message types, or a server that Foxglove connects to.

The log time is when something was received; each message's ``timestamp`` is its own stamp. What Foxglove
has no type for is JSON with a schema. A client that comes late gets what is still valid again: the arm's
shapes, and the texts in force.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

import foxglove
from foxglove import channels, messages
from foxglove.websocket import ServerListener

from openvla_ros.errors import DeviceError
from openvla_ros.robot.kinematics.urdf import Shape
from openvla_ros.values.geometry import Pose
from openvla_ros.values.time import NS_PER_S
from openvla_ros.viewing import shown
from openvla_ros.viewing.foxglove_layout import arranged, layout_help
from openvla_ros.viewing.shown import Moment, Shown, Stage
from openvla_ros.viewing.viewer import ViewerRequest

PORT = 8765
LINK_COLOUR = messages.Color(r=0.6, g=0.6, b=0.62, a=1.0)
MEASURED_COLOUR = messages.Color(r=0.16, g=0.63, b=0.35, a=1.0)
COMMANDED_COLOUR = messages.Color(r=0.9, g=0.47, b=0.12, a=1.0)
CHUNK_COLOUR = messages.Color(r=0.27, g=0.43, b=0.9, a=1.0)
LINE_WIDTH_M = 0.004
LEVELS = {
    "info": messages.LogLevel.Info,
    "warning": messages.LogLevel.Warning,
    "error": messages.LogLevel.Error,
}
TIME_SCHEMA = {
    "type": "object",
    "title": "time",
    "properties": {"sec": {"type": "integer"}, "nsec": {"type": "integer"}},
}


class FoxgloveViewer:
    """A file for Foxglove, or a server on one port that its clients connect to."""

    def __init__(self, stage: Stage, request: ViewerRequest) -> None:
        """Create the file or start the server; raises ``DeviceError`` if that is not possible."""
        self._stage, self._context = stage, foxglove.Context()
        self._channels: dict[str, Any] = {}
        self._captions: dict[str, shown.Caption] = {}
        self._late = threading.Event()  # a client has subscribed since
        self._late.set()
        self._file: foxglove.MCAPWriter | None = None
        self._server: Any = None
        self.paced = self.stays = request.save is None
        if request.save is not None:
            try:
                self._file = foxglove.open_mcap(request.save, context=self._context)
            except OSError as error:
                raise DeviceError(f"cannot write {request.save}: {error}") from error
            self.where = f"{request.save}: open it in Foxglove\n{layout_help()}"
            self._write_layout(self._file)
        else:
            port = PORT if request.port is None else request.port
            self._server = server = self._serve(request.host, port)
            self.where = (
                f"in Foxglove: Open connection, Foxglove WebSocket, ws://{request.host}:{server.port}\n"
                f"{layout_help()}"
            )

    def show(self, thing: Shown) -> None:
        """Show one thing."""
        if self._late.is_set():
            self._late.clear()
            self._show_again(thing.moment)
        self._show(thing)

    def restart(self) -> None:
        """Have the clients forget what they have: time goes back."""
        self._captions.clear()
        if self._server is not None:
            self._server.clear_session()
            self._late.set()

    def flush(self) -> None:
        """Nothing waits here: a server sends at once, and a file is written when it is closed."""

    def close(self) -> None:
        """Finish the file, or end the server; raises ``DeviceError`` if the disk did not take everything."""
        if self._file is not None:
            try:
                self._file.close()
            except RuntimeError as error:
                raise DeviceError(f"the file is not complete: {error}; is its disk full?") from error
        if self._server is not None:
            self._server.stop()

    def _show(self, thing: Shown) -> None:
        at, base = _stamp(thing.moment), self._stage.base_frame
        match thing:
            case shown.EncodedImage(path=path, data=data, format=kind):
                image = messages.CompressedImage(timestamp=at, frame_id=path, data=data, format=kind)
                self._log(thing, channels.CompressedImageChannel, image)
            case shown.Scalars(names=names, values=values):
                numbers = {name: _number(value) for name, value in zip(names, values, strict=True)}
                self._log_json(thing, {name: {"type": ["number", "null"]} for name in names}, numbers)
            case shown.Table(columns=columns, values=values):
                rows = [[_number(value) for value in row] for row in values]
                words = {"type": "array", "items": {"type": "string"}}
                steps = {"type": "array", "items": {"type": "array", "items": {"type": "number"}}}
                self._log_json(
                    thing, {"columns": words, "steps": steps}, {"columns": list(columns), "steps": rows}
                )
            case shown.LogText(path=path, text=text, level=level):
                entry = messages.Log(timestamp=at, level=LEVELS[level], message=text, name=path)
                self._log(thing, channels.LogChannel, entry)
            case shown.Caption(path=path, text=text):
                self._captions[path] = thing
                self._log_json(thing, {"text": {"type": "string"}}, {"text": text})
            case shown.ToolPose(pose=pose):
                place = messages.PoseInFrame(timestamp=at, frame_id=base, pose=_pose(pose))
                self._log(thing, channels.PoseInFrameChannel, place)
            case shown.Line(path=path, points=points):
                line = messages.LinePrimitive(
                    thickness=LINE_WIDTH_M,
                    points=[messages.Point3(x=x, y=y, z=z) for x, y, z in points.tolist()],
                    color=_colour(path),
                    pose=_pose(Pose.identity()),
                )
                entity = messages.SceneEntity(timestamp=at, frame_id=base, id=path, lines=[line])
                self._log(thing, channels.SceneUpdateChannel, messages.SceneUpdate(entities=[entity]))
            case shown.LinkPoses(poses=poses):
                frames = messages.FrameTransforms(
                    transforms=[
                        messages.FrameTransform(
                            timestamp=at,
                            parent_frame_id=base,
                            child_frame_id=self._frame(link),
                            translation=_vector(*pose.position),
                            rotation=_quaternion(pose),
                        )
                        for link, pose in poses.items()
                        if self._frame(link) != base
                    ]
                )
                self._log(thing, channels.FrameTransformsChannel, frames)

    def _show_again(self, moment: Moment) -> None:
        """Show what does not change, and the texts in force."""
        shapes = {link: shapes for link, shapes in self._stage.shapes.items() if shapes}
        if shapes:
            entities = [_entity(link, self._frame(link), those, moment) for link, those in shapes.items()]
            update = messages.SceneUpdate(entities=entities)
            channel = self._channel(f"{shown.ARM}/shapes", channels.SceneUpdateChannel)
            channel.log(update, log_time=moment.received_ns)
        for caption in list(self._captions.values()):
            self._show(shown.Caption(caption.path, moment, caption.text))

    def _log(self, thing: Shown, kind: Callable[..., Any], message: Any) -> None:
        self._channel(thing.path, kind).log(message, log_time=thing.moment.received_ns)

    def _log_json(self, thing: Shown, properties: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        def make(topic: str, context: foxglove.Context) -> foxglove.Channel:
            schema = {
                "type": "object",
                "title": f"openvla_ros.{type(thing).__name__}",
                "properties": {"timestamp": TIME_SCHEMA, **properties},
            }
            return foxglove.Channel(topic, schema=schema, context=context)

        stamp_ns = thing.moment.stamp_ns
        at = {"sec": stamp_ns // NS_PER_S, "nsec": stamp_ns % NS_PER_S}
        text = json.dumps({"timestamp": at, **values}, ensure_ascii=False, allow_nan=False)
        self._channel(thing.path, make).log(text, log_time=thing.moment.received_ns)

    def _channel(self, path: str, make: Callable[..., Any]) -> Any:
        if path not in self._channels:
            self._channels[path] = make(f"/{path}", context=self._context)
        return self._channels[path]

    def _frame(self, link: str) -> str:
        return f"{self._stage.frame_prefix}{link}"

    def _serve(self, host: str, port: int) -> Any:
        late = self._late

        class Late(ServerListener):  # type: ignore[misc]  # its package has no types here
            def on_subscribe(self, client: Any, channel: Any) -> None:
                late.set()

        try:
            return foxglove.start_server(
                name=self._stage.title,
                host=host,
                port=port,
                context=self._context,
                server_listener=Late(),
            )
        except (OSError, RuntimeError, OverflowError) as error:
            raise DeviceError(
                f"cannot listen on {host}:{port}: {error}; choose another --host or --port ({PORT} is "
                "openvla serve's too)"
            ) from error

    def _write_layout(self, file: foxglove.MCAPWriter) -> None:
        data = arranged(self._stage).to_json().encode()
        file.attach(log_time=0, create_time=0, name="layout.json", media_type="application/json", data=data)


def _stamp(moment: Moment) -> messages.Timestamp:
    return messages.Timestamp(sec=moment.stamp_ns // NS_PER_S, nsec=moment.stamp_ns % NS_PER_S)


def _number(value: float) -> float | None:
    """Return a number that JSON can hold; None for NaN and infinities."""
    number = float(value)
    return number if abs(number) < float("inf") else None


def _vector(x: float, y: float, z: float) -> messages.Vector3:
    return messages.Vector3(x=float(x), y=float(y), z=float(z))


def _quaternion(pose: Pose) -> messages.Quaternion:
    x, y, z, w = pose.quaternion.tolist()
    return messages.Quaternion(x=x, y=y, z=z, w=w)


def _pose(pose: Pose) -> messages.Pose:
    return messages.Pose(position=_vector(*pose.position), orientation=_quaternion(pose))


def _entity(link: str, frame: str, shapes: tuple[Shape, ...], moment: Moment) -> messages.SceneEntity:
    """Return the shapes of one link, which move with its frame; a capsule is a cylinder and two spheres."""
    cubes, cylinders, spheres = [], [], []
    for shape in shapes:
        pose = Pose.from_matrix(shape.origin)
        match shape.kind:
            case "box":
                cubes.append(
                    messages.CubePrimitive(pose=_pose(pose), size=_vector(*shape.size), color=LINK_COLOUR)
                )
            case "sphere":
                spheres.append(_ball(pose, shape.size[0]))
            case "cylinder" | "capsule":
                radius, length = shape.size
                cylinders.append(
                    messages.CylinderPrimitive(
                        pose=_pose(pose),
                        size=_vector(2 * radius, 2 * radius, length),
                        bottom_scale=1.0,  # a cone otherwise
                        top_scale=1.0,
                        color=LINK_COLOUR,
                    )
                )
                if shape.kind == "capsule":
                    for end in (-length / 2, length / 2):
                        at = pose.position + pose.rotation[:, 2] * end
                        spheres.append(_ball(Pose(at, pose.rotation), radius))
    return messages.SceneEntity(
        timestamp=_stamp(moment),
        frame_id=frame,
        id=link,
        frame_locked=True,
        cubes=cubes,
        cylinders=cylinders,
        spheres=spheres,
    )


def _ball(pose: Pose, radius: float) -> messages.SpherePrimitive:
    size = _vector(2 * radius, 2 * radius, 2 * radius)
    return messages.SpherePrimitive(pose=_pose(pose), size=size, color=LINK_COLOUR)


def _colour(path: str) -> messages.Color:
    if path.startswith(shown.CHUNK_PATH):
        return CHUNK_COLOUR
    return COMMANDED_COLOUR if path.endswith(shown.COMMANDED) else MEASURED_COLOUR
