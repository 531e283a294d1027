"""A controller's core and an arm that is where it was commanded to be, without processes and topics."""

from dataclasses import replace

import numpy as np
import pytest

from openvla_ros.profile import RobotProfile, load_profile
from openvla_ros.robot.controller import ArmController
from openvla_ros.robot.output import ControllerOutput, ControllerState
from openvla_ros.values.action import ActionChunk
from openvla_ros.values.geometry import Pose
from openvla_ros.values.verdict import Reason

WIDOWX, FRANKA = load_profile("sim_widowx"), load_profile("sim_franka")
ROBOTS = pytest.mark.parametrize("profile", [WIDOWX, FRANKA], ids=["widowx", "franka"])
TICK_NS = 10_000_000
START_NS = 1_000 * 10**9


class Bench:
    """A controller and an arm that is where it was commanded to be, one tick late."""

    def __init__(self, profile: RobotProfile, at: str = "neutral") -> None:
        self.profile = profile
        self.controller = ArmController(profile)
        self.q = np.array(getattr(profile.arm, at))
        self.now_ns = START_NS
        self.outputs: list[ControllerOutput] = []
        self.effort: np.ndarray | None = None
        self.reports_wrench = profile.state.wrench_topic is not None
        self.tick()

    def tick(self, count: int = 1) -> ControllerOutput:
        for _ in range(count):
            self.now_ns += TICK_NS
            self.controller.observe(self.q, None, self.effort, self.now_ns, self.now_ns)
            if self.reports_wrench:
                self.controller.observe_wrench(np.zeros(3), np.zeros(3), self.now_ns, self.now_ns)
            output = self.controller.tick(self.now_ns)
            if output.joint_positions is not None:
                self.q = output.joint_positions
            self.outputs.append(output)
        return output

    def chunk(self, *actions, age_s: float = 0.0) -> ActionChunk:
        stamp_ns = self.now_ns - round(age_s * 1e9)
        return ActionChunk(np.array(actions, dtype=float), stamp_ns, self.profile.space())

    def send(self, *actions, age_s: float = 0.0, source: str = "policy"):
        return self.controller.accept(self.chunk(*actions, age_s=age_s), source, self.now_ns)

    def run_policy(self, action, seconds: float, period_s: float = 0.2, latency_s: float = 0.1) -> None:
        for _ in range(round(seconds / period_s)):
            assert self.send(action, age_s=latency_s).reason is Reason.OK
            self.tick(round(period_s * 100))

    def streams(self):
        q = np.array([o.joint_positions for o in self.outputs if o.joint_positions is not None])
        return [np.diff(q, n=k, axis=0) / 0.01**k for k in (1, 2, 3)]

    def tool(self) -> Pose:
        return self.controller.chain.forward(self.q)


def with_control(profile: RobotProfile, **changes) -> RobotProfile:
    return replace(profile, control=replace(profile.control, **changes))


def action(x=0.0, y=0.0, z=0.0, roll=0.0, pitch=0.0, yaw=0.0, gripper=1.0):
    return [x, y, z, roll, pitch, yaw, gripper]


def centre(bench: Bench) -> None:
    """Bring the tool well into the workspace."""
    lower, upper = (np.array(getattr(bench.profile.limits, f"workspace_{k}")) for k in ("lower", "upper"))
    for _ in range(12):
        way = np.clip((lower + upper) / 2 - bench.tool().position, -0.03, 0.03)
        bench.send(action(*way))
        bench.tick(20)
    bench.tick(80)
    assert bench.outputs[-1].state is ControllerState.HOLDING
    bench.outputs.clear()
