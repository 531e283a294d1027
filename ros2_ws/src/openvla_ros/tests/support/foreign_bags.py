"""Recordings as others make them: their topics, rosbags' writer, every storage, compression and split."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from support.fake_recording import MS, PROFILE, START, STORE, TYPES, image, image_message, make, state_message
from support.openvla_program import run as openvla

from openvla_ros.data.bags import cdr
from openvla_ros.data.datasets.open_dataset import SourceRequest
from openvla_ros.errors import DatasetError
from openvla_ros.profile import RobotProfile, dump_profile
from openvla_ros.robot.kinematics.chain import KinematicChain

CAMERA, JOINTS, ACTIVE, TASK = "/cam/color/image_raw", "/arm/joint_states", "/episode_active", "/task"
BOOL, TEXT = "std_msgs/msg/Bool", "std_msgs/msg/String"
SPEED = 0.3  # rad/s of the waist
JPEG_QUALITY = 95
STEP = 200 * MS


def foreign_profile() -> RobotProfile:
    """The simulated WidowX as somebody else's cell names its topics."""
    (camera,) = PROFILE.cameras
    return replace(
        PROFILE,
        name="foreign",
        cameras=(replace(camera, topic=CAMERA, width=32, height=24),),
        state=replace(PROFILE.state, joint_states_topic=JOINTS),
    )


def write_profile(path: Path, profile: RobotProfile | None = None) -> Path:
    path.write_text(dump_profile(profile or foreign_profile()), encoding="utf-8")
    return path


@dataclass
class ForeignRun:
    """Messages by topic: (receipt, message), with the type of each topic."""

    types: dict[str, str] = field(default_factory=dict)
    messages: dict[str, list] = field(default_factory=dict)

    def add(self, topic: str, kind: str, received_ns: int, message) -> None:
        self.types[topic] = kind
        self.messages.setdefault(topic, []).append((received_ns, message))

    def serialised(self) -> list[tuple[int, str, bytes]]:
        """Every message in order of receipt: (receipt, topic, bytes)."""
        rows = [
            (at, topic, m if isinstance(m, bytes) else bytes(STORE.serialize_cdr(m, self.types[topic])))
            for topic, found in self.messages.items()
            for at, m in found
        ]
        return sorted(rows, key=lambda row: row[0])


def waist(at_ns: int) -> float:
    """Where the waist is at a stamp: it turns at a constant speed."""
    return SPEED * (at_ns - START) * 1e-9


def turning_run(seconds: float = 4.0, jpeg: bool = False) -> ForeignRun:
    """The arm turns about its base at a constant speed; camera 10 Hz, states 100 Hz, no action chunks."""
    rng = np.random.default_rng(3)
    run = ForeignRun()
    rest = np.array([0.0, *PROFILE.arm.neutral[1:], 0.026])
    for i in range(round(seconds * 100)):
        stamp = START + i * 10 * MS
        positions = rest.copy()
        positions[0] = waist(stamp)
        positions[-1] = 0.015 + 0.022 * i / (seconds * 100)
        run.add(JOINTS, TYPES["joint_states"], stamp + 2 * MS, state_message(stamp, positions))
    for i in range(round(seconds * 10)):
        stamp = START + i * 100 * MS
        message = image_message(stamp, image(rng))
        if jpeg:
            data = cdr.compress_image(bytes(STORE.serialize_cdr(message, cdr.IMAGE)), JPEG_QUALITY)
            run.add(f"{CAMERA}/compressed", cdr.COMPRESSED_IMAGE, stamp + 30 * MS, data)
        else:
            run.add(CAMERA, cdr.IMAGE, stamp + 30 * MS, message)
    return run


def add_flags(run: ForeignRun, *changes: tuple[float, bool]) -> None:
    """Say when an episode is on: (second, on)."""
    for second, on in changes:
        run.add(ACTIVE, BOOL, START + round(second * 1e9), make(BOOL, data=on))


