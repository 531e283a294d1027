"""Processor time of the controller: of a tick and its parts, and of the whole process at 100 Hz.

The parts are measured in processes of their own, beside version 0.1.0, in turns (``tick_cost.py``). Then the
controller node runs with an arm that is where it was commanded to be and a policy at the action space's rate;
its share of a core is its processor time over the time that passes, middleware and Python included. The
inverse step beside MuJoCo's is in ``bench_ik.py``.

    python benchmarks/bench_cpu.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
import yaml
from first_version import NoHistoryError, profile_for, unpack
from sensor_msgs.msg import JointState
from stop_sessions import Controller
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.bringup.dds import dds_environment
from openvla_ros.profile import RobotProfile, dump_profile, load_profile
from openvla_ros.ros import qos
from openvla_ros.ros.messages import to_chunk_message, to_stamp
from openvla_ros.values.action import ActionChunk

HERE = Path(__file__).resolve().parent
PRESENT = HERE.parent / "ros2_ws/src/openvla_ros"
# Of the mean tick of 0.1.0, and of one core.
TICK_LIMIT, CORE_LIMIT = 0.5, 0.13
STATES_HZ, START_S = 100.0, 60.0
LEAST_COMMANDS_HZ = 90.0  # fewer: the machine was too busy for the measurement


def parts_of(sources: Path, robot: str, periods: int) -> dict[str, float]:
    """Return what ``tick_cost`` measures with the package at ``sources``, microseconds."""
    environment = {**os.environ, "PYTHONPATH": str(sources), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "tick_cost.py"), robot, str(periods)]
    printed = subprocess.check_output(command, env=environment, text=True)
    found: dict[str, float] = json.loads(printed)
    return found


def lowest_of(sources: dict[str, Path], robot: str, periods: int, turns: int) -> dict[str, dict[str, float]]:
    """Return the lowest of ``turns`` interleaved measurements of each version, by version and part."""
    found: dict[str, list[dict[str, float]]] = {version: [] for version in sources}
    for _ in range(turns):
        for version, path in sources.items():
            found[version].append(parts_of(path, robot, periods))
    return {
        version: {part: min(turn[part] for turn in rows) for part in rows[0]}
        for version, rows in found.items()
    }


class Arm:
    """A perfect arm and a policy that leads it round a small circle."""

    def __init__(self, profile: RobotProfile) -> None:
        self._profile, self._space = profile, profile.space()
        self.node = rclpy.create_node("arm")
        self._states = self.node.create_publisher(JointState, "joint_states", qos.STREAM_OUT)
        self._chunks = self.node.create_publisher(JointTrajectory, "policy/action_chunk", qos.COMMAND)
        self.node.create_subscription(JointTrajectory, profile.arm_backend.topic, self._command, qos.COMMAND)
        self._joints = [*profile.arm.joints, profile.gripper.joint]
        self._q = list(profile.arm.neutral)
        self.commands = self.moved = 0

    def _command(self, message: JointTrajectory) -> None:
        # The points that are already due, then the newest motion, then the stop.
        position = list(message.points[min(2, len(message.points) - 1)].positions)
        self.commands += 1
        self.moved += position != self._q
        self._q = position

    def run(self, seconds: float) -> None:
        """Move for ``seconds``."""
        every = round(STATES_HZ / self._space.rate_hz)
        began = time.monotonic()
        for i in range(round(seconds * STATES_HZ)):
            stamp_ns = time.time_ns()
            state = JointState(name=self._joints, position=[*self._q, self._profile.gripper.open_m])
            state.header.stamp = to_stamp(stamp_ns)
            self._states.publish(state)
            if i % every == 0:
                actions = np.zeros((1, self._space.width))
                actions[0, :3] = 0.015 * np.array([np.sin(i / 60), np.cos(i / 60), 0.0])
                actions[0, -1] = 1.0
                chunk = ActionChunk(actions, stamp_ns, self._space)
                self._chunks.publish(to_chunk_message(chunk, self._profile.action_frame_id()))
            due = began + (i + 1) / STATES_HZ
            while (left := due - time.monotonic()) > 0.0:
                rclpy.spin_once(self.node, timeout_sec=left)


def processor_s(pid: int) -> float:
    """Return the processor time of a process so far, seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def process_share(sources: Path, robot: str, seconds: float) -> dict[str, float]:
    """Return the controller's share of a core while it executes, and its commands a second."""
    arm = Arm(load_profile("sim_widowx"))
    try:
        with Controller(sources, robot, permitted=True) as controller:
            end = time.monotonic() + START_S
            while arm.moved < 100:
                controller.check()
                if time.monotonic() > end:
                    raise SystemExit(
                        f"the controller at {sources} did not move the arm within {START_S:.0f} s"
                    )
                arm.run(1.0)
            arm.commands, arm.moved = 0, 0
            before, began = processor_s(controller.process.pid), time.monotonic()
            arm.run(seconds)
            passed = time.monotonic() - began
            share = (processor_s(controller.process.pid) - before) / passed
            return {"core": share, "commands_hz": arm.commands / passed, "moved_hz": arm.moved / passed}
    finally:
        arm.node.destroy_node()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer periods, one turn")
    quick = parser.parse_args().quick
    periods, turns, seconds = (600, 1, 10.0) if quick else (2000, 4, 30.0)
    result: dict[str, Any] = {"benchmark": "cpu", "limit": TICK_LIMIT, "core_limit": CORE_LIMIT}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources, robots = {"present": PRESENT}, {"present": "sim_widowx"}
        try:
            sources = {"0.1.0": unpack(folder), **sources}
            profile = folder / "first_version.yaml"
            values = yaml.safe_load(dump_profile(load_profile("sim_widowx")))
            profile.write_text(yaml.safe_dump(profile_for(sources["0.1.0"], values)), encoding="utf-8")
            robots["0.1.0"] = str(profile)
        except NoHistoryError as error:
            print(f"without a comparison: {error}")
        for robot in ("sim_widowx", "sim_franka"):
            found = lowest_of(sources, robot, periods, turns)
            ratios = {part: found["present"][part] / us for part, us in found.get("0.1.0", {}).items()}
            for part, us in found["present"].items():
                old = (
                    f"{found['0.1.0'][part]:8.0f} us, ratio {ratios[part]:.2f}" if ratios else "not compared"
                )
                print(f"{robot:12} {part:14} {us:8.0f} us; 0.1.0 {old}")
            result[robot] = {
                "us": {part: round(us, 1) for part, us in found["present"].items()},
                "ratio": {part: round(ratio, 3) for part, ratio in ratios.items()},
            }
        os.environ.update(dds_environment(os.environ))
        rclpy.init()
        shares = {version: process_share(sources[version], robots[version], seconds) for version in sources}
        rclpy.shutdown()
    for version, share in shares.items():
        print(
            f"controller process, {version}: {100 * share['core']:.1f} % of a core at "
            f"{share['commands_hz']:.0f} commands/s, {share['moved_hz']:.0f} of them motion"
        )
    busy = shares["present"]["commands_hz"] < LEAST_COMMANDS_HZ
    if busy:
        print("the machine was too busy: the process did not reach its rate")
    ticks = [result[robot]["ratio"].get("tick") for robot in ("sim_widowx", "sim_franka")]
    result["process"] = {v: {key: round(x, 4) for key, x in share.items()} for v, share in shares.items()}
    result["ticks_pass"] = None if None in ticks else max(ticks) <= TICK_LIMIT
    result["process_pass"] = shares["present"]["core"] <= CORE_LIMIT and not busy
    result["load"] = round(os.getloadavg()[0], 1)
    result["pass"] = bool(result["ticks_pass"]) and result["process_pass"]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
