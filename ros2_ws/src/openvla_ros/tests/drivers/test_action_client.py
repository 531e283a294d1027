"""What the robot's side never answered is sent again once it is back; a real server, over DDS."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")

import rclpy
from rclpy.action import ActionServer, GoalResponse
from rclpy.executors import SingleThreadedExecutor
from support import foreign_messages
from support.child_process import Child, python_child
from support.node_processes import Listener

from openvla_ros.drivers import action_client
from openvla_ros.drivers.action_client import ActionGoal

pytestmark = [pytest.mark.ros, pytest.mark.timeout(600)]  # the first run builds message packages

BACK_S = 40.0  # more than a busy machine takes to start a process and to find it


@pytest.fixture
def env(ros_domain) -> dict[str, str]:
    return {**foreign_messages.environment(), "ROS_DOMAIN_ID": str(ros_domain)}


@pytest.fixture
def driver(env) -> Iterator[Child]:
    with python_child("driver_client_process.py", env=env) as child:
        child.expect(lambda e: "ready" in e, 120)
        yield child


@contextmanager
def robot(env) -> Iterator[Child]:
    with python_child("fake_driver_process.py", env=env) as child:
        child.expect(lambda e: "ready" in e, 120)
        yield child


def make(driver: Child, part: str, **backend) -> None:
    driver.say(do="make", robot="franka", part=part, backend=backend)
    driver.expect(lambda e: "made" in e)


def connect(driver: Child, problem: str | None = None) -> str | None:
    driver.say(do="connect", problem=problem)
    return driver.expect(lambda e: "missing" in e, 120)["missing"]


def gripper(driver: Child, opening: float) -> None:
    insist(driver, opening, 1.0)
    driver.expect(lambda e: "insisted" in e)


def insist(driver: Child, opening: float, seconds: float) -> None:
    driver.say(do="insist", opening=opening, seconds=seconds)


GRIPPERS = [
    ("gripper_command", "/old_gripper/gripper_cmd", "/old_gripper/gripper_cmd", "/old_gripper/gripper_cmd"),
    ("franka", "/franka_gripper", "/franka_gripper/grasp", "/franka_gripper/move"),
]


@pytest.mark.parametrize("kill", [False, True], ids=["ended", "killed"])
@pytest.mark.parametrize(("kind", "topic", "closes", "opens"), GRIPPERS, ids=[case[0] for case in GRIPPERS])
def test_a_gripper_that_comes_back_is_sent_the_last_opening(env, driver, kind, topic, closes, opens, kill):
    make(driver, "gripper", kind=kind, topic=topic)
    with robot(env) as first:
        assert connect(driver) is None
        gripper(driver, 0.0)
        first.expect(lambda e: e.get("action") == closes)
        if kill:
            first.process.kill()  # it is still listed for seconds: the next goal goes to nobody
            first.process.wait()
        else:
            first.stop()
            assert connect(driver, topic)
        gripper(driver, 1.0)
    with robot(env) as second:
        insist(driver, 1.0, BACK_S)
        second.expect(lambda e: e.get("action") == opens)


def test_a_gripper_that_comes_back_is_sent_an_opening_that_has_not_changed(env, driver):
    make(driver, "gripper", kind="gripper_command", topic="/old_gripper/gripper_cmd")
    with robot(env) as first:
        assert connect(driver) is None
        gripper(driver, 0.0)
        first.expect(lambda e: e.get("action") == "/old_gripper/gripper_cmd")
        first.process.kill()
    with robot(env) as second:
        insist(driver, 0.0, BACK_S)
        second.expect(lambda e: e.get("action") == "/old_gripper/gripper_cmd")


def test_a_servo_that_comes_back_is_started_again(env, driver):
    make(driver, "arm", kind="servo_twist", topic="/jazzy_servo/delta_twist_cmds")
    with robot(env) as first:
        assert connect(driver) is None
        first.expect(lambda e: e.get("service") == "pause_servo")
        first.process.kill()
    with robot(env) as second:
        driver.say(do="keep_connecting", seconds=BACK_S)
        second.expect(lambda e: e.get("service") == "switch_command_type")
        second.expect(lambda e: e.get("service") == "pause_servo")


def test_a_recovery_that_is_never_answered_is_said_and_can_be_requested_again(env, driver):
    make(driver, "recovery")
    with robot(env) as first:
        driver.say(do="recover")
        assert driver.expect(lambda e: "problem" in e, 120)["problem"] is None
        first.expect(lambda e: e.get("action") == "/action_server/error_recovery")
        first.process.kill()
        first.process.wait()
    driver.say(do="recover")
    assert driver.expect(lambda e: "problem" in e, 120)["problem"] is None  # it is still listed
    driver.say(do="await_recovery_problem", seconds=BACK_S)
    lost = driver.expect(lambda e: "recovery" in e)["recovery"]
    assert lost is not None
    assert "/action_server/error_recovery" in lost
    assert any(lost in line for line in driver.log)
    with robot(env) as second:
        driver.say(do="keep_recovering", seconds=BACK_S)
        second.expect(lambda e: e.get("action") == "/action_server/error_recovery")


class Server:
    """An action server that is spun only where the test says so."""

    def __init__(self, context, action, accepts) -> None:
        self.node = rclpy.create_node("server", context=context)
        self.got: list[str] = []
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)

        def accept(_goal):
            return GoalResponse.ACCEPT if accepts() else GoalResponse.REJECT

        def execute(handle):
            self.got.append(handle.request.instruction)
            handle.succeed()
            return action.Result()

        self._server = ActionServer(self.node, action, "/act", execute, goal_callback=accept)

    def spin_once(self) -> None:
        self.executor.spin_once(timeout_sec=0.0)

    def close(self) -> None:
        self.executor.shutdown()
        self._server.destroy()
        self.node.destroy_node()


@pytest.fixture
def act():
    action = pytest.importorskip("openvla_interfaces.action").ExecuteInstruction
    accepted = [True]
    with Listener("asks") as asks:
        server = Server(asks.context, action, lambda: accepted[0])
        goal = ActionGoal(asks.node, action, "/act")
        assert asks.spin_until(goal.is_there)
        yield asks, server, goal, action.Goal, accepted
        goal.destroy()
        server.close()


def answered(asks, server, done) -> bool:
    def step():
        server.spin_once()
        return done()

    return asks.spin_until(step)


def test_a_goal_that_was_refused_is_due_again(act):
    asks, server, goal, kind, accepted = act
    accepted[0] = False
    goal.send(kind(instruction="close"))
    assert goal.holds_goal
    assert answered(asks, server, lambda: goal.problem is not None)
    assert goal.check() == "/act refused the goal"
    assert not goal.holds_goal
    accepted[0] = True
    goal.send(kind(instruction="close"))
    assert answered(asks, server, lambda: goal.problem is None and server.got == ["close"])
    assert goal.check() is None
    assert goal.holds_goal


def test_a_server_that_does_not_answer_is_said_and_the_goal_is_due_again(act, monkeypatch):
    asks, server, goal, kind, _ = act
    goal.send(kind(instruction="open"))
    assert goal.check() is None
    monkeypatch.setattr(action_client, "ANSWER_S", 0.0)
    assert goal.check() == "/act has not answered a goal for 0 s"
    assert not goal.holds_goal
    monkeypatch.undo()
    goal.send(kind(instruction="close"))
    assert answered(asks, server, lambda: "close" in server.got)
    assert asks.spin_until(lambda: goal.check() is None)
    assert goal.holds_goal
