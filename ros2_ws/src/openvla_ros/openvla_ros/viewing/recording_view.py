"""A recording to what is shown of it, in order of time: every message of ours, the steps of any other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from openvla_ros.data.bags.bag_export import is_exported
from openvla_ros.data.bags.bag_folder import bag_folders, mcap_in, open_verified
from openvla_ros.data.bags.bag_metadata import EpisodeMetadata, parse_metadata
from openvla_ros.data.bags.mcap_reader import McapFile
from openvla_ros.data.datasets.open_dataset import SourceRequest, detect_format
from openvla_ros.data.episodes.encoded_images import encoded_frame, image_format
from openvla_ros.errors import DatasetError
from openvla_ros.preprocessing.image_encoding import encode_jpeg
from openvla_ros.profile import RobotProfile
from openvla_ros.values.episode import Episode, ImageSequence
from openvla_ros.values.geometry import Pose
from openvla_ros.viewing import shown
from openvla_ros.viewing.message_view import ARM_COMMAND, GRIPPER_COMMAND, JPEG_QUALITY, MessageView
from openvla_ros.viewing.robot_figure import RobotFigure, figure_of, stage_of
from openvla_ros.viewing.shown import Moment, Shown, Stage
from openvla_ros.viewing.trail import Trail

RECORDED = "recorded"  # whose actions a dataset's are: it does not say


@dataclass(frozen=True, eq=False)
class RecordingView:
    """What is shown of one recorded episode."""

    stage: Stage
    things: Callable[[], Iterator[Shown]]  # from the beginning at each call
    not_shown: str = ""  # why the arm is not drawn; empty if it is
    missing: str = ""  # that the recording has no end; empty if it is complete


def view_recording(request: SourceRequest, number: int, profile: RobotProfile | None) -> RecordingView:
    """Return what is shown of episode ``number`` of a recording or dataset.

    ``profile`` is the robot's, for the arm of a dataset; a recording of ours contains its own. Raises
    ``DatasetError`` if there is no such episode or it cannot be read.
    """
    path = request.path
    if detect_format(path) == "bag" and not is_exported(path):
        folders = bag_folders(path)
        return view_bag(_chosen(folders, number, path))
    source = request.open()
    _check(number, len(source), path)
    return view_episode(source[number], profile)


def view_bag(path: Path) -> RecordingView:
    """Return every message of one recorded episode, that of an unfinished one as far as it goes.

    Raises ``DatasetError`` if an unfinished one has no message.
    """
    missing = ""
    with open_verified(path, unfinished=True) as file:
        metadata = parse_metadata(file.metadata, str(path))
        if not file.finished:
            missing = f"{path} is truncated: it is shown as far as it goes"
            if next(iter(file), None) is None:
                raise DatasetError(f"{path} is truncated, and has no message before its end")
    figure, why = figure_of(metadata.profile)
    things = partial(_messages, mcap_in(path), metadata, figure, missing)
    return RecordingView(stage_of(metadata.profile, figure, path.stem), things, why, missing)


def _messages(
    path: Path, metadata: EpisodeMetadata, figure: RobotFigure | None, missing: str
) -> Iterator[Shown]:
    profile = metadata.profile
    roles = {topic: command_role(profile, role) for role, topic in metadata.topics.items()}
    with McapFile(path) as file:
        view = MessageView(profile, {c.type: c.definition for c in file.channels}, figure)
        for number, message in enumerate(file):
            if not number:
                yield from _told(metadata, Moment(message.log_ns, message.log_ns))
            role = roles.get(message.channel.topic, "")
            last = Moment(message.log_ns, message.log_ns)
            yield from view.show(role, message.channel.type, message.data, message.log_ns)
        if missing:
            yield shown.LogText(shown.PROBLEMS, last, missing, "warning")


def view_episode(episode: Episode, profile: RobotProfile | None) -> RecordingView:
    """Return the steps of an episode of any format; the arm is drawn where ``profile`` has its joints."""
    figure, why = None, "no robot profile is given (--robot)"
    joints = episode.joint_positions
    if profile is not None and joints is not None:
        figure, why = figure_of(profile)
        if joints.shape[1] != len(profile.arm.joints):
            figure = None
            why = f"the episode has {joints.shape[1]} joints, {profile.name} {len(profile.arm.joints)}"
    elif joints is None:
        why = "the episode has no joint positions"
    names = () if joints is None else tuple(f"joint_{i}" for i in range(joints.shape[1]))
    if profile is not None and figure is not None:
        names = profile.arm.joints
    stage = Stage(
        title=episode.id,
        base_frame="base",
        frame_prefix="",
        shapes={} if figure is None else figure.covers.shapes,
        cameras=tuple(episode.images),
        joints=names,
        actions=episode.space.names,
    )
    things = partial(_steps, episode, stage, figure, profile)
    return RecordingView(stage, things, why if figure is None else "")


def command_role(profile: RobotProfile, role: str) -> str:
    """Return the role of a command for a role that is a driver's topic; any other unchanged."""
    commands = {profile.arm_backend.topic: ARM_COMMAND, profile.gripper_backend.topic: GRIPPER_COMMAND}
    return commands.get(role, role)


