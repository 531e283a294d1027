"""A robot's supervised processes and an operator in one place: start, tell, record, swap, stop.

For programs that run the whole live path by themselves: the demo, live evaluation, ``openvla loop``. Every
message crosses DDS; nothing here reaches into a node.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.bringup.graph import Graph, GraphOptions, build_graph
from openvla_ros.bringup.supervisor import Supervisor
from openvla_ros.discovery.client import RobotClient
from openvla_ros.errors import DeviceError
from openvla_ros.profile import load_profile
from openvla_ros.programs.operator import Operator
from openvla_ros.ros import qos
from openvla_ros.ros.messages import to_chunk_message
from openvla_ros.values.action import ActionChunk

# Starting MuJoCo, PyTorch and discovery on two busy cores.
READY_TIMEOUT_S = 240.0
ANSWER_TIMEOUT_S = 60.0
# The tool stands when it has moved less than this within the time below.
STILL_M, STILL_S, STILL_TIMEOUT_S = 0.001, 0.6, 15.0
OPENING_CHUNKS = 4  # steps that the gripper takes to open


class LiveRobot:
    """The client of a robot whose processes it starts, watches and stops; a context manager."""

    def __init__(self, options: GraphOptions, log: Path, graph: Graph | None = None) -> None:
        """Describe the processes; their output goes to ``log``.

        ``graph`` replaces the processes of ``options``: none where the robot is up already.
        """
        self.profile = load_profile(options.robot)
        self._graph = build_graph(options, os.environ) if graph is None else graph
        self._log = log
        self.exit_codes: dict[str, int] = {}  # of the processes, once they have been stopped

    def __enter__(self) -> LiveRobot:
        """Start the processes and wait until they all speak.

        Raises ``DeviceError`` if one is missing after a while, or ends. So does every wait of ``client``.
        """
        os.environ.update(self._graph.environment)  # this process looks at the images too
        with ExitStack() as stack:
            self._file = stack.enter_context(self._log.open("a", encoding="utf-8"))
            self._supervisor = Supervisor(self._graph, self._note)
            hint = f"{self._log} says more"
            client = RobotClient("operator", timeout_s=ANSWER_TIMEOUT_S, hint=hint, look=self._look)
            self.client = stack.enter_context(client)
            self.operator = Operator(self.client, self.profile)
            self._person = self.client.node.create_publisher(
                JointTrajectory, "teleop/action_chunk", qos.COMMAND
            )
            stack.callback(self._stop_processes)
            self._supervisor.start()
            self.operator.wait_until_ready(READY_TIMEOUT_S)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def processes(self) -> list[str]:
        """The names of the processes, in the order in which they are started."""
        return [node.name for node in self._graph.nodes]

    def lay_table(self, task: str, seed: int) -> str:
        """Have the simulation make the scene of ``task`` and ``seed``; return what it asks for, in words."""
        self.client.set_parameter("simulation", "task", task)
        self.client.set_parameter("simulation", "seed", seed)
        return self.client.order("simulation/reset")

    def go_to_neutral(self) -> None:
        """Open the gripper, move to the neutral pose and wait until the arm stands."""
        self.open_gripper()
        self.client.order("controller/neutral")
        self.client.listen(STILL_S)
        self.client.require(self._stands, STILL_TIMEOUT_S, lambda: "the arm does not come to rest at neutral")
        self.client.order("controller/give_to_policy")

    def open_gripper(self) -> None:
        """Open the gripper as a person at a teleoperation device would, without moving; hand the arm back."""
        self.client.order("controller/give_to_teleop")
        space = self.profile.space()
        still = np.zeros((1, space.width))
        still[0, -1] = space.gripper_open
        for _ in range(OPENING_CHUNKS):
            chunk = ActionChunk(still, self.client.now_ns, space)
            self._person.publish(to_chunk_message(chunk, self.profile.action_frame_id()))
            self.client.listen(space.step_s)
        self.client.order("controller/give_to_policy")

    def policy_description(self) -> str:
        """Return what decides, as the policy node says it in its diagnostics."""
        statuses, name = self.operator.measured.statuses, "policy: task"
        self.client.require(
            lambda: name in statuses, ANSWER_TIMEOUT_S, lambda: f"nobody publishes the diagnostics {name!r}"
        )
        return next(str(v.value) for v in statuses[name].values if v.key == "policy")

    def _look(self) -> None:
        """Forward logs; raises ``DeviceError`` if a process has ended."""
        self._supervisor.forward(timeout_s=0.0)
        ended = self._supervisor.check()
        if ended is not None:
            raise DeviceError(f"{ended.spec.name} ended by itself; {self._log} says why")

    def _stands(self) -> bool:
        path = np.array(self.operator.measured.path[-200:])
        if not len(path):
            return False
        recent = path[path[:, 0] >= path[-1, 0] - STILL_S, 1:]
        return len(recent) > 2 and bool(np.ptp(recent, axis=0).max() < STILL_M)

    def _note(self, name: str, line: str) -> None:
        self._file.write(f"{name}: {line}\n")

    def _stop_processes(self) -> None:
        self.exit_codes = self._supervisor.stop()
