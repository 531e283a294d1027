"""A joint trajectory controller is asked how it is set up, and is not used where it would jump."""

import time

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")

import rclpy
from rclpy.executors import SingleThreadedExecutor
from support.node_processes import Listener
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.drivers.joint_trajectory import JointTrajectoryArm
from openvla_ros.drivers.readiness.ros2_control import Settings, SettingsQuery
from openvla_ros.profile import load_profile
from openvla_ros.ros import qos

pytestmark = pytest.mark.ros

PROFILE = load_profile("franka")
TOPIC = "/arm_controller/joint_trajectory"


class Cell(Listener):
    """The side that asks, and beside it a stand-in for the controller: its topic and its parameters."""

    def __init__(self, parameters, services=True):
        super().__init__("asks")
        self.controller = rclpy.create_node(
            "arm_controller", context=self.context, start_parameter_services=services
        )
        for name, value in parameters.items():
            self.controller.declare_parameter(name, value)
        self.controller.create_subscription(JointTrajectory, TOPIC, lambda message: None, qos.COMMAND)
        self._other = SingleThreadedExecutor(context=self.context)
        self._other.add_node(self.controller)

    def ask_until(self, done):
        def step():
            self._other.spin_once(timeout_sec=0.0)
            return done()

        return self.spin_until(step)

    def ask_for(self, seconds):
        end = time.monotonic() + seconds
        self.ask_until(lambda: time.monotonic() > end)

    def __exit__(self, *exc):
        self._other.shutdown()
        self.controller.destroy_node()
        super().__exit__(*exc)


@pytest.mark.parametrize(
    ("parameters", "from_desired", "method", "words"),
    [
        (
            {"interpolate_from_desired_state": False, "interpolation_method": "splines"},
            False, "splines", "starts each message at the measured joints",
        ),
        ({"interpolate_from_desired_state": True}, True, None, "starts each message at its last command"),
        ({"open_loop_control": True}, True, None, "starts each message at its last command"),
        (
            {"interpolate_from_desired_state": False, "open_loop_control": True},
            True, None, "starts each message at its last command",
        ),
    ],
)  # fmt: skip
def test_it_says_where_each_message_starts(ros_domain, parameters, from_desired, method, words):
    with Cell(parameters) as cell:
        query = SettingsQuery(cell.node, TOPIC)
        assert cell.ask_until(lambda: query.progress() is not None)
        assert query.settings == Settings("/arm_controller", from_desired, method)
        assert query.settings.problem is None
        assert words in str(query.settings)


def test_a_controller_that_would_jump_from_point_to_point_is_not_used(ros_domain):
    with Cell({"interpolate_from_desired_state": False, "interpolation_method": "none"}) as cell:
        arm = JointTrajectoryArm(cell.node, PROFILE, TOPIC)
        assert cell.ask_until(lambda: "interpolation_method" in (arm.connect() or ""))
        assert arm.connect() == (
            "/arm_controller has interpolation_method 'none', so that the arm would jump from point to "
            "point: set it to 'splines'"
        )


@pytest.mark.parametrize("services", [True, False])
def test_a_driver_without_such_parameters_is_used_as_it_is(ros_domain, services):
    with Cell({}, services=services) as cell:
        arm = JointTrajectoryArm(cell.node, PROFILE, TOPIC)
        assert cell.ask_until(lambda: arm.connect() is None)
        cell.ask_for(0.5)
        assert arm.connect() is None


def test_whoever_else_listens_to_the_topic_is_not_the_controller(ros_domain):
    with Cell({"interpolate_from_desired_state": True}) as cell:
        cell.node.create_subscription(JointTrajectory, TOPIC, lambda message: None, qos.COMMAND)  # /asks
        query = SettingsQuery(cell.node, TOPIC)
        assert cell.ask_until(lambda: query.progress() is not None)
        assert query.settings.controller == "/arm_controller"


def test_a_controller_that_comes_back_is_asked_again(ros_domain):
    with Cell({"interpolate_from_desired_state": False}) as cell:
        query = SettingsQuery(cell.node, TOPIC)
        assert cell.ask_until(lambda: query.progress() is not None)
        cell._other.remove_node(cell.controller)
        cell.controller.destroy_node()
        assert cell.spin_until(lambda: query.progress() is None)
        cell.controller = rclpy.create_node("arm_controller", context=cell.context)
        cell.controller.declare_parameter("interpolate_from_desired_state", True)
        cell.controller.create_subscription(JointTrajectory, TOPIC, lambda message: None, qos.COMMAND)
        cell._other.add_node(cell.controller)
        assert cell.ask_until(lambda: query.progress() is not None)
        assert query.settings.from_desired is True
