"""The messages of ``make fuzz`` are unusual and legal, its judge can fail, and a short run passes."""

import json
import subprocess
import sys

import numpy as np
import pytest
from support.shared_data import REPOSITORY

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")
pytest.importorskip("mujoco", reason="needs the simulation (the extra [sim])")
sys.path.insert(0, str(REPOSITORY / "tools"))
pytest.importorskip("fuzz_nodes", reason="the tools are not beside the package")

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped, WrenchStamped
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParameters
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image, JointState, Joy
from std_msgs.msg import Bool, Float64MultiArray, String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint
from visualization_msgs.msg import MarkerArray

import fuzz_nodes
import odd_messages
from fuzz_watch import COORDINATES, STATES, Watch
from odd_messages import OddMessages
from openvla_ros.profile import load_profile
from openvla_ros.robot.safety.chunk import ChunkChecks
from openvla_ros.ros.messages import to_received_chunk

PROFILE = load_profile("sim_widowx")
ARM = PROFILE.arm
ROBOT = odd_messages.Robot(
    ARM.joints, PROFILE.gripper.joint, PROFILE.space().names, PROFILE.action_frame_id(), ARM.neutral
)
KINDS = (
    JointState, JointTrajectory, Image, String, Bool, Joy, PoseStamped, WrenchStamped, DiagnosticArray,
    MarkerArray, Float64MultiArray, SetParameters.Request, ChangeState.Request,
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_message_is_legal_and_the_seed_decides(kind, monkeypatch):
    monkeypatch.setattr(odd_messages.time, "time", lambda: 1.8e9)
    one, two, other = OddMessages(1, ROBOT), OddMessages(1, ROBOT), OddMessages(2, ROBOT)
    first = [one.make(kind) for _ in range(8)]
    for message in first:
        serialize_message(message)  # raises on what the type does not allow
    # As words: NaN equals nothing, and what lies between the fields of a serialised message is anything.
    assert repr(first) == repr([two.make(kind) for _ in range(8)])
    assert repr(first) != repr([other.make(kind) for _ in range(8)])


def test_they_are_unusual_in_every_way():
    odd = OddMessages(0, ROBOT)
    states = [odd.make(JointState) for _ in range(300)]
    assert any(not s.position and s.name for s in states)
    assert any(len(s.name) > 10_000 for s in states)
    assert any(len(set(s.name)) < len(s.name) for s in states)
    assert any(np.isnan(s.position).any() for s in states)
    assert any(set(ARM.joints) <= set(s.name) for s in states)
    assert {s.header.stamp.sec for s in states} >= {0, -1, -(2**31), 2**31 - 1}
    images = [odd.make(Image) for _ in range(100)]
    assert any(len(image.data) < image.height * image.step for image in images)
    assert any(len(odd.make(String).data) > 100_000 for _ in range(300))


def test_no_trajectory_and_no_chunk_can_be_carried_out():
    odd, checks = OddMessages(0, ROBOT), ChunkChecks(PROFILE)
    for _ in range(300):
        message = odd.make(JointTrajectory)
        stamp_ns = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
        chunk = to_received_chunk(message, PROFILE.space())
        assert not checks.check(chunk, now_ns=stamp_ns).commands
        right = sorted(message.joint_names) == sorted(ARM.joints) and message.points
        whole = right and all(len(p.positions) == len(ARM.joints) for p in message.points)
        finite = whole and all(np.isfinite(p.positions).all() for p in message.points)
        times = [p.time_from_start.sec + 1e-9 * p.time_from_start.nanosec for p in message.points]
        assert not finite or not (np.diff(times) > 0).all() or len(times) < 1


def test_nobody_holds_the_dead_mans_switch():
    odd = OddMessages(0, ROBOT)
    assert not any(any(odd.make(Joy).buttons) for _ in range(100))


@pytest.mark.parametrize(
    "changes",
    [
        {"watched": 0},
        {"exits": 1}, {"unanswered": 1}, {"answer_ms": float("inf")}, {"answer_ms": float("nan")},
        {"diagnostics": False}, {"moved_rad": 0.1}, {"commanded_rad": 0.1},
    ],
)  # fmt: skip
def test_the_judge_can_fail(changes):
    good = {"exits": 0, "unanswered": 0, "answer_ms": 3.0, "diagnostics": True, "watched": 9}
    assert fuzz_nodes.Row(**good).passed
    assert not fuzz_nodes.Row(**{**good, **changes}).passed


class Topics:
    """The subscriptions of a watch, without ROS."""

    def __init__(self):
        self.callbacks = {}

    def create_subscription(self, kind, topic, callback, profile):
        self.callbacks[topic] = callback


def test_the_watch_sees_joints_and_commands_move_on_the_topics_that_count():
    topics = Topics()
    watch, still = Watch(topics, PROFILE), list(ARM.neutral)
    moved = [still[0] + 0.1, *still[1:]]

    def say(topic, kind, position):
        topics.callbacks[topic](
            JointTrajectory(points=[JointTrajectoryPoint(positions=position)])
            if kind is JointTrajectory
            else JointState(position=[*position, 0.03])
        )

    for witness, other in ((COORDINATES, STATES), (STATES, COORDINATES)):
        watch.begin(witness, commands=False)
        for position in (still, moved):
            say(other, JointState, position)
            say("arm_controller/joint_trajectory", JointTrajectory, position)
        assert watch.moved == {"joints": 0.0, "commands": 0.0}
        say(witness, JointState, still)
        say(witness, JointState, moved)
        assert watch.moved["joints"] == pytest.approx(0.1)
    assert watch.still == tuple(still)
    watch.begin(COORDINATES, commands=True)
    say("arm_controller/joint_trajectory", JointTrajectory, still)
    say("arm_controller/joint_trajectory", JointTrajectory, moved)
    assert watch.moved["commands"] == pytest.approx(0.1)


@pytest.mark.ros
def test_a_short_run_ends_no_node_and_moves_nothing(ros_domain):
    program = [sys.executable, fuzz_nodes.__file__, "--messages", "60", "--flood-s", "0.1"]
    nodes = [a for node in ("controller", "setpoints", "policy") for a in ("--node", node)]
    done = subprocess.run([*program, *nodes], capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["pass"]
    assert last["nodes"].keys() == {"controller", "setpoints", "policy"}
    assert all(row["sent"] >= 60 and row["topics"] for row in last["nodes"].values())
    assert last["nodes"]["controller"]["refused"] > 10
