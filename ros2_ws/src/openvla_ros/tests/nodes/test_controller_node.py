"""The controller node between real processes: chunks over DDS, a simulated robot, and every refusal."""

import signal
from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")
pytest.importorskip("mujoco", reason="needs the simulation (the extra [sim])")

from sensor_msgs.msg import JointState
from support.sim_cell import START_S, Cell
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from openvla_ros.robot.kinematics.delta_actions import compose
from openvla_ros.ros import qos
from openvla_ros.values.verdict import Reason

pytestmark = pytest.mark.ros

STAY = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]


@pytest.fixture(scope="module")
def cell(ros_domain) -> Iterator[Cell]:
    with Cell() as cell:
        cell.start_robot()
        assert not cell.commands, "the controller moved before it was told to"
        yield cell


@pytest.fixture(autouse=True)
def _start_held_and_owned(request) -> None:
    if "cell" not in request.fixturenames:
        return
    cell = request.getfixturevalue("cell")
    if cell.processes["controller"].process.poll() is not None or cell.parameters["controller"]:
        cell.restart_controller()
    cell.say_e_stop(False)
    cell.wait(0.1)
    cell.call("reset_e_stop")
    assert cell.call("give_to_policy").success
    cell.wait_for(settled=True)
    cell.wait(0.2)
    if np.abs(cell.motion()[1][-1] - np.array(cell.profile.arm.neutral)).max() > 0.3:
        assert cell.call("neutral").success
        cell.wait_for(timeout_s=60, state="holding", settled=True)
        assert cell.call("give_to_policy").success
        cell.wait(0.3)


def test_nothing_is_commanded_before_something_was_asked(cell):
    # The module's fixture looked before anything else happened; here, that asking makes a difference.
    cell.begin()


def test_the_tool_moves_where_the_deltas_say(cell):
    start = cell.tool
    actions = [[0.02, 0.01, -0.01, 0.0, 0.0, 0.1, 1.0]] * 4 + [[0.0, -0.02, 0.0, 0.05, 0.0, 0.0, 0.0]] * 3
    expected = start
    for action in actions:
        expected = compose(expected, action, cell.space)
        cell.send(action)
        # A step that has not begun would be replaced by the next chunk.
        cell.wait_for_target(expected)
    cell.wait(1.0)
    assert np.linalg.norm(cell.tool.position - expected.position) < 5e-3
    turn = expected.rotation.T @ cell.tool.rotation
    assert np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1)) < 0.03
    finger = cell.states[-1].position[list(cell.states[-1].name).index(cell.profile.gripper.joint)]
    assert finger == pytest.approx(cell.profile.gripper.closed_m, abs=2e-3)


def test_the_stream_keeps_the_limits_and_each_message_ends_in_a_stop(cell):
    cell.commands.clear()
    for sign in (1, -1, 1):
        cell.drive([0.05 * sign, 0.03 * sign, 0.0, 0.0, 0.0, 0.25 * sign, 1.0], 0.6)
    cell.check_commands(at_least=20)
    assert all(list(m.points[-1].velocities) == [0.0] * 6 for m in cell.commands)
    assert max(len(m.points) for m in cell.commands) > 1


@pytest.mark.parametrize(
    ("action", "changes", "reason"),
    [
        ([float("nan"), *STAY[1:]], {}, Reason.NOT_FINITE),
        ([float("inf"), *STAY[1:]], {}, Reason.NOT_FINITE),
        ([0.5, *STAY[1:]], {}, Reason.STEP_BOUNDS),
        (STAY[:6], {"names": ("x", "y", "z", "roll", "pitch", "yaw")}, Reason.WIDTH),
        (STAY, {"frame": "somewhere_else"}, Reason.SPACE),
        (STAY, {"names": ("y", "x", "z", "roll", "pitch", "yaw", "gripper")}, Reason.SPACE),
        (STAY, {"step_s": 0.05}, Reason.TIMING),
        (STAY, {"age_s": 2.0}, Reason.STALE),
        (STAY, {"age_s": -2.0}, Reason.FUTURE),
        (STAY, {"source": "teleop"}, Reason.OWNER),
    ],
)
def test_a_bad_chunk_is_refused_with_its_reason_and_nothing_moves(cell, action, changes, reason):
    before = cell.tool
    cell.send(action, **changes)
    report = cell.expect(reason, "refusal")
    assert not report.verdict.commands
    assert report.verdict.detail
    cell.wait(0.3)
    assert np.linalg.norm(cell.tool.position - before.position) < 1e-3


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (JointTrajectory(), Reason.WIDTH),
        (JointTrajectory(joint_names=["x"] * 3, points=[JointTrajectoryPoint()] * 3), Reason.WIDTH),
        (JointTrajectory(joint_names=[f"name_{i}" for i in range(20_000)]), Reason.WIDTH),
    ],
)
def test_a_chunk_of_any_size_is_refused_and_hold_is_answered(cell, message, reason):
    cell.publish_chunk(message, "teleop")
    cell.publish_chunk(message, "policy")
    cell.expect(reason, "refusal")
    assert cell.call("hold").success
    assert cell.processes["controller"].process.poll() is None


