"""A viewer of a running robot over real DDS: it sees the newest, and nobody notices it."""

import threading

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")

import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from support.fake_robot import Spinning
from support.waiting import wait_until
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.discovery.rival_watch import command_topics
from openvla_ros.errors import DeviceError
from openvla_ros.live_view.robot_view import RobotView
from openvla_ros.live_view.viewed_topics import viewed_topics
from openvla_ros.profile import available_profiles, load_profile
from openvla_ros.ros import qos
from openvla_ros.ros.messages import to_image, to_joint_trajectory, to_stamp
from openvla_ros.ros.verdict_messages import VerdictReport, to_verdict_message
from openvla_ros.values.verdict import Reason, SafetyVerdict
from openvla_ros.viewing.message_view import ARM_COMMAND, MessageView
from openvla_ros.viewing.robot_figure import RobotFigure

pytestmark = pytest.mark.ros
PROFILE = load_profile("sim_widowx")
NAMESPACE = "/watched"


class Kept:
    """A viewer that keeps what it is shown, and takes its time for each image."""

    where, paced, stays = "", False, True

    def __init__(self):
        self.things, self.seen = {}, threading.Event()

    def show(self, thing):
        self.things.setdefault(thing.path, []).append(thing)


class FakeRobot(Node):
    """Publishes what a robot's nodes do, 100 times a second."""

    def __init__(self) -> None:
        super().__init__("robot", namespace=NAMESPACE)
        self.states = self.create_publisher(JointState, "joint_states", qos.STREAM_OUT)
        self.images = self.create_publisher(Image, "camera/primary/image_raw", qos.IMAGE_OUT)
        self.commands = self.create_publisher(JointTrajectory, "arm_controller/joint_trajectory", qos.COMMAND)
        self.verdicts = self.create_publisher(DiagnosticStatus, "controller/verdict", qos.VERDICT)
        self.words = self.create_publisher(String, "policy/instruction", qos.LATCHED)
        self.words.publish(String(data="lift the cube"))
        for reason in (Reason.TABLE, Reason.STALE, Reason.TILT):
            verdict = SafetyVerdict.hold(reason, "why")
            report = VerdictReport("state", verdict, "holding", "policy", True)
            self.verdicts.publish(to_verdict_message(report))
        self.sent = 0
        self.create_timer(0.01, self._tick)

    def _tick(self) -> None:
        self.sent += 1
        joints, stamp = list(PROFILE.arm.joints), self.get_clock().now().nanoseconds
        state = JointState(name=[*joints, PROFILE.gripper.joint])
        state.header.stamp = to_stamp(stamp)
        state.position = [self.sent * 1e-4] * 6 + [0.03]
        self.states.publish(state)
        self.commands.publish(to_joint_trajectory(joints, np.full((1, 6), self.sent * 1e-4), [0.0], stamp))
        self.images.publish(to_image(np.full((32, 32, 3), self.sent % 256, np.uint8), stamp, "camera"))


@pytest.fixture(scope="module")
def robot(ros_domain):
    rclpy.init()
    node = FakeRobot()
    with Spinning(node):
        yield node
    rclpy.shutdown()


@pytest.fixture
def watching(robot):
    """The viewer, while a robot is watched."""
    viewer, stop = Kept(), threading.Event()
    view = RobotView(PROFILE, RobotFigure.of(PROFILE), viewer, NAMESPACE)
    thread = threading.Thread(target=view.run, args=(stop, None, lambda text: None))
    thread.start()
    yield viewer
    stop.set()
    thread.join(10)
    assert not thread.is_alive()


def test_the_newest_is_seen_and_what_was_said_before_too(robot, watching):
    things = watching.things
    wait_until(lambda: len(things.get("joints/measured", ())) > 30)
    wait_until(lambda: {"joints/commanded", "camera/primary", "instruction", "log/verdict"} <= set(things))
    assert things["instruction"][-1].text == "lift the cube"
    assert [entry.text for entry in things["log/verdict"]] == [
        f"hold: {r} (why)" for r in ("table", "stale", "tilt")
    ]
    before = robot.sent
    wait_until(lambda: things["joints/measured"][-1].values[0] >= before * 1e-4)
    for path in ("joints/measured", "joints/commanded", "camera/primary"):
        stamps = [thing.moment.stamp_ns for thing in things[path]]
        gaps = np.diff(stamps[5:])
        assert (gaps > 0).all()
        assert np.median(gaps) >= 15_000_000, path  # taken 25 times a second at most, sent 100 times
        late = [thing.moment.received_ns - thing.moment.stamp_ns for thing in things[path]]
        assert 0 <= np.median(late) < 1_000_000_000


def test_nobody_notices_a_viewer(robot, watching):
    wait_until(lambda: "joints/measured" in watching.things)
    viewers = [name for name in robot.get_node_names() if name.startswith("viewer_")]
    assert len(viewers) == 2
    for name in viewers:
        for namespace in (NAMESPACE,):
            topics = robot.get_publisher_names_and_types_by_node(name, namespace)
            assert {topic for topic, _ in topics} <= {"/rosout", "/parameter_events"}
            assert not robot.get_client_names_and_types_by_node(name, namespace)
    for topic in command_topics(robot, PROFILE):
        offered = robot.get_publishers_info_by_topic(robot.resolve_topic_name(topic))
        assert {info.node_name for info in offered} <= {"robot"}


def test_where_nothing_is_heard_it_is_said(ros_domain):
    view = RobotView(PROFILE, None, Kept(), "/nobody_here")
    with pytest.raises(
        DeviceError, match=r"nothing heard of sim_widowx within 0.3 s: is the robot up, in ROS"
    ):
        view.run(threading.Event(), 0.3, lambda text: None)


@pytest.mark.parametrize("name", available_profiles())
def test_every_topic_of_every_robot_is_one_that_is_shown(name):
    profile = load_profile(name)
    known = MessageView(profile, {}, None).roles
    topics = viewed_topics(profile)
    assert {topic.role for topic in topics} <= set(known)
    assert [topic for topic in topics if topic.role == ARM_COMMAND]
