"""Each back end against a stand-in that speaks the same topics and actions, over DDS, in two processes."""

import signal
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")

from support import foreign_messages
from support.child_process import Child, python_child

from openvla_ros.drivers.interbotix import gripper_pwm
from openvla_ros.drivers.readiness.optional_messages import interface
from openvla_ros.errors import MissingDependencyError
from openvla_ros.profile import load_profile
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.motion.twist_stream import CORRECTION_PER_S, correction

pytestmark = [pytest.mark.ros, pytest.mark.timeout(600)]  # the first run builds message packages

WIDOWX = load_profile("widowx")
FRANKA = load_profile("franka")
Q = [0.1, -0.5, 0.4, 0.0, 1.2, -0.1]


@dataclass
class Pair:
    robot: Child
    driver: Child

    def make(self, robot: str, part: str, **backend) -> None:
        self.driver.say(do="make", robot=robot, part=part, backend=backend)
        made = self.driver.expect(lambda e: "made" in e or "error" in e)
        assert "made" in made, made

    def connect(self, problem: str | None = None) -> str | None:
        """Connect until nothing is missing, or ``problem`` is; return what is missing in the end."""
        self.driver.say(do="connect", problem=problem)
        return self.driver.expect(lambda e: "missing" in e, 120)["missing"]

    def check_problem(self, problem: str) -> None:
        missing = self.connect(problem)
        assert missing is not None
        assert problem in missing

    def delivered(self, timeout_s: float) -> bool:
        self.driver.say(do="deliver", timeout_s=timeout_s)
        return self.driver.expect(lambda e: "delivered" in e, timeout_s + 60)["delivered"]

    def topic(self, name: str) -> dict:
        return self.robot.expect(lambda e: e.get("topic") == name)

    def action(self, name: str) -> dict:
        return self.robot.expect(lambda e: e.get("action") == name)


@pytest.fixture(scope="module")
def pair(ros_domain) -> Iterator[Pair]:
    env = foreign_messages.environment()
    env["ROS_DOMAIN_ID"] = str(ros_domain)
    with (
        python_child("fake_driver_process.py", env=env) as robot,
        python_child("driver_client_process.py", env=env) as driver,
    ):
        for child in (robot, driver):
            child.expect(lambda e: "ready" in e, 120)
        yield Pair(robot, driver)
        driver.say(do="quit")


def test_joint_trajectory_arm_sends_the_next_sample_and_a_stop_within_limits(pair):
    pair.make("sim_widowx", "arm", kind="joint_trajectory", topic="arm_controller/joint_trajectory")
    assert pair.connect() is None
    velocity = [0.5, -0.4, 0.3, 0.0, 0.2, -0.6]
    pair.driver.say(do="arm", q=Q, v=velocity, a=[1.0, 0.0, -2.0, 0.0, 0.5, 0.0])
    got = pair.topic("arm")
    assert got["names"] == list(WIDOWX.arm.joints)
    assert got["stamp"] > 0.0
    times, positions, velocities = (np.array(got[key]) for key in ("times", "positions", "velocities"))
    assert times[0] == pytest.approx(0.03)
    assert np.all(np.diff(times) > 0)
    assert positions[0] == pytest.approx(Q)
    assert velocities[0] == pytest.approx(velocity)
    assert np.all(velocities[-1] == 0.0)
    average = np.diff(velocities, axis=0) / np.diff(times)[:, None]
    assert np.all(np.abs(average) <= np.array(WIDOWX.limits.joint_acceleration) + 1e-3)
    # Positions and velocities tell the same motion: the mean velocity lies between those at the ends.
    mean = np.diff(positions, axis=0) / np.diff(times)[:, None]
    assert np.allclose(mean, (velocities[1:] + velocities[:-1]) / 2, atol=0.05)