def _chosen(folders: list[Path], number: int, path: Path) -> Path:
    _check(number, len(folders), path)
    return folders[number]


def _check(number: int, count: int, path: Path) -> None:
    if not 0 <= number < count:
        raise DatasetError(f"{path}: no episode {number}; choose 0 .. {count - 1}")


def _told(metadata: EpisodeMetadata, moment: Moment) -> Iterator[Shown]:
    """Yield what the recorder noted: the instruction, the outcome, and its warnings."""
    if metadata.instruction:
        yield shown.Caption(shown.INSTRUCTION, moment, metadata.instruction)
    words = f"recorded for: {metadata.instruction or '(none)'}; outcome {metadata.outcome}"
    yield shown.LogText(shown.TOLD, moment, words)
    for warning in metadata.warnings:
        yield shown.LogText(shown.PROBLEMS, moment, f"recorder: {warning}", "warning")


def _steps(
    episode: Episode, stage: Stage, figure: RobotFigure | None, profile: RobotProfile | None
) -> Iterator[Shown]:
    trail = Trail()
    for i, stamp in enumerate(episode.stamps_ns):
        moment = Moment(int(stamp), int(stamp))
        if i == 0:
            yield shown.Caption(shown.INSTRUCTION, moment, episode.instruction)
            yield shown.LogText(shown.TOLD, moment, f"outcome {episode.outcome}")
        for camera, images in episode.images.items():
            yield _image(f"{shown.CAMERA}/{camera}", moment, images, i)
        action = episode.actions[i]
        yield shown.Scalars(f"{shown.ACTION}/{RECORDED}", moment, stage.actions, action)
        yield _gripper(shown.COMMANDED, moment, episode.space.opening(float(action[-1])))
        if episode.gripper is not None:
            yield _gripper(shown.MEASURED, moment, float(episode.gripper[i]))
        if episode.joint_positions is not None:
            q = episode.joint_positions[i]
            yield shown.Scalars(f"{shown.JOINTS}/{shown.MEASURED}", moment, stage.joints, q)
            if figure is not None and profile is not None:
                opening = 1.0 if episode.gripper is None else float(episode.gripper[i])
                poses = figure.poses(q, profile.gripper.position_m(opening))
                yield shown.LinkPoses(shown.ARM, moment, poses)
        if episode.poses is not None:
            pose = Pose.from_matrix(episode.poses[i])
            yield shown.ToolPose(f"{shown.TOOL}/{shown.MEASURED}", moment, pose)
            points = trail.add(moment.stamp_ns, pose.position)
            if points is not None:
                yield shown.Line(f"{shown.TRAIL}/{shown.MEASURED}", moment, points)


def _gripper(kind: str, moment: Moment, opening: float) -> Shown:
    return shown.Scalars(f"{shown.GRIPPER}/{kind}", moment, ("opening",), np.array([opening]))


def _image(path: str, moment: Moment, images: ImageSequence, index: int) -> Shown:
    stored = encoded_frame(images, index)
    kind = "" if stored is None else image_format(stored)
    if stored is not None and kind in ("jpeg", "png"):
        return shown.EncodedImage(path, moment, stored, kind)  # type: ignore[arg-type]
    return shown.EncodedImage(path, moment, encode_jpeg(images[index], JPEG_QUALITY), "jpeg")
