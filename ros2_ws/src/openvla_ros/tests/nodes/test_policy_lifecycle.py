"""The policy node's lifecycle: why it does not start, which transitions it takes, and how it shuts down."""

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from support.fake_policy_peers import MODULE, Robot, policy
from support.node_processes import DISCOVERY_S, NodeProcess

from openvla_ros.ros.messages import from_stamp

pytestmark = pytest.mark.ros


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"policy": "openvla"}, "needs a checkpoint"),
        ({"policy": "openvla", "checkpoint": "/nowhere", "offline": "true"}, "/nowhere"),
        ({"policy": "openvla", "checkpoint": "small_base", "device": "mps"}, "not one of auto, cpu, cuda"),
        ({"policy": "wish"}, "'wish'; it must be one of openvla"),
        ({"policy": "replay", "dataset": "/nowhere"}, "/nowhere does not exist"),
        ({"robot": "r2d2"}, "no robot profile 'r2d2'"),
    ],
)
def test_a_policy_that_cannot_start_says_why_and_ends_with_1(ros_domain, parameters, message):
    with NodeProcess(MODULE, parameters) as node:
        assert node.process.wait(2 * DISCOVERY_S) == 1
        node.stop()
    assert message in node.output
    assert "Traceback" not in node.output


UNFORESEEN = """
from openvla_ros.nodes import MODULE as module

def load(*arguments):
    raise RuntimeError("cuBLAS is not what it was")

module.LOADER = load
module.main()
"""


@pytest.mark.parametrize(
    ("module", "loader"), [("policy_node", "load_policy"), ("camera_node", "load_camera")]
)
def test_whatever_is_raised_while_configuring_is_told_with_type_and_text(ros_domain, module, loader):
    program = UNFORESEEN.replace("MODULE", module).replace("LOADER", loader)
    with NodeProcess(program) as node:
        assert node.process.wait(2 * DISCOVERY_S) == 1
        node.stop()
    assert "configure failed: RuntimeError: cuBLAS is not what it was" in node.output
    assert "[FATAL]" in node.output
    assert "Traceback" not in node.output


def test_a_transition_that_is_not_possible_is_answered_and_ends_nothing(ros_domain):
    with Robot() as robot, policy() as node:
        change_state = robot.node.create_client(ChangeState, "policy/change_state")
        assert robot.spin_until(change_state.service_is_ready), node.output
        assert robot.until_task_says("no instruction"), node.output
        request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_ACTIVATE))
        answer = change_state.call_async(request)  # it is active
        assert robot.spin_until(answer.done), node.output
        assert not answer.result().success
        robot.say("lift the cube")
        assert robot.spin_until(lambda: len(robot.chunks) >= 2), node.output
        assert node.stop() == 0, node.output
    assert "Traceback" not in node.output


def test_the_rhythm_follows_its_parameter_and_a_node_that_is_shut_down_acts_no_more(ros_domain):
    with Robot(camera_hz=30.0) as robot, policy() as node:
        clients = [
            robot.node.create_client(kind, f"policy/{name}")
            for kind, name in ((SetParameters, "set_parameters"), (ChangeState, "change_state"))
        ]
        assert robot.spin_until(lambda: all(c.service_is_ready() for c in clients)), node.output
        set_parameters, change_state = clients
        robot.say("wait")
        assert robot.spin_until(lambda: len(robot.chunks) >= 2), node.output
        steps = Parameter("steps_between_inferences", value=5).to_parameter_msg()
        answer = set_parameters.call_async(SetParameters.Request(parameters=[steps]))
        assert robot.spin_until(answer.done)
        assert answer.result().results[0].successful
        robot.spin_for(0.5)
        robot.chunks.clear()
        assert robot.spin_until(lambda: len(robot.chunks) >= 3), node.output
        stamps = [from_stamp(c.header.stamp) for c in robot.chunks]
        assert np.diff(stamps).min() >= 0.95e9  # five steps of 0.2 s, give or take half an image

        ending = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_ACTIVE_SHUTDOWN))
        answer = change_state.call_async(ending)
        assert robot.spin_until(answer.done)
        assert answer.result().success
        assert robot.spin_until(lambda: robot.calls[-1] == "hold"), robot.calls
        robot.spin_for(0.3)
        count = len(robot.chunks)
        robot.say("go on")
        robot.spin_for(2.0)
        assert len(robot.chunks) == count
        assert node.stop() == 0
    assert "Traceback" not in node.output