def test_joint_trajectory_arm_says_what_is_due_already(pair):
    pair.make("sim_widowx", "arm", kind="joint_trajectory", topic="arm_controller/joint_trajectory")
    assert pair.connect() is None
    pair.driver.say(do="arm", q=Q, count=50)
    pair.driver.expect(lambda e: "sent" in e)
    got = [e for e in pair.robot.drain() if e.get("topic") == "arm"][-1]
    times = np.array(got["times"])
    assert times[0] == 0.0
    assert 0.03 < times[-1] < 0.06  # a period ago .. a lookahead from now
    np.testing.assert_allclose(got["positions"], np.tile(Q, (len(times), 1)), atol=1e-12)


def test_joint_trajectory_arm_without_lookahead_starts_at_once(pair):
    topic = "arm_controller/joint_trajectory"
    pair.make("sim_widowx", "arm", kind="joint_trajectory", topic=topic, lookahead_s=0.0)
    assert pair.connect() is None
    pair.driver.say(do="arm", q=Q, v=[0.1] * 6)
    got = pair.topic("arm")
    assert got["stamp"] == 0.0
    assert got["times"][0] == pytest.approx(0.01)


def test_joint_trajectory_arm_at_rest_stays(pair):
    pair.make("sim_widowx", "arm", kind="joint_trajectory", topic="arm_controller/joint_trajectory")
    assert pair.connect() is None
    pair.driver.say(do="arm", q=Q)
    got = pair.topic("arm")
    np.testing.assert_allclose(got["positions"], np.tile(Q, (len(got["times"]), 1)), atol=1e-12)
    assert not np.any(got["velocities"])


ARMS = [
    ("sim_widowx", "joint_trajectory", "arm_controller/joint_trajectory", Q),
    ("sim_widowx", "forward_position", "forward/commands", Q),
    ("widowx", "interbotix", "/wx250s/commands/joint_group", Q),
    ("franka", "cartesian_target", "target_pose", list(FRANKA.arm.home)),
    ("franka", "servo_twist", "/jazzy_servo/delta_twist_cmds", list(FRANKA.arm.home)),
]


@pytest.mark.parametrize(("robot", "kind", "topic", "q"), ARMS, ids=[arm[1] for arm in ARMS])
def test_a_command_counts_as_delivered_once_the_robot_has_it(pair, robot, kind, topic, q):
    pair.make(robot, "arm", kind=kind, topic=topic)
    assert pair.connect() is None
    pair.robot.process.send_signal(signal.SIGSTOP)
    try:
        pair.driver.say(do="arm", q=q, v=[0.1] * len(q), count=20)
        pair.driver.expect(lambda e: "sent" in e)
        assert not pair.delivered(0.3)
    finally:
        pair.robot.process.send_signal(signal.SIGCONT)
    assert pair.delivered(60.0)


def test_joint_trajectory_gripper_sends_changes_only(pair):
    pair.make(
        "sim_widowx", "gripper", kind="joint_trajectory", topic="gripper_controller/joint_trajectory",
        speed_m_s=0.1,
    )  # fmt: skip
    assert pair.connect() is None
    pair.driver.say(do="gripper", opening=1.0, measured=0.015, count=20)
    got = pair.topic("gripper")
    assert got["names"] == ["left_finger"]
    assert got["positions"] == [[pytest.approx(0.037)]]
    assert got["times"] == [pytest.approx(0.22)]
    pair.driver.say(do="gripper", opening=0.0, measured=0.037)
    assert pair.topic("gripper")["positions"] == [[pytest.approx(0.015)]]


def test_joint_trajectory_gripper_keeps_its_squeeze(pair):
    pair.make(
        "sim_widowx", "gripper", kind="joint_trajectory", topic="gripper_controller/joint_trajectory",
        speed_m_s=0.1,
    )  # fmt: skip
    assert pair.connect() is None
    pair.driver.say(do="gripper", opening=0.0, measured=0.03, count=130)
    first, repeat = pair.topic("gripper"), pair.topic("gripper")
    assert first["times"] == [pytest.approx(0.15)]
    # Due at once: with time to move, the command would go back to the 30 mm that are measured.
    assert repeat["times"] == [0.0]
    assert repeat["positions"] == [[pytest.approx(0.015)]]