def test_joint_states_of_others_and_without_positions_change_nothing(cell):
    node, arm = cell.listener.node, cell.profile.arm.joints
    states = node.create_publisher(JointState, "joint_states", qos.STREAM_OUT)
    cell.listener.spin_until(states.get_subscription_count)
    for message in (
        JointState(),
        JointState(name=[cell.profile.gripper.joint], effort=[0.1]),
        JointState(name=list(arm), effort=[0.1] * len(arm)),
        JointState(name=["left_wheel", "mast"], position=[float("nan"), 1.0]),
        JointState(name=[*arm, arm[0]], position=[3.0] * (len(arm) + 1)),
        JointState(name=["x"] * 20_000),
    ):
        for _ in range(3):  # the controller keeps the newest only
            states.publish(message)
            cell.listener.spin_for(0.05)
    node.destroy_publisher(states)
    cell.states[:] = [message for message in cell.states if message.velocity]  # the robot's own
    assert cell.processes["controller"].process.poll() is None
    start = cell.tool
    cell.drive([0.02, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0], 0.6)
    assert np.linalg.norm(cell.tool.position - start.position) > 0.01
    cell.diagnostics.clear()
    refused: dict[str, str] = {}

    def counted() -> bool:
        for message in cell.diagnostics:
            for status in message.status:
                if status.name == "controller: refused messages":
                    refused.update({v.key: v.value for v in status.values})
        return bool(refused)

    assert cell.listener.spin_until(counted, 20)
    assert int(refused["joint_states: invalid_value"]) > 1
    assert int(refused["joint_states: too_large"]) >= 1


def test_refusals_are_counted_by_reason_in_diagnostics(cell):
    def count() -> int | None:
        statuses = [s for message in cell.diagnostics for s in message.status if s.name.endswith(": safety")]
        return (
            int({v.key: v.value for v in statuses[-1].values}.get("count/not_finite", 0))
            if statuses
            else None
        )

    cell.diagnostics.clear()
    assert cell.listener.spin_until(lambda: count() is not None, 20)
    before = count()
    for _ in range(5):
        cell.send([float("nan"), *STAY[1:]])
        cell.wait(0.05)
    cell.diagnostics.clear()
    cell.listener.spin_until(lambda: count() == before + 5, 10)
    assert count() == before + 5


def test_the_age_of_the_observation_behind_the_commands_is_in_diagnostics(cell):
    def status() -> dict[str, str]:
        found = [
            {v.key: v.value for v in s.values}
            for message in cell.diagnostics
            for s in message.status
            if s.name.endswith(": camera to command")
        ]
        return found[-1] if found else {}

    cell.restart_controller()
    cell.wait_for(owner="policy")
    cell.diagnostics.clear()
    assert cell.listener.spin_until(lambda: status().get("chunks") == "0", 20)
    age_s, steps = 0.3, 3
    for _ in range(20):  # each comes when the steps of the one before are over
        cell.send([STAY] * steps, age_s=age_s)
        cell.wait((steps + 0.5) * cell.space.step_s)
        if int(status()["chunks"]) >= 4:  # on a busy machine some arrive too late and are refused
            break
    values = {key: float(value) for key, value in status().items() if value}
    assert values["chunks"] >= 4, cell.reports[-3:]
    # The age that was sent and what the way took. What is older when it comes is refused.
    limit_s = cell.profile.control.chunk_max_age_s + cell.space.step_s
    for key in ("p50_ms", "p95_ms", "p99_ms", "max_ms"):
        assert 1e3 * age_s <= values[key] < 1e3 * limit_s, (key, values)
    # The last step of a chunk follows what was seen two steps earlier than the first one did.
    assert values["every_max_ms"] >= 1e3 * (age_s + (steps - 1) * cell.space.step_s)


def test_without_new_chunks_the_arm_stops_smoothly_and_holds(cell):
    cell.drive([0.03, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0], 1.0)
    assert cell.is_moving()
    since = cell.now_ns
    report = cell.expect(Reason.STARVED, "state")
    assert report.state == "holding"
    assert cell.seconds_to_rest(since, 2.0) < 2.0


@pytest.mark.stops
def test_hold_stops_and_only_a_new_owner_or_pose_goes_on(cell):
    cell.drive([0.02, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0], 0.6)
    since = cell.now_ns
    assert cell.call("hold").success
    assert cell.seconds_to_rest(since, 1.5) < 1.0
    held = cell.tool
    cell.send([0.02, *STAY[1:]])
    cell.expect(Reason.HELD, "refusal")
    assert np.linalg.norm(cell.tool.position - held.position) < 2e-3
    assert cell.call("give_to_policy").success
    cell.drive([0.02, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0], 0.6)
    cell.wait(0.8)
    assert cell.tool.position[0] - held.position[0] > 0.03


