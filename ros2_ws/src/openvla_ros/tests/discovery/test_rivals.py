"""Two of a kind between real processes: the arm is not pulled two ways, and who it was is named."""

import os
import signal

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")
pytest.importorskip("mujoco", reason="needs the simulation (the extra [sim])")

from support.node_processes import NodeProcess
from support.sim_cell import ANSWER_S, CLOCK, START_S, Cell
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.ros import qos
from openvla_ros.values.verdict import Reason

pytestmark = pytest.mark.ros

# A controller that was killed is back at work within this: DDS lists the dead one for 20 s.
BACK_S = 15.0


@pytest.fixture
def cell(ros_domain):
    with Cell(namespace="rivals") as cell:
        cell.start_robot()
        cell.begin()
        yield cell


def action(cell: Cell, x: float) -> list[float]:
    return [x, 0.0, 0.0, 0.0, 0.0, 0.0, float(cell.space.gripper_open)]


def another_controller(cell: Cell, *remaps: str) -> NodeProcess:
    namespace = [f"__ns:=/{cell.namespace}", f"/clock:=/{cell.namespace}/clock", *remaps]
    parameters = {"robot": cell.robot, **CLOCK["controller"]}
    return NodeProcess("openvla_ros.nodes.controller_node", parameters, namespace)


def test_two_controllers_stop_the_arm_and_fall_silent_until_one_is_left(cell):
    cell.drive(action(cell, 0.01), 1.0)
    with another_controller(cell) as second:
        cell.expect(Reason.RIVAL, "state", START_S)
        named = "another /rivals/controller"  # said as soon as DDS knows it
        assert cell.listener.spin_until(lambda: named in cell.reports[-1].verdict.detail, START_S), (
            cell.reports[-1]
        )
        cell.send(action(cell, 0.01))
        cell.listener.spin_for(2.0)
        cell.commands.clear()
        cell.send(action(cell, 0.01))
        cell.listener.spin_for(1.0)
        assert not cell.commands, "something is commanded beside a second controller"
        assert not cell.call("give_to_policy").success
        assert not cell.call("neutral").success
        assert "the arm is not moved: another /rivals/controller" in second.output
        assert second.stop(signal.SIGINT) == 0
    cell.expect(Reason.HELD, "state")
    assert cell.call("give_to_policy").success
    cell.begin()


def test_another_program_that_commands_the_arm_stops_it_and_is_named(cell):
    cell.drive(action(cell, 0.01), 0.6)
    rival = cell.listener.node.create_publisher(
        JointTrajectory, "arm_controller/joint_trajectory", qos.COMMAND
    )
    report = cell.expect(Reason.RIVAL, "state")
    assert "/rivals/test also publishes /rivals/arm_controller/joint_trajectory" in report.verdict.detail
    cell.listener.node.destroy_publisher(rival)
    cell.expect(Reason.HELD, "state")


def test_two_policies_that_send_at_the_same_time_are_both_refused_and_named(cell):
    second = cell.listener.node.create_publisher(JointTrajectory, "policy/action_chunk", qos.COMMAND)
    first, chunks = cell._chunks["policy"], cell._chunks
    assert cell.listener.spin_until(second.get_subscription_count, ANSWER_S)
    for _ in range(10):
        for chunks["policy"] in (first, second):
            cell.send(action(cell, 0.001))
            cell.wait(0.05)
    refused = [r for r in cell.reports if r.verdict.reason is Reason.RIVAL]
    assert refused[-1].kind == "refusal"
    assert "/rivals/test (2 of them) publish on /rivals/policy/action_chunk" in refused[-1].verdict.detail
    chunks["policy"] = first
    cell.listener.node.destroy_publisher(second)
    cell.wait(2.5)
    cell.begin()  # one of them alone is heard again


def test_a_controller_that_was_killed_is_not_locked_out_by_its_own_dead_predecessor(cell):
    os.kill(cell.processes["controller"].process.pid, signal.SIGKILL)
    cell.processes["controller"].process.wait()
    cell.verdict_messages.clear()
    cell.start("controller")
    heard = cell.listener.spin_until(lambda: len(cell.verdict_messages) > 3, BACK_S)
    assert heard, cell.processes["controller"].output
    assert cell.listener.node.count_publishers("controller/verdict") == 2, (
        "the dead one should be listed still"
    )
    cell.begin()
    assert not [r for r in cell.reports if r.verdict.reason is Reason.RIVAL]
    assert "not moved" not in cell.processes["controller"].output
