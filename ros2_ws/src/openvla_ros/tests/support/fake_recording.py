"""A made-up run of the simulated WidowX, written as the recorder writes it, without ROS."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from rosbags.typesys import Stores, get_typestore

from openvla_ros.data.bags import cdr
from openvla_ros.data.bags.bag_metadata import QUALITY, EpisodeMetadata
from openvla_ros.data.bags.message_definition import message_definition
from openvla_ros.data.bags.recording_folder import OUTCOME
from openvla_ros.data.bags.rosbag2_writer import BagWriter, Topic
from openvla_ros.profile import load_profile

STORE = get_typestore(Stores.ROS2_KILTED)
PROFILE = load_profile("sim_widowx")
MS = 1_000_000
START = 1_700_000_000_000_000_000
TYPES = {
    "camera/primary/image_raw": cdr.IMAGE,
    "joint_states": "sensor_msgs/msg/JointState",
    "instruction": "std_msgs/msg/String",
    "policy/action_chunk": "trajectory_msgs/msg/JointTrajectory",
    "teleop/action_chunk": "trajectory_msgs/msg/JointTrajectory",
    "controller/target_pose": "geometry_msgs/msg/PoseStamped",
    "controller/verdict": "diagnostic_msgs/msg/DiagnosticStatus",
}


def make(kind: str, /, **fields):
    """A message of ``package/msg/Type`` in the rosbags type system."""
    return STORE.types[kind](**fields)


def header(stamp_ns: int, frame: str = ""):
    stamp = make("builtin_interfaces/msg/Time", sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return make("std_msgs/msg/Header", stamp=stamp, frame_id=frame)


def image_message(stamp_ns: int, image: np.ndarray):
    height, width, _ = image.shape
    return make(
        cdr.IMAGE, header=header(stamp_ns, "camera"), height=height, width=width, encoding="rgb8",
        is_bigendian=0, step=3 * width, data=np.ascontiguousarray(image).reshape(-1),
    )  # fmt: skip


def state_message(stamp_ns: int, positions: np.ndarray):
    names = [*PROFILE.arm.joints, PROFILE.gripper.joint]
    empty = np.zeros(0)
    return make(
        TYPES["joint_states"], header=header(stamp_ns), name=names, position=positions,
        velocity=empty, effort=empty,
    )  # fmt: skip


def chunk_message(stamp_ns: int, actions: np.ndarray):
    duration = STORE.types["builtin_interfaces/msg/Duration"]
    empty = np.zeros(0)
    points = [
        make(
            "trajectory_msgs/msg/JointTrajectoryPoint", positions=row, velocities=empty, accelerations=empty,
            effort=empty, time_from_start=duration(0, (i + 1) * 1000),
        )
        for i, row in enumerate(actions)
    ]  # fmt: skip
    return make(
        TYPES["policy/action_chunk"], header=header(stamp_ns, PROFILE.action_frame_id()),
        joint_names=list(PROFILE.space().names), points=points,
    )  # fmt: skip


def pose_message(stamp_ns: int, pose):
    point = make("geometry_msgs/msg/Point", **dict(zip("xyz", map(float, pose.position), strict=True)))
    turn = make("geometry_msgs/msg/Quaternion", **dict(zip("xyzw", map(float, pose.quaternion), strict=True)))
    return make(
        TYPES["controller/target_pose"], header=header(stamp_ns, "base_link"),
        pose=make("geometry_msgs/msg/Pose", position=point, orientation=turn),
    )  # fmt: skip


def verdict_message(**values: str):
    pairs = [make("diagnostic_msgs/msg/KeyValue", key=k, value=v) for k, v in values.items()]
    return make(
        TYPES["controller/verdict"], level=0, name="controller", message="", hardware_id="", values=pairs
    )


@dataclass
class Run:
    """The messages of a run: role → [(receive stamp, message)]."""

    messages: dict[str, list] = field(default_factory=lambda: {role: [] for role in TYPES})
    instruction: str = "lift the cube"
    outcome: str = "success"

    def add(self, role: str, received_ns: int, message) -> None:
        self.messages[role].append((received_ns, message))

    def write(self, folder: Path, jpeg: bool = False, **notes: str) -> Path:
        profile = PROFILE
        if jpeg:
            profile = replace(PROFILE, recording=replace(PROFILE.recording, image_format="jpeg"))
        writer = BagWriter(folder)
        topics = {role: f"/{role}" for role in TYPES}
        metadata = EpisodeMetadata(profile, topics, self.instruction, "ada", 0, START)
        for name, values in metadata.records().items():
            writer.add_metadata(name, values)
        kinds = dict(TYPES)
        if jpeg:
            kinds["camera/primary/image_raw"] = cdr.COMPRESSED_IMAGE
        numbers = {
            role: writer.add_topic(Topic(f"/{role}", kind, message_definition(kind)))
            for role, kind in kinds.items()
        }
        flat = [(t, role, m) for role, found in self.messages.items() for t, m in found]
        for received, role, message in sorted(flat, key=lambda item: item[0]):
            data = bytes(STORE.serialize_cdr(message, TYPES[role]))
            if jpeg and role == "camera/primary/image_raw":
                data = cdr.compress_image(data, 95)
            writer.write(numbers[role], data, received, received)
        writer.add_metadata(OUTCOME, {"outcome": self.outcome, "recovered": "false", **notes})
        writer.add_metadata(QUALITY, {"warnings": '["camera primary was black for 3.0 s"]'})
        writer.close()
        return folder


def image(rng: np.random.Generator) -> np.ndarray:
    """Blocks of 8 pixels, which JPEG keeps nearly as they are."""
    return np.kron(rng.integers(0, 255, (3, 4, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))


def steady_run(seconds: float = 4.0, seed: int = 0) -> Run:
    """Camera 10 Hz, states 100 Hz with jitter and latency, and a policy's chunk for every second image."""
    rng = np.random.default_rng(seed)
    run = Run()
    run.add("instruction", START, make(TYPES["instruction"], data=run.instruction))
    neutral = np.array([*PROFILE.arm.neutral, 0.026])
    for i in range(int(seconds * 100)):
        stamp = START + i * 10 * MS + int(rng.integers(0, 4)) * MS
        run.add("joint_states", stamp + 2 * MS, state_message(stamp, neutral + 0.01 * np.sin(i / 30)))
    space = PROFILE.space()
    for i in range(int(seconds * 10)):
        stamp = START + 100 * MS + i * 100 * MS + int(rng.integers(0, 9)) * MS
        run.add("camera/primary/image_raw", stamp + 30 * MS, image_message(stamp, image(rng)))
        if i % 2 == 0:
            action = rng.uniform(space.lower, space.upper)
            run.add("policy/action_chunk", stamp + 90 * MS, chunk_message(stamp, action[None]))
    return run