def test_forward_position(pair):
    pair.make("sim_widowx", "arm", kind="forward_position", topic="forward/commands")
    assert pair.connect() is None
    pair.driver.say(do="arm", q=Q)
    assert pair.topic("forward")["data"] == pytest.approx(Q)


def test_franky_sends_a_setpoint_with_its_velocity_and_the_time_when_it_is_due(pair):
    pair.make("franka_franky", "arm", kind="franky", topic="franky/setpoints", franky={})
    assert pair.connect() is None
    home, velocity = list(FRANKA.arm.home), [0.1, -0.2, 0.3, 0.0, 0.0, 0.0, 0.5]
    pair.driver.say(do="arm", q=home, v=velocity)
    got = pair.topic("franky")
    assert got["names"] == list(FRANKA.arm.joints)
    assert got["times"] == [0.0]
    np.testing.assert_allclose(got["positions"], [home])
    np.testing.assert_allclose(got["velocities"], [velocity])


def test_a_topic_of_another_type_and_one_without_subscriber_are_named(pair):
    pair.make("sim_widowx", "arm", kind="forward_position", topic="other/commands")
    pair.check_problem("trajectory_msgs/msg/JointTrajectory, which does not match")
    pair.make("sim_widowx", "arm", kind="forward_position", topic="nowhere/commands")
    pair.check_problem("no forward position controller subscribes to /nowhere/commands")


def test_interbotix_arm(pair):
    pair.make("widowx", "arm", kind="interbotix", topic="/wx250s/commands/joint_group")
    assert pair.connect() is None
    pair.driver.say(do="arm", q=Q)
    got = pair.topic("group")
    assert got["name"] == "arm"
    assert got["cmd"] == pytest.approx(Q, abs=1e-6)


@pytest.mark.parametrize(
    ("space", "problem"),
    [
        (
            "default",
            "each command is played over 2 s (profile_type 'time'), so that the arm would be up to 4.70",
        ),
        ("slow", "Profile_Velocity 90 lets the motors reach 2.16, and limits.joint_velocity is 2.35"),
        ("lazy", "Profile_Acceleration 10 lets the motors reach 3.75, and limits.joint_acceleration is 5"),
        ("limp", "has limp motors: hold the arm and call /limp/torque_enable"),
        (
            "turned",
            "the group 'arm' is ['wrist_rotate', 'wrist_angle', 'forearm_roll', 'elbow', 'shoulder', 'wai",
        ),
        ("pressing", "it is in the mode 'pwm', not in 'position'"),
        ("nobody", "the group 'arm' does not exist"),
        ("quick", None),  # 100 ms behind at full speed are within the tracking error
        ("sim", None),
    ],
)
def test_interbotix_motors_that_would_not_follow_are_told_and_not_commanded(pair, space, problem):
    pair.make("widowx", "arm", kind="interbotix", topic=f"/{space}/commands/joint_group")
    said = pair.connect(problem)
    pair.robot.drain()
    pair.driver.say(do="arm", q=Q)
    if problem is None:
        assert said is None
        assert pair.topic("group")["name"] == "arm"
        return
    assert problem in said
    if "modes.yaml" in said:
        assert f"ros2 service call /{space}/set_operating_modes interbotix_xs_msgs/srv/OperatingModes" in said
        assert (
            "{cmd_type: group, name: arm, mode: position, profile_type: velocity, profile_velocity: 0,"
            in said
        )
    pair.driver.expect(lambda e: "sent" in e)
    pair.make("widowx", "arm", kind="interbotix", topic="/wx250s/commands/joint_group")
    assert pair.connect() is None
    pair.driver.say(do="arm", q=[0.0] * 6)
    assert pair.topic("group")["cmd"] == pytest.approx([0.0] * 6)  # the first that was heard


