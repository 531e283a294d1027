"""Episodes of any source as rosbag2 folders, and those folders read back.

Every step becomes messages with the step's stamp: images, joint states, the tool's pose and a
chunk of one action, so that ``ros2 bag play`` and Foxglove show them. Such a bag is a sequence of
steps, not a recording: it has no robot profile, and its exact numbers are in a metadata record.
``bag_reader`` reads recordings.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.typesys import Stores, get_typestore

from openvla_ros.data.bags import cdr
from openvla_ros.data.bags.bag_folder import bag_folders, mcap_in, open_verified
from openvla_ros.data.bags.mcap_reader import McapFile
from openvla_ros.data.bags.message_definition import message_definition
from openvla_ros.data.bags.rosbag2_writer import BagWriter, QualityOfService, Topic
from openvla_ros.data.episodes.encoded_images import decode_image, encoded_frame, image_format
from openvla_ros.data.episodes.episode_columns import (
    build_episode,
    episode_columns,
    episode_metadata,
    parse_metadata,
)
from openvla_ros.errors import DatasetError
from openvla_ros.integrity.damage import reading
from openvla_ros.values.arrays import Image
from openvla_ros.values.episode import Episode, ImageSequence
from openvla_ros.values.geometry import Pose
from openvla_ros.values.time import NS_PER_S

EXPORT = "openvla_ros.export"  # the metadata record of description and columns

IMAGE, COMPRESSED = cdr.IMAGE, cdr.COMPRESSED_IMAGE
JOINTS, POSE = "sensor_msgs/msg/JointState", "geometry_msgs/msg/PoseStamped"
CHUNK, TEXT = "trajectory_msgs/msg/JointTrajectory", "std_msgs/msg/String"
_LATCHED = (QualityOfService(durability="transient_local", depth=1),)
_STORE = get_typestore(Stores.ROS2_KILTED)


def write_episode(folder: Path, episode: Episode) -> None:
    """Write an episode as one bag.

    Args:
        folder: The bag's folder; made if it does not exist, and must not hold a bag yet.
        episode: What to write. Encoded images are copied unchanged.

    Raises:
        DatasetError: The folder holds a bag already, or cannot be written.
    """
    writer = BagWriter(folder)
    writer.add_metadata(
        EXPORT, {"description": episode_metadata(episode), "columns": _pack(episode_columns(episode))}
    )
    topics = {name: writer.add_topic(topic) for name, topic in _topics(episode).items()}
    first = int(episode.stamps_ns[0])
    writer.write(topics["instruction"], _text(episode.instruction), first, first)
    for index in range(len(episode)):
        stamp = int(episode.stamps_ns[index])
        for name, data in _messages(episode, index).items():
            writer.write(topics[name], data, stamp, stamp)
        writer.flush_if_due()
    writer.close()


def _pack(columns: Mapping[str, NDArray[Any]]) -> str:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = dict(columns)
    np.savez_compressed(buffer, **arrays)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _topics(episode: Episode) -> dict[str, Topic]:
    kinds = {"instruction": TEXT, "policy/action_chunk": CHUNK}
    if episode.joint_positions is not None:
        kinds["joint_states"] = JOINTS
    if episode.poses is not None:
        kinds["controller/current_pose"] = POSE
    for camera, images in episode.images.items():
        kinds[_image_topic(camera, images)] = IMAGE if encoded_frame(images, 0) is None else COMPRESSED
    return {
        name: Topic(f"/{name}", kind, message_definition(kind), _LATCHED if kind == TEXT else ())
        for name, kind in kinds.items()
    }


def _image_topic(camera: str, images: ImageSequence) -> str:
    raw = f"camera/{camera}/image_raw"
    return raw if encoded_frame(images, 0) is None else f"{raw}/compressed"


def _messages(episode: Episode, index: int) -> dict[str, bytes]:
    stamp = int(episode.stamps_ns[index])
    found = {"policy/action_chunk": _chunk(episode, index)}
    if episode.joint_positions is not None:
        found["joint_states"] = _joints(episode.joint_positions[index], stamp)
    if episode.poses is not None:
        found["controller/current_pose"] = _pose(Pose.from_matrix(episode.poses[index]), stamp)
    for camera, images in episode.images.items():
        found[_image_topic(camera, images)] = _image(camera, images, index, stamp)
    return found


def _new(type_name: str, **fields: Any) -> Any:
    return _STORE.types[type_name](**fields)


def _serialised(message: Any, type_name: str) -> bytes:
    return bytes(_STORE.serialize_cdr(message, type_name))


def _header(stamp_ns: int, frame_id: str) -> Any:
    whole_s, rest_ns = divmod(stamp_ns, NS_PER_S)
    stamp = _new("builtin_interfaces/msg/Time", sec=whole_s, nanosec=rest_ns)
    return _new("std_msgs/msg/Header", stamp=stamp, frame_id=frame_id)


def _text(text: str) -> bytes:
    return _serialised(_new(TEXT, data=text), TEXT)


def _joints(positions: NDArray[np.float64], stamp_ns: int) -> bytes:
    names = [f"joint_{i + 1}" for i in range(len(positions))]
    none = np.zeros(0)
    header = _header(stamp_ns, "")
    message = _new(JOINTS, header=header, name=names, position=positions, velocity=none, effort=none)
    return _serialised(message, JOINTS)


def _pose(pose: Pose, stamp_ns: int) -> bytes:
    position = _new("geometry_msgs/msg/Point", **dict(zip("xyz", map(float, pose.position), strict=True)))
    turn = dict(zip("xyzw", map(float, pose.quaternion), strict=True))
    orientation = _new("geometry_msgs/msg/Quaternion", **turn)
    inner = _new("geometry_msgs/msg/Pose", position=position, orientation=orientation)
    return _serialised(_new(POSE, header=_header(stamp_ns, "base"), pose=inner), POSE)


def _chunk(episode: Episode, index: int) -> bytes:
    whole_s, rest_ns = divmod(round(NS_PER_S / episode.rate_hz), NS_PER_S)
    duration = _new("builtin_interfaces/msg/Duration", sec=whole_s, nanosec=rest_ns)
    none = np.zeros(0)
    point = _new(
        "trajectory_msgs/msg/JointTrajectoryPoint",
        positions=episode.actions[index],
        velocities=none,
        accelerations=none,
        effort=none,
        time_from_start=duration,
    )
    header = _header(int(episode.stamps_ns[index]), episode.space.frame)
    message = _new(CHUNK, header=header, joint_names=list(episode.space.names), points=[point])
    return _serialised(message, CHUNK)


def _image(camera: str, images: ImageSequence, index: int, stamp_ns: int) -> bytes:
    header, data = _header(stamp_ns, camera), encoded_frame(images, index)
    if data is not None:
        pixels = np.frombuffer(data, np.uint8)
        return _serialised(
            _new(COMPRESSED, header=header, format=image_format(data), data=pixels), COMPRESSED
        )
    image = images[index]
    height, width = image.shape[:2]
    message = _new(
        IMAGE, header=header, height=height, width=width, encoding="rgb8", is_bigendian=0, step=3 * width,
        data=np.ascontiguousarray(image).reshape(-1),
    )  # fmt: skip
    return _serialised(message, IMAGE)


class ExportedFrames:
    """Images of one camera in an exported bag."""

    def __init__(self, file: McapFile, camera: str, count: int) -> None:
        raw = f"/camera/{camera}/image_raw"
        channel = file.channel(raw) or file.channel(f"{raw}/compressed")
        if channel is None or len(file.times_ns(channel.id)) != count:
            have = 0 if channel is None else len(file.times_ns(channel.id))
            raise DatasetError(f"{file.path}: camera {camera!r} has {have} images for {count} steps")
        self._file, self._channel, self._count = file, channel, count

    def __len__(self) -> int:
        return self._count

    def _message(self, index: int) -> memoryview:
        return self._file.message(self._channel.id, range(self._count)[index]).data

    def __getitem__(self, index: int) -> Image:
        data = self._message(index)
        if self._channel.type == IMAGE:
            return cdr.parse_image(data).decode()
        return decode_image(bytes(cdr.parse_compressed_image(data)[1]), f"{self._file.path} {index}")

    def encoded(self, index: int) -> bytes | None:
        """Return image ``index`` as it is stored, or None for pixels."""
        if self._channel.type == IMAGE:
            return None
        return bytes(cdr.parse_compressed_image(self._message(index))[1])


class ExportedBagSource:
    """A folder of exported bags, or one of them."""

    format = "bag"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._folders = bag_folders(path)

    def __len__(self) -> int:
        return len(self._folders)

    def __getitem__(self, index: int) -> Episode:
        """Return episode ``index``; its images stay in the file."""
        path = self._folders[index]
        with reading(path):
            return self._read(path)

    def _read(self, folder: Path) -> Episode:
        file = open_verified(folder)
        path = file.path
        if EXPORT not in file.metadata:
            raise DatasetError(f"{path}: contains no exported episode, or is truncated")
        record = file.metadata[EXPORT]
        metadata = parse_metadata(record["description"], str(path))
        columns = _unpack(record["columns"])
        count = len(columns["stamp_ns"])
        images = {camera: ExportedFrames(file, camera, count) for camera in metadata["cameras"]}
        provenance = {"imported_format": self.format, "imported_path": str(path)}
        return build_episode(metadata, columns, images, provenance)


def _unpack(text: str) -> dict[str, NDArray[Any]]:
    with np.load(io.BytesIO(base64.b64decode(text))) as arrays:
        return dict(arrays)


def is_exported(path: Path) -> bool:
    """Return whether the first readable bag at ``path`` was written by ``write_episode``."""
    for folder in bag_folders(path):
        try:
            with McapFile(mcap_in(folder)) as file:
                if file.metadata:
                    return EXPORT in file.metadata
        except DatasetError:
            continue  # named when that episode is read
    return False
