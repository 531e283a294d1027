"""An inactive controller of ros2_control subscribes and drops what it is sent: its manager is asked."""

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")

from support import foreign_messages
from support.child_process import python_child
from support.node_processes import Listener

from openvla_ros.drivers.readiness.ros2_control import ControllerState

pytestmark = [pytest.mark.ros, pytest.mark.timeout(600)]  # the first run builds message packages

KINDS = {
    "joint_trajectory": "arm_controller/joint_trajectory",
    "forward_position": "arm_controller/commands",
    "cartesian_target": "target_pose",
}
INACTIVE = "/arm_controller is inactive, and drops what it is sent"


@pytest.mark.parametrize("kind", KINDS)
def test_the_arm_is_there_only_while_its_controller_is_active(ros_domain, kind):
    env = {**foreign_messages.environment(), "ROS_DOMAIN_ID": str(ros_domain)}
    with (
        python_child("fake_controller_manager_process.py", env=env) as robot,
        python_child("driver_client_process.py", env=env) as driver,
    ):
        robot.expect(lambda e: "ready" in e, 120)
        driver.expect(lambda e: "ready" in e, 120)
        driver.say(do="make", robot="franka", part="arm", backend={"kind": kind, "topic": KINDS[kind]})
        driver.expect(lambda e: "made" in e)

        def missing(problem):
            driver.say(do="connect", problem=problem)
            return driver.expect(lambda e: "missing" in e, 120)["missing"]

        said = missing(INACTIVE)
        assert said.endswith("ros2 control switch_controllers --activate arm_controller")
        robot.say(state="active")
        assert missing(None) is None
        robot.say(state="inactive")  # somebody switches it off while it is used
        assert INACTIVE in missing(INACTIVE)
        robot.say(state=None)  # another kind of node has that name
        assert missing(None) is None


def test_without_a_manager_nothing_is_missing(ros_domain):
    with Listener("asks") as asks:
        state = ControllerState(asks.node, "/arm_controller/joint_trajectory")
        asks.spin_for(0.1)
        assert state.progress() is None
        assert not state.is_known
        state.close()