def test_a_gripper_motor_in_another_mode_gets_no_pwm(pair):
    topic = "/pressing/commands/joint_single"
    pair.make("widowx", "gripper", kind="interbotix_pwm", topic=topic)
    pair.check_problem("the single 'gripper': it is in the mode 'position', not in 'pwm'")
    pair.robot.drain()
    pair.driver.say(do="gripper", opening=1.0, measured=0.015)
    pair.make("widowx", "gripper", kind="interbotix_pwm", topic="/wx250s/commands/joint_single")
    assert pair.connect() is None
    pair.driver.say(do="gripper", opening=0.0, measured=0.037)
    assert pair.topic("single")["cmd"] == pytest.approx(-350.0)


@pytest.mark.parametrize(
    ("opening", "measured", "pwm"),
    [(1.0, 0.015, 350.0), (0.0, 0.037, -350.0), (1.0, 0.0365, 300 * 0.0005 * 350), (0.0, 0.015, 0.0)],
)
def test_interbotix_gripper_pwm_opens_with_positive_sign(pair, opening, measured, pwm):
    pair.make("widowx", "gripper", kind="interbotix_pwm", topic="/wx250s/commands/joint_single")
    assert pair.connect() is None
    pair.driver.say(do="gripper", opening=opening, measured=measured)
    got = pair.topic("single")
    assert got["name"] == "gripper"
    assert got["cmd"] == pytest.approx(pwm, rel=1e-4, abs=1e-3)


def test_interbotix_gripper_needs_the_finger_measured(pair):
    pair.make("widowx", "gripper", kind="interbotix_pwm", topic="/wx250s/commands/joint_single")
    pair.driver.say(do="gripper", opening=1.0, measured=None)
    pair.check_problem("joint states lack 'left_finger'")


def test_gripper_law_never_exceeds_its_limit():
    for error_m in np.linspace(-0.1, 0.1, 41):
        assert abs(gripper_pwm(0.02 + error_m, 0.02, 350.0)) <= 350.0
    assert gripper_pwm(0.021, 0.02, 350.0) == pytest.approx(105.0)


def test_cartesian_target(pair):
    pair.make("franka", "arm", kind="cartesian_target", topic="target_pose")
    assert pair.connect() is None
    pair.driver.say(do="arm", q=list(FRANKA.arm.home))
    got = pair.topic("target_pose")
    sent = pair.driver.expect(lambda e: "sent" in e)["pose"]
    assert got["frame"] == "fr3_link0"
    assert [*got["position"], *got["quaternion"]] == pytest.approx(sent)


def test_servo_of_humble_is_started_by_trigger_and_asked_again_after_a_refusal(pair):
    pair.make("franka", "arm", kind="servo_twist", topic="/humble_servo/delta_twist_cmds")
    assert pair.connect() is None
    assert pair.robot.expect(lambda e: e.get("service") == "start_servo")["success"] is False
    assert pair.robot.expect(lambda e: e.get("service") == "start_servo")["success"] is True


def test_servo_of_jazzy_twists_come_above_10_hz_and_end_with_a_zero(pair):
    pair.make("franka", "arm", kind="servo_twist", topic="/jazzy_servo/delta_twist_cmds")
    assert pair.connect() is None
    assert pair.robot.expect(lambda e: e.get("service") == "switch_command_type")["command_type"] == 1
    assert pair.robot.expect(lambda e: e.get("service") == "pause_servo")["data"] is False
    home, velocity = np.array(FRANKA.arm.home), np.array([0.1, 0.2, 0.0, -0.1, 0.0, 0.3, 0.0])
    off = 0.01
    pair.driver.say(do="arm", q=home.tolist(), v=velocity.tolist(), off=off, count=50)
    first = pair.topic("jazzy_servo")
    chain = KinematicChain.from_profile(FRANKA.arm)
    behind = correction(chain.forward(home), chain.forward(home - off))
    assert first["frame"] == "fr3_link0"
    wanted = chain.jacobian(home) @ velocity + behind
    # The correction points along the error: its share of 10 ms brings the tool closer.
    assert np.allclose(behind[:3] / CORRECTION_PER_S, (chain.jacobian(home) @ np.full(7, off))[:3], atol=2e-4)
    pair.driver.say(do="arm", q=home.tolist(), count=50)
    assert pair.delivered(60.0)
    twists = [first["twist"]]
    while twists[-1] != [0.0] * 6:
        twists.append(pair.topic("jazzy_servo")["twist"])
    assert np.linalg.norm(first["twist"]) < 0.2 * np.linalg.norm(wanted)  # from rest, within the limits
    assert min(np.abs(np.array(twist) - wanted).max() for twist in twists) < 1e-6
    # One for each send, 100 a second; the subscription's queue of 10 may have run over.
    assert 10 < len(twists) <= 100
    assert not [e for e in pair.robot.drain() if e.get("topic") == "jazzy_servo"], "the rest is said once"


