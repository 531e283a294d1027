"""Two of a kind between real processes: the arm is not pulled two ways, and who it was is named."""

import os
import signal

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")
pytest.importorskip("mujoco", reason="needs the simulation (the extra [sim])")

from sensor_msgs.msg import JointState
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


@pytest.mark.stops
def test_a_second_publisher_of_the_arm_s_joints_is_not_believed_and_stops_the_arm(cell):
    """As joint_state_publisher or a twin in a viewer does it: all joints at zero."""
    cell.drive(action(cell, 0.01), 1.0)
    names = [*cell.profile.arm.joints, cell.profile.gripper.joint]
    twin = cell.listener.node.create_publisher(JointState, "joint_states", qos.STREAM_OUT)
    assert cell.listener.spin_until(twin.get_subscription_count, ANSWER_S)

    def say() -> None:
        state = JointState(name=names, position=[0.0] * len(names))
        state.header.stamp = cell.listener.node.get_clock().now().to_msg()
        twin.publish(state)

    timer = cell.listener.node.create_timer(0.02, say)
    report = cell.expect(Reason.RIVAL, "state")
    assert "report the arm's state on /rivals/joint_states: only one can be right" in report.verdict.detail
    assert "/rivals/simulation" in report.verdict.detail
    assert not cell.call("park").success
    assert not cell.call("give_to_policy").success
    cell.listener.node.destroy_timer(timer)
    cell.expect(Reason.HELD, "state")
    # Nothing that was commanded led towards the zeros of the other one.
    commanded = np.array([m.points[0].positions for m in cell.commands])
    assert np.abs(commanded - cell.profile.arm.neutral).max() < 0.5, "zero is up to 1.8 rad away"
    cell.check_commands()
    cell.listener.node.destroy_publisher(twin)
    assert cell.call("give_to_policy").success
    cell.begin()


@pytest.mark.stops
@pytest.mark.parametrize("button", [False, True])
def test_an_emergency_stop_survives_a_controller_that_is_killed(cell, button):
    cell.drive(action(cell, 0.01), 0.6)
    if button:
        cell.say_e_stop(True)
        cell.expect(Reason.E_STOP, "state")
    else:
        assert cell.call("e_stop").success
    os.kill(cell.processes["controller"].process.pid, signal.SIGKILL)
    cell.processes["controller"].process.wait()
    cell.verdict_messages.clear()
    cell.start("controller")
    heard = cell.listener.spin_until(lambda: len(cell.verdict_messages) > 3, BACK_S)
    assert heard, cell.processes["controller"].output
    report = cell.expect(Reason.E_STOP, "state")
    by = "the topic e_stop" if button else "the service e_stop"
    assert f"emergency stop by {by}, before the controller was restarted" in report.verdict.detail
    cell.commands.clear()  # the killed one's
    for name in ("give_to_policy", "ask_for_policy", "home"):
        assert not cell.call(name).success
    if button:
        refused = cell.call("reset_e_stop")
        assert not refused.success
        assert "still says true" in refused.message
        cell.say_e_stop(False)
        cell.wait(0.5)
    assert not cell.commands
    assert cell.call("reset_e_stop").success
    assert cell.call("give_to_policy").success
    cell.begin()


def test_a_controller_that_is_stopped_in_the_ordinary_way_forgets_the_emergency_stop(cell):
    assert cell.call("e_stop").success
    cell.restart_controller()
    cell.begin()


def test_a_new_instruction_does_not_take_the_arm_from_teleoperation(cell):
    assert cell.call("give_to_teleop").success
    refused = cell.call("ask_for_policy")
    assert not refused.success
    assert "/rivals/test has the arm; hand it back there, or with openvla give-to-policy" in refused.message
    assert cell.call("give_to_policy").success
    assert cell.call("ask_for_policy").success


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