def write_bag(
    folder: Path, rows, types, storage: str = "sqlite3", compression: str = "none", version: int = 9
) -> Path:
    """Write serialised messages with rosbags."""
    writer = Writer(folder, version=version, storage_plugin=StoragePlugin[storage.upper()])
    writer.set_compression(CompressionMode[compression.upper()], CompressionFormat.ZSTD)
    with writer:
        known = {
            topic: writer.add_connection(topic, kind, typestore=STORE)
            if kind in STORE.types
            else writer.add_connection(topic, kind, msgdef="uint8 nothing", rihs01="RIHS01_0")
            for topic, kind in types.items()
        }
        for at_ns, topic, data in rows:
            writer.write(known[topic], at_ns, data)
    return folder


def write_run(folder: Path, run: ForeignRun, storage: str = "sqlite3", compression: str = "none") -> Path:
    return write_bag(folder, run.serialised(), run.types, storage, compression)


def write_split(folder: Path, run: ForeignRun, parts: int, storage: str, compression: str = "none") -> Path:
    """Write a bag in parts, as ``ros2 bag record --max-bag-duration`` leaves it."""
    rows = run.serialised()
    pieces = np.array_split(np.arange(len(rows)), parts)
    folder.mkdir()
    said = []
    for number, piece in enumerate(pieces):
        one = write_bag(
            folder / f"{folder.name}_{number}", [rows[i] for i in piece], run.types, storage, compression
        )
        said.append(yaml.safe_load((one / "metadata.yaml").read_text())["rosbag2_bagfile_information"])
        (file,) = (path for path in one.iterdir() if path.name != "metadata.yaml")
        file.rename(folder / file.name)
        (one / "metadata.yaml").unlink()
        one.rmdir()
    total = said[0]
    for other in said[1:]:
        for key in ("files", "relative_file_paths"):
            total[key] += other[key]
        total["message_count"] += other["message_count"]
        for mine, more in zip(
            total["topics_with_message_count"], other["topics_with_message_count"], strict=True
        ):
            mine["message_count"] += more["message_count"]
    total["duration"]["nanoseconds"] = rows[-1][0] - rows[0][0]
    (folder / "metadata.yaml").write_text(yaml.safe_dump({"rosbag2_bagfile_information": total}))
    return folder


def imported(bag, profile, tmp_path, *options, code=0):
    """The episodes that the verb makes, and what it prints."""
    output = tmp_path / "demos"
    done = openvla("import-bag", bag, "--robot", profile, "--output", output, *options, code=code)
    source = SourceRequest(output).open() if any(output.glob("episode_*")) else []
    return [source[i] for i in range(len(source))], done.output


def refused(bag, profile, match, *options):
    with pytest.raises(DatasetError, match=match):
        openvla("import-bag", bag, "--robot", profile, "--preview", *options)


def pixels(run, topic=CAMERA):
    """Stamp → image, of a run's raw camera."""
    return {
        m.header.stamp.sec * 10**9 + m.header.stamp.nanosec: m.data.reshape(24, 32, 3)
        for _, m in run.messages[topic]
    }


def check_turning(episode, run):
    """Analytic: turning about the base's z axis by ω dt, the tool at p moves by (R(ω dt) - 1) p."""
    images = pixels(run)
    forward = KinematicChain.from_profile(PROFILE.arm).forward
    space = episode.space
    turn = SPEED * space.step_s
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    for i, stamp in enumerate(episode.stamps_ns):
        np.testing.assert_array_equal(episode.images["primary"][i], images[int(stamp)])
        np.testing.assert_allclose(episode.joint_positions[i], [waist(int(stamp)), *PROFILE.arm.neutral[1:]])
        tool = forward(episode.joint_positions[i]).position
        np.testing.assert_allclose(episode.actions[i, :3], rotation @ tool - tool, atol=1e-12)
        np.testing.assert_allclose(episode.actions[i, 3:6], [0, 0, turn], atol=1e-12)
    after = episode.stamps_ns + STEP
    opening = (after - START) / (max(t for t, _ in run.messages[JOINTS]) - 2 * MS + 10 * MS - START)
    np.testing.assert_allclose(episode.actions[:, 6], opening, atol=1e-9)