def test_gripper_command_is_told_from_parallel_gripper_command_by_the_server(pair):
    pair.make("franka", "gripper", kind="gripper_command", topic="/old_gripper/gripper_cmd", force_n=20.0)
    assert pair.connect() is None
    pair.driver.say(do="gripper", opening=0.5, count=5)
    old = pair.action("/old_gripper/gripper_cmd")
    assert (old["position"], old["effort"]) == (pytest.approx(0.02), 20.0)
    pair.make("franka", "gripper", kind="gripper_command", topic="/new_gripper/gripper_cmd", force_n=20.0)
    assert pair.connect() is None
    pair.driver.say(do="gripper", opening=1.0, count=5)
    new = pair.action("/new_gripper/gripper_cmd")
    assert new["names"] == ["fr3_finger_joint1"]
    assert (new["position"], new["effort"]) == ([pytest.approx(0.04)], [20.0])


def test_a_refused_goal_and_a_wrong_server_are_problems(pair):
    pair.make("franka", "gripper", kind="gripper_command", topic="/refusing_gripper/gripper_cmd")
    assert pair.connect() is None
    pair.driver.say(do="gripper", opening=1.0, count=20)
    pair.check_problem("/refusing_gripper/gripper_cmd refused the goal")
    pair.make("franka", "gripper", kind="gripper_command", topic="/franka_gripper/grasp")
    pair.check_problem("but franka_msgs/action/Grasp")


def test_franka_hand_moves_to_open_and_grasps_to_close(pair):
    pair.make("franka", "gripper", kind="franka", topic="/franka_gripper", force_n=30.0, speed_m_s=0.05)
    assert pair.connect() is None
    pair.driver.say(do="gripper", opening=1.0, count=5)
    move = pair.action("/franka_gripper/move")
    assert (move["width"], move["speed"]) == (pytest.approx(0.08), 0.05)
    pair.driver.say(do="gripper", opening=0.0, count=5)
    grasp = pair.action("/franka_gripper/grasp")
    assert (grasp["width"], grasp["force"], grasp["speed"]) == (0.0, 30.0, 0.05)
    assert grasp["epsilon"] == pytest.approx([0.08, 0.08])


def test_a_failed_grasp_is_reported_with_the_robots_reason(pair):
    pair.make("franka", "gripper", kind="franka", topic="/franka_gripper", force_n=140.0)
    assert pair.connect() is None
    pair.driver.say(do="gripper", opening=0.0, count=30)
    pair.check_problem("/franka_gripper/grasp: too much force")


def test_franka_error_recovery(pair):
    pair.make("franka", "recovery")
    pair.driver.say(do="recover")
    assert pair.driver.expect(lambda e: "problem" in e, 120)["problem"] is None
    pair.action("/action_server/error_recovery")


def test_a_missing_package_names_its_apt_package(monkeypatch):
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    with pytest.raises(MissingDependencyError, match="sudo apt install ros-jazzy-no-such-msgs"):
        interface("no_such_msgs/msg/Thing", "the test")
    with pytest.raises(MissingDependencyError, match="needs sensor_msgs/msg/Nothing"):
        interface("sensor_msgs/msg/Nothing", "the test")
