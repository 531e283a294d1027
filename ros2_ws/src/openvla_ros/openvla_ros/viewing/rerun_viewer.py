"""Shows things in rerun: a file, its own window, or its page in a browser.

Two timelines: ``stamp`` (a message's own stamp) and ``received``. Every call is strict: rerun otherwise only
warns about what it cannot show.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import rerun as rr
import rerun.blueprint as rrb

from openvla_ros.errors import DeviceError
from openvla_ros.robot.kinematics.urdf import Shape
from openvla_ros.values.geometry import Pose
from openvla_ros.viewing import shown
from openvla_ros.viewing.rerun_process import RerunProcess
from openvla_ros.viewing.shown import Moment, Shown, Stage
from openvla_ros.viewing.viewer import ViewerRequest

APPLICATION = "openvla_ros"
STAMP, RECEIVED = "stamp", "received"
LINK_COLOUR, MEASURED_COLOUR, COMMANDED_COLOUR = (150, 152, 156), (40, 160, 90), (230, 120, 30)
CHUNK_COLOUR = (70, 110, 230)
LINE_RADIUS_M, AXIS_M = 0.002, 0.05
FLUSH_S = 2.0  # how long to wait before looking whether rerun's program is still there
LEVELS = {"info": "INFO", "warning": "WARN", "error": "ERROR"}


class RerunViewer:
    """One rerun recording that is written, or looked at while it is made."""

    paced = False

    def __init__(self, stage: Stage, request: ViewerRequest) -> None:
        """Create the file or start rerun's program; raises ``DeviceError`` if that is not possible."""
        self._stream = rr.RecordingStream(APPLICATION)
        self._stream.set_log_time_enabled(False)
        self._stream.set_log_tick_enabled(False)
        self._named: set[str] = set()
        self._process: RerunProcess | None = None
        layout = blueprint(stage)
        if request.save is not None:
            try:
                self._stream.save(request.save, default_blueprint=layout)
            except RuntimeError as error:
                raise DeviceError(f"cannot write {request.save}: {error}") from error
            self.where = f"{request.save}: rerun {request.save}"
        else:
            self._process = RerunProcess(request)
            self._stream.connect_grpc(self._process.data_url, default_blueprint=layout)
            self.where = self._process.where
        self.stays = request.save is None and request.serve
        self._stream.send_recording_name(stage.title)
        self._set(stage)

    def show(self, thing: Shown) -> None:
        """Show one thing."""
        self._at(thing.moment)
        match thing:
            case shown.EncodedImage(path=path, data=data, format=kind):
                self._log(path, rr.EncodedImage(contents=data, media_type=f"image/{kind}"))
            case shown.Scalars(path=path, names=names, values=values):
                self._name(path, names)
                self._log(path, rr.Scalars(values))
            case shown.Table(path=path, columns=columns, values=values):
                self._log(path, rr.Tensor(values, dim_names=("step", "dimension")))
                self._log(f"{path}/columns", rr.AnyValues(columns=list(columns)))
            case shown.LogText(path=path, text=text, level=level):
                self._log(path, rr.TextLog(text, level=LEVELS[level]))
            case shown.Caption(path=path, text=text):
                self._log(path, rr.TextDocument(text or "(none)"))
            case shown.ToolPose(path=path, pose=pose):
                self._log(path, _transform(pose))
            case shown.Line(path=path, points=points):
                colour = _colour(path)
                self._log(path, rr.LineStrips3D([points], colors=[colour], radii=[LINE_RADIUS_M]))
            case shown.LinkPoses(path=path, poses=poses):
                for link, pose in poses.items():
                    self._log(f"{path}/{link}", _transform(pose))

    def restart(self) -> None:
        """Nothing: a viewer that is not paced is shown everything once."""

    def flush(self) -> None:
        """Hand over everything so far; raises ``DeviceError`` if rerun or the disk does not take it."""
        process = self._process
        try:
            if process is None:
                self._stream.flush()
                return
            while True:  # without a limit it waits for ever for a program that has ended
                try:
                    self._stream.flush(timeout_sec=FLUSH_S)
                    return
                except RuntimeError:
                    if not process.alive:
                        raise
        except RuntimeError as error:
            why = "is the disk full?" if process is None else process.complaint()
            raise DeviceError(f"rerun did not take everything: {error}; {why}") from error

    def close(self) -> None:
        """Hand over everything; rerun's window stays open, its page does not."""
        try:
            self.flush()
        finally:
            self._stream.disconnect()
            if self._process is not None:
                self._process.close()

    def _log(self, path: str, entity: rr.AsComponents, static: bool = False) -> None:
        self._stream.log(path, entity, static=static, strict=True)

    def _at(self, moment: Moment) -> None:
        for timeline, ns in ((STAMP, moment.stamp_ns), (RECEIVED, moment.received_ns)):
            self._stream.set_time(timeline, timestamp=np.datetime64(ns, "ns"))

    def _name(self, path: str, names: tuple[str, ...]) -> None:
        if path not in self._named:
            self._named.add(path)
            self._log(path, rr.SeriesLines(names=list(names)), static=True)

    def _set(self, stage: Stage) -> None:
        """Log what does not change."""
        self._log("/", rr.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
        for kind in (shown.MEASURED, shown.COMMANDED):
            self._log(f"{shown.TOOL}/{kind}", rr.TransformAxes3D(AXIS_M), static=True)
        for link, shapes in stage.shapes.items():
            for kind in sorted({shape.kind for shape in shapes}):
                same = [shape for shape in shapes if shape.kind == kind]
                self._log(f"{shown.ARM}/{link}/{kind}", _solids(kind, same), static=True)


def blueprint(stage: Stage) -> rrb.Blueprint:
    """Return the arrangement of the views: the arm, the cameras and words, the plots and the log."""
    cameras = [rrb.Spatial2DView(origin=f"{shown.CAMERA}/{name}", name=name) for name in stage.cameras]
    plots = (
        ("joints [rad]", (shown.JOINTS,)),
        ("gripper, 1: open", (shown.GRIPPER,)),
        ("actions", (shown.ACTION,)),
        ("probability and entropy of the chosen bins", (shown.PROBABILITY, shown.ENTROPY)),
        ("rates [Hz]", (shown.RATES,)),
    )
    scene = [f"+ /{path}/**" for path in (shown.ARM, shown.TOOL, shown.TRAIL, shown.CHUNK_PATH)]
    return rrb.Blueprint(
        rrb.Horizontal(
            rrb.Vertical(
                rrb.Spatial3DView(origin="/", contents=scene, name=f"arm in {stage.base_frame}"),
                rrb.TextLogView(origin="/log", name="verdicts, instructions, problems"),
                row_shares=[3, 1],
            ),
            rrb.Vertical(
                *cameras,
                rrb.TextDocumentView(origin=shown.INSTRUCTION, name="instruction in force"),
                rrb.TextDocumentView(origin=shown.STATUS, name="controller"),
                row_shares=[3] * len(cameras) + [1, 1],
            ),
            rrb.Vertical(
                *(
                    rrb.TimeSeriesView(origin="/", contents=[f"+ /{p}/**" for p in paths], name=name)
                    for name, paths in plots
                )
            ),
            column_shares=[4, 3, 4],
        ),
        rrb.TimePanel(timeline=STAMP),
        collapse_panels=True,
    )


def _transform(pose: Pose) -> rr.Transform3D:
    return rr.Transform3D(translation=pose.position, quaternion=pose.quaternion)


def _solids(kind: str, shapes: Iterable[Shape]) -> rr.AsComponents:
    """Return the shapes of one kind, filled."""
    poses = [Pose.from_matrix(shape.origin) for shape in shapes]
    at, turned = [pose.position for pose in poses], [pose.quaternion for pose in poses]
    sizes = np.array([shape.size for shape in shapes])
    solid = {"colors": [LINK_COLOUR] * len(poses), "fill_mode": "solid"}
    match kind:
        case "box":
            return rr.Boxes3D(sizes=sizes, centers=at, quaternions=turned, **solid)
        case "cylinder":
            return rr.Cylinders3D(
                radii=sizes[:, 0], lengths=sizes[:, 1], centers=at, quaternions=turned, **solid
            )
        case "capsule":  # which begins at its first end
            ends = [
                p.position - p.rotation[:, 2] * length / 2
                for p, length in zip(poses, sizes[:, 1], strict=True)
            ]
            return rr.Capsules3D(
                radii=sizes[:, 0], lengths=sizes[:, 1], translations=ends, quaternions=turned, **solid
            )
        case _:
            return rr.Ellipsoids3D(radii=sizes[:, 0], centers=at, **solid)


def _colour(path: str) -> tuple[int, int, int]:
    if path.startswith(shown.CHUNK_PATH):
        return CHUNK_COLOUR
    return COMMANDED_COLOUR if path.endswith(shown.COMMANDED) else MEASURED_COLOUR
