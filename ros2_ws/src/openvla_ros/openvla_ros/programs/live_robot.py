"""A robot's processes and an operator's node in one place: start, tell, record, swap, stop.

For programs that run the whole live path by themselves: the demo, live evaluation, ``openvla loop``. Every
message crosses DDS; nothing here reaches into a node.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.parameter_client import AsyncParameterClient
from rclpy.task import Future
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.bringup.graph import Graph, GraphOptions, build_graph
from openvla_ros.bringup.supervisor import Supervisor
from openvla_ros.errors import DeviceError
from openvla_ros.profile import load_profile
from openvla_ros.programs.operator import Operator, Outcome
from openvla_ros.ros import qos
from openvla_ros.ros.messages import to_chunk_message
from openvla_ros.ros.start import start_ros
from openvla_ros.values.action import ActionChunk

# Starting MuJoCo, PyTorch and discovery on two busy cores.
READY_TIMEOUT_S = 240.0
ANSWER_TIMEOUT_S = 60.0
# The tool stands when it has moved less than this within the time below.
STILL_M, STILL_S, STILL_TIMEOUT_S = 0.001, 0.6, 15.0
OPENING_CHUNKS = 4  # steps that the gripper takes to open
READY_CALLBACKS = 20  # that may wait between two looks at the processes: one spin runs one of them


class LiveLoop:
    """The supervised processes of a robot, driven from one thread; a context manager."""

    def __init__(self, options: GraphOptions, log: Path, graph: Graph | None = None) -> None:
        """Describe the processes; their output goes to ``log``.

        ``graph`` replaces the processes of ``options``: none where the robot is up already.
        """
        self.profile = load_profile(options.robot)
        self._graph = build_graph(options, os.environ) if graph is None else graph
        self._log = log
        self.exit_codes: dict[str, int] = {}  # of the processes, once they have been stopped

    def __enter__(self) -> LiveLoop:
        os.environ.update(self._graph.environment)  # this process looks at the images too
        self._file = self._log.open("a", encoding="utf-8")
        start_ros()
        self.operator = Operator(self.profile)
        self._instruction = self.operator.create_publisher(String, "instruction", qos.LATCHED)
        self._person = self.operator.create_publisher(JointTrajectory, "teleop/action_chunk", qos.COMMAND)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.operator)
        self._supervisor = Supervisor(self._graph, self._note)
        try:
            self._supervisor.start()
            self.spin_until(lambda: not self.operator.missing(), READY_TIMEOUT_S)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def processes(self) -> list[str]:
        """The names of the processes, in the order in which they are started."""
        return [node.name for node in self._graph.nodes]

    def spin_until(self, done: Callable[[], bool], timeout_s: float) -> None:
        """Spin as ``wait`` does; raises ``DeviceError`` after ``timeout_s``."""
        if not self.wait(done, timeout_s):
            missing = ", ".join(self.operator.missing()) or "an answer"
            raise DeviceError(f"after {timeout_s:.0f} s still missing: {missing}; {self._log} says more")

    def wait(self, done: Callable[[], bool], timeout_s: float) -> bool:
        """Spin and forward logs; return whether ``done()`` came true within ``timeout_s``.

        Raises ``DeviceError`` if a process ends.
        """
        deadline = time.monotonic() + timeout_s
        while not done() and time.monotonic() < deadline:
            self._executor.spin_once(timeout_sec=0.02)
            for _ in range(READY_CALLBACKS):
                self._executor.spin_once(timeout_sec=0.0)
            self._supervisor.forward(timeout_s=0.0)
            ended = self._supervisor.check()
            if ended is not None:
                raise DeviceError(f"{ended.spec.name} ended by itself; {self._log} says why")
        return done()

    def spin_for(self, seconds: float) -> None:
        """Spin for a while."""
        self.wait(lambda: False, seconds)

    def set_parameter(self, node: str, name: str, value: str | int | float) -> None:
        """Set a parameter of a running node; raises ``DeviceError`` with its reason if it refuses."""
        client = AsyncParameterClient(self.operator, node)
        self.spin_until(client.services_are_ready, ANSWER_TIMEOUT_S)
        future = client.set_parameters([Parameter(name, value=value)])
        self.spin_until(future.done, ANSWER_TIMEOUT_S)
        (result,) = future.result().results
        if not result.successful:
            raise DeviceError(f"{node} refuses {name} = {value!r}: {result.reason}")

    def ask(self, service: str) -> tuple[bool, str]:
        """Call a ``std_srvs/Trigger`` service; return whether it was done, and what it said."""
        client = self.operator.create_client(Trigger, service)
        try:
            self.spin_until(client.service_is_ready, ANSWER_TIMEOUT_S)
            future: Future = client.call_async(Trigger.Request())
            self.spin_until(future.done, ANSWER_TIMEOUT_S)
            return bool(future.result().success), str(future.result().message)
        finally:
            self.operator.destroy_client(client)

    def order(self, service: str) -> str:
        """Call a service as ``ask`` does; raises ``DeviceError`` if it was not done."""
        done, message = self.ask(service)
        if not done:
            raise DeviceError(f"{service}: {message}")
        return message

    def lay_table(self, task: str, seed: int) -> str:
        """Have the simulation make the scene of ``task`` and ``seed``; return what it asks for, in words."""
        self.set_parameter("simulation", "task", task)
        self.set_parameter("simulation", "seed", seed)
        return self.order("simulation/reset")

    def go_to_neutral(self) -> None:
        """Open the gripper, move to the neutral pose and wait until the arm stands."""
        self.open_gripper()
        self.order("controller/neutral")
        self.spin_for(STILL_S)
        self.spin_until(self._stands, STILL_TIMEOUT_S)

    def open_gripper(self) -> None:
        """Open the gripper as a person at a teleoperation device would, without moving."""
        self.order("controller/give_to_teleop")
        space = self.profile.space()
        still = np.zeros((1, space.width))
        still[0, -1] = space.gripper_open
        for _ in range(OPENING_CHUNKS):
            chunk = ActionChunk(still, self.operator.get_clock().now().nanoseconds, space)
            self._person.publish(to_chunk_message(chunk, self.profile.action_frame_id()))
            self.spin_for(space.step_s)

    def carry_out(self, instruction: str, time_limit_s: float) -> Outcome:
        """Tell the robot and wait for how it ends."""
        self.operator.tell(instruction, time_limit_s)
        self.spin_until(lambda: self.operator.outcome() is not None, time_limit_s + ANSWER_TIMEOUT_S)
        outcome = self.operator.outcome()
        assert outcome is not None
        return outcome

    def policy_description(self) -> str:
        """Return what decides, as the policy node says it in its diagnostics."""
        self.spin_until(lambda: "policy: task" in self.operator.measured.statuses, ANSWER_TIMEOUT_S)
        statuses = self.operator.measured.statuses
        return next(str(v.value) for v in statuses["policy: task"].values if v.key == "policy")

    def say(self, instruction: str) -> None:
        """Publish the instruction topic; an empty text ends what is being done."""
        self.operator.success = False
        self._instruction.publish(String(data=instruction))

    def _stands(self) -> bool:
        path = np.array(self.operator.measured.path[-200:])
        if not len(path):
            return False
        recent = path[path[:, 0] >= path[-1, 0] - STILL_S, 1:]
        return len(recent) > 2 and bool(np.ptp(recent, axis=0).max() < STILL_M)

    def _note(self, name: str, line: str) -> None:
        self._file.write(f"{name}: {line}\n")

    def _stop(self) -> None:
        self.exit_codes = self._supervisor.stop()
        self._executor.shutdown()
        self.operator.destroy_node()
        rclpy.try_shutdown()
        self._file.close()
