"""What ``openvla check`` says of duplicates, of streams that DDS keeps apart, and of the clocks."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from support.node_processes import Listener
from support.python_process import run_openvla
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.bringup.dds import KILTED_RCLPY
from openvla_ros.discovery.sole_watch import SoleWatch
from openvla_ros.profile import load_profile
from openvla_ros.programs.clock_check import check_clock
from openvla_ros.ros import qos
from openvla_ros.values.health import Health

PROFILE = load_profile("sim_widowx")
# Up to Jazzy, rclpy does not say which of a topic's publishers sent a message: all three are named.
SAYS_WHO = int(version("rclpy").partition(".")[0]) >= KILTED_RCLPY
REPORTERS = "/front, /wrist" if SAYS_WHO else "2 of /front, /wrist (2 of them)"


def with_lookahead(seconds: float):
    return replace(PROFILE, arm_backend=replace(PROFILE.arm_backend, lookahead_s=seconds))


@pytest.mark.parametrize(
    ("ages_ms", "lookahead_s", "level", "text"),
    [
        ([-29.0, -31.0, -30.0], 0.03, "error", "31 ms ahead of ours, beyond arm_backend.lookahead_s (30 ms)"),
        ([-20.0, -18.0], 0.03, "warn", "20.0 ms ahead of ours; arm_backend.lookahead_s is 30 ms"),
        ([-31.0], 0.0, "ok", "31.0 ms ahead"),  # points are due at once: no clock is compared
        ([0.4, 9.0], 0.03, "ok", "0.4 ms behind ours at most"),
        ([80.0, 95.0], 0.03, "warn", "up to 80 ms behind ours"),
    ],
)
def test_the_clocks_are_compared_with_the_lookahead(ages_ms, lookahead_s, level, text):
    ages = [age * 1e-3 for age in ages_ms]
    (finding,) = check_clock(with_lookahead(lookahead_s), "/joint_states", ages)
    assert finding.level == level
    assert text in finding.message


@pytest.mark.ros
@pytest.mark.filterwarnings("ignore:Deprecated in favor of:DeprecationWarning")  # rclpy's own, for the QoS
def test_check_names_both_of_a_kind_and_who_does_not_match_whom(ros_domain):
    ears = Listener("front"), Listener("wrist"), Listener("wrist")
    with ears[0] as one, ears[1] as two, ears[2] as three, ThreadPoolExecutor(1) as beside:
        arm, gripper = list(PROFILE.arm.joints), PROFILE.gripper.joint
        for ear in (one, two):
            ear.node.create_publisher(Image, "camera/primary/image_raw", qos.IMAGE_OUT)
            ear.node.create_publisher(JointTrajectory, "arm_controller/joint_trajectory", qos.COMMAND)
        speakers = [
            ear.node.create_publisher(JointState, "joint_states", qos.STREAM_OUT) for ear in (one, two)
        ]
        other = three.node.create_publisher(JointState, "joint_states", qos.STREAM_OUT)
        best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        one.node.create_publisher(String, "instruction", best_effort)
        two.node.create_subscription(String, "instruction", lambda _: None, latched)

        def say() -> None:
            now = one.node.get_clock().now().to_msg()
            for publisher, names in ((speakers[0], arm), (speakers[1], arm), (other, [gripper])):
                message = JointState(name=names, position=[0.0] * len(names))
                message.header.stamp = now
                publisher.publish(message)

        one.node.create_timer(0.05, say)
        check = beside.submit(run_openvla, "check", "sim_widowx", "--seconds", "3", "--json")
        assert one.spin_until(check.done, 120)
        assert check.result().returncode == 2
        found = json.loads(check.result().stdout)["findings"]
    errors = [f["message"] for f in found if f["level"] == "error"]
    for expected in (
        "two nodes are called /wrist",
        "/front, /wrist publish /camera/primary/image_raw; it must have one publisher",
        "/front, /wrist publish /arm_controller/joint_trajectory: two would command one arm",
        f"{REPORTERS} report the arm's joints on /joint_states",
    ):
        assert expected in errors
    (apart,) = (
        m for m in errors if m.startswith("the QoS of /front and /wrist on /instruction do not match")
    )
    assert "incompatible" in apart.lower() or "effort" in apart.lower()


@pytest.mark.ros
def test_a_running_node_reports_a_second_publisher_of_a_stream_and_its_own_twin(ros_domain):
    with Listener("policy") as looker, Listener("front") as one, Listener("policy") as twin:
        watch = SoleWatch(looker.node, ["images"])
        publishers = [ear.node.create_publisher(Image, "images", qos.IMAGE_OUT) for ear in (one, twin)]
        assert looker.spin_until(lambda: "/front, /policy publish /images" in watch.health().message)
        assert "another node is also called /policy" in watch.health().message
        assert watch.health().level == "error"
        twin.node.destroy_publisher(publishers[1])
        twin.node.destroy_node()
        done = Health("one publisher per stream", "ok", "no duplicates", {})
        assert looker.spin_until(lambda: watch.health() == done, 20)


def test_of_two_publishers_of_one_name_one_may_be_dead_for_a_while():
    from openvla_ros.discovery.endpoints import LEASE_S, Endpoint

    pair = [Endpoint("/camera", b"a"), Endpoint("/camera", b"b")]
    since = {b"a": 0.0, b"b": 5.0}
    assert SoleWatch._alive(pair, since, 10.0) == ["/camera"]
    assert SoleWatch._alive(pair, since, LEASE_S + 10.0) == ["/camera", "/camera"]