@pytest.mark.stops
@pytest.mark.parametrize("way", ["service", "topic"])
def test_e_stop_is_latched_and_only_a_reset_clears_it(cell, way):
    cell.drive([0.03, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0], 0.8)
    since = cell.now_ns
    if way == "service":
        assert cell.call("e_stop").success
    else:
        cell.say_e_stop(True)
    cell.expect(Reason.E_STOP)
    assert cell.seconds_to_rest(since, 1.5) < 1.0
    stopped = cell.tool
    for name in ("hold", "home", "give_to_policy", "give_to_teleop"):
        cell.call(name)
        assert cell.wait_for(state="e_stop").verdict.reason is Reason.E_STOP, name
    cell.send([0.02, *STAY[1:]])
    cell.expect(Reason.E_STOP, "refusal")
    if way == "topic":
        assert not cell.call("reset_e_stop").success  # the button is still pressed
        cell.say_e_stop(False)
        cell.wait(0.2)
        assert cell.wait_for(state="e_stop")  # letting go is no reset
    assert cell.call("reset_e_stop").success
    cell.send([0.02, *STAY[1:]])
    cell.expect(Reason.HELD, "refusal")  # a reset alone moves nothing
    assert np.linalg.norm(cell.tool.position - stopped.position) < 2e-3


@pytest.mark.parametrize("name", ["home", "park"])
def test_named_poses_are_reached(cell, name):
    assert cell.call(name).success
    cell.wait_for(timeout_s=60, state="holding", settled=True)
    cell.wait(0.5)
    goal = np.array(getattr(cell.profile.arm, name))
    assert np.abs(cell.motion()[1][-1] - goal).max() < 0.02
    cell.send([0.02, *STAY[1:]])  # a policy that still acts
    assert f"at {name}; give the arm to an owner" in cell.expect(Reason.HELD, "refusal").verdict.detail


def test_teleoperation_takes_over_and_its_dead_man_stops(cell):
    cell.drive([0.02, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0], 0.6)
    cell.commands.clear()
    assert cell.call("give_to_teleop").success
    cell.drive([0.0, 0.0, -0.02, 0.0, 0.0, 0.0, 1.0], 0.6, source="teleop")
    cell.check_commands(at_least=20)
    report = cell.expect(Reason.DEAD_MAN, "state")
    assert report.owner == "teleoperation"


def test_a_profile_without_recovery_says_so(cell):
    answer = cell.call("recover")
    assert not answer.success
    assert "recovery_action" in answer.message


def test_stop_brings_the_arm_to_rest_and_the_last_command_is_the_hold(cell):
    cell.drive([0.04, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0], 1.0)
    assert cell.is_moving()
    since = cell.now_ns
    assert cell.stop_controller() == 0, cell.processes["controller"].output
    assert cell.seconds_to_rest(since, 1.5) < 1.0
    last = cell.commands[-1]
    assert list(last.points[-1].velocities) == [0.0] * 6
    assert np.ptp([point.positions for point in last.points[-2:]], axis=0).max() == 0.0
    assert np.abs(cell.motion()[1][-1] - np.array(last.points[-1].positions)).max() < 0.02


def test_a_robot_that_does_not_take_the_last_command_is_reported(cell):
    cell.drive(STAY, 0.4)
    robot = cell.processes["simulation"].process
    robot.send_signal(signal.SIGSTOP)
    try:
        code = cell.processes["controller"].stop()
    finally:
        robot.send_signal(signal.SIGCONT)
    assert code == 0
    assert "did not acknowledge the last command" in cell.processes["controller"].output


def test_blocking_mode_moves_once_and_waits_to_be_looked_at(cell):
    cell.restart_controller(mode="blocking")
    start = cell.tool
    cell.send([0.03, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])
    cell.wait_for(state="executing")
    cell.send([0.03, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])
    cell.expect(Reason.BUSY, "refusal")
    assert cell.wait_for(state="holding", settled=True).verdict.reason is Reason.WAITING
    cell.wait(0.3)
    assert cell.tool.position[0] - start.position[0] == pytest.approx(0.03, abs=2e-3)


def test_two_robots_in_two_namespaces_do_not_hear_each_other(ros_domain):
    with Cell("sim_widowx", "left") as left, Cell("sim_widowx", "right") as right:
        for cell in (left, right):
            cell.start_robot()
        start = right.tool
        left.begin()
        left.drive([0.03, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0], 1.0)
        left.wait(0.5)
        right.wait(0.3)
        assert not right.commands
        assert np.linalg.norm(right.tool.position - start.position) < 1e-3
        assert left.tool.position[0] - start.position[0] > 0.05


def test_a_wrong_robot_ends_the_node_at_once_with_the_names_there_are(ros_domain):
    with Cell() as cell:
        process = cell.start("controller", robot="no_such_robot")
        assert process.process.wait(START_S) == 1
        assert "sim_widowx" in process.output
        assert "Traceback" not in process.output
