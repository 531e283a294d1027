"""Prints the processor time of a control period and of its parts, for the package on PYTHONPATH, in us.

Run by ``bench_cpu.py`` in a process of its own, for the present package and for version 0.1.0, whose modules
had other names. Times are the thread's own; each is the lowest mean over batches, which other load disturbs
least.

    python benchmarks/tick_cost.py sim_widowx 1500
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import numpy as np

from openvla_ros.profile import load_profile
from openvla_ros.robot.controller import ArmController

try:
    from openvla_ros.robot.kinematics.chain import KinematicChain
    from openvla_ros.robot.kinematics.inverse_kinematics import InverseKinematics
    from openvla_ros.robot.motion.motion_limiter import JointMotion, MotionLimiter, MotionLimits
    from openvla_ros.values.action import ActionChunk
except ModuleNotFoundError:  # 0.1.0
    from openvla_ros.action import ActionChunk
    from openvla_ros.robot.braking import JointMotion, MotionLimiter, MotionLimits
    from openvla_ros.robot.inverse import InverseKinematics

    from openvla_ros.robot.kinematics import KinematicChain

PERIOD_S, BATCH = 0.01, 100


def lowest_us(work: Callable[[int], None], periods: int) -> float:
    """Return the lowest mean time of ``work(i)`` over batches of ``BATCH`` periods, microseconds."""
    means = []
    for first in range(0, periods, BATCH):
        began = time.thread_time_ns()
        for i in range(first, first + BATCH):
            work(i)
        means.append((time.thread_time_ns() - began) / BATCH / 1e3)
    return min(means[1:])


class Executing:
    """The controller with a perfect arm, and a policy that leads it round a small circle."""

    def __init__(self, robot: str) -> None:
        self.profile = load_profile(robot)
        self.controller, self.space = ArmController(self.profile), self.profile.space()
        self.q, self.now_ns, self.spent_ns = np.array(self.profile.arm.neutral), 10**12, 0
        self.every = round(self.profile.control.rate_hz / self.space.rate_hz)

    def period(self, i: int) -> None:
        """Do the work of one control period, of which only the tick counts."""
        self.now_ns += round(PERIOD_S * 1e9)
        self.controller.observe(self.q, None, None, self.now_ns - 2_000_000, self.now_ns)
        if i % self.every == 0:
            actions = np.zeros((1, 7))
            actions[0, :3] = 0.015 * np.array([np.sin(i / 60), np.cos(i / 60), 0.0])
            actions[0, 6] = 1.0
            chunk = ActionChunk(actions, self.now_ns - 20_000_000, self.space)
            self.controller.accept(chunk, "policy", self.now_ns)
        began = time.thread_time_ns()
        output = self.controller.tick(self.now_ns)
        self.spent_ns += time.thread_time_ns() - began
        assert output.joint_positions is not None
        assert str(output.state) == "executing", output.verdict
        self.q = output.joint_positions


def tick_us(robot: str, periods: int) -> float:
    """Return the mean time of a tick, microseconds, without the batches that other load disturbed most."""
    run, means = Executing(robot), []
    for first in range(0, periods, 2 * BATCH):
        before = run.spent_ns
        for i in range(first, first + 2 * BATCH):
            run.period(i)
        means.append((run.spent_ns - before) / (2 * BATCH) / 1e3)
    # Batches differ in what the arm is near to: the mean of the less disturbed half stands for them.
    return float(np.mean(sorted(means[1:])[: max(1, len(means) // 2)]))


def limiter_us(robot: str, periods: int) -> float:
    """Return the cost of following a smooth target and of the samples of the stop."""
    profile = load_profile(robot)
    limits = MotionLimits.from_profile(profile.limits)
    limiter = MotionLimiter(limits, PERIOD_S, 0.2)
    q0 = np.array(profile.arm.neutral)
    motion = JointMotion.at_rest(q0)

    def work(i: int) -> None:
        nonlocal motion
        t = 0.5 * i * PERIOD_S
        target = JointMotion(
            q0 + 0.2 * np.sin(t), np.full(len(q0), 0.1 * np.cos(t)), np.full(len(q0), -0.05 * np.sin(t))
        )
        motion = limiter.follow(motion, target)
        limiter.stop_samples(motion, 4)

    return lowest_us(work, periods)


def inverse_us(robot: str, periods: int) -> float:
    """Return the cost of one inverse step along a smooth path."""
    profile = load_profile(robot)
    chain, limits = KinematicChain.from_profile(profile.arm), profile.limits
    solver = InverseKinematics(
        chain, limits.joint_lower, limits.joint_upper, limits.joint_velocity, profile.arm.neutral
    )
    q0 = np.array(profile.arm.neutral)
    t = np.arange(periods)[:, None] * PERIOD_S
    targets = chain.frames(q0 + 0.1 * np.sin(0.5 * t + np.arange(len(q0))) - 0.1 * np.sin(np.arange(len(q0))))
    q = q0

    def work(i: int) -> None:
        nonlocal q
        q = solver.step(q, targets[i, -1], PERIOD_S).q

    return lowest_us(work, periods)


def main() -> None:
    robot, periods = sys.argv[1], int(sys.argv[2])
    parts = {"tick": tick_us, "limiter": limiter_us, "inverse step": inverse_us}
    print(json.dumps({name: measure(robot, periods) for name, measure in parts.items()}))


if __name__ == "__main__":
    main()
