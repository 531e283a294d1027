"""A simulated robot for programs in other environments, over their standard input and output.

The program says what to do in lines of JSON (``clients/piped_robot.py``) and gets what the robot sees. What
became of each scene is counted here, and compared with ``openvla evaluate`` in this process.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from openvla_ros.evaluation.closed_loop import run_trials
from openvla_ros.evaluation.evaluation_run import EvaluationRequest, evaluate_tasks
from openvla_ros.policy.proprioception import state_reader
from openvla_ros.policy.protocol import Policy
from openvla_ros.profile import RobotProfile, load_profile
from openvla_ros.sim.rollout import ActionExecutor, observe
from openvla_ros.sim.tasks import MAX_STEPS, find_task
from openvla_ros.sim.world import SimulatedRobot
from openvla_ros.values.action import ActionChunk
from openvla_ros.values.time import nanoseconds
from peers.rows import PeerError

CLIENTS = Path(__file__).with_name("clients")
ROBOT, TASK, CHECKPOINT = "sim_widowx", "lift", "small_base"
SEEDS = tuple(range(100, 110))
PROGRAM = "from openvla_ros.cli.main import main; main()"


@dataclass(frozen=True)
class Outcome:
    """What became of one scene."""

    success: bool
    steps: int


Outcomes = dict[int, Outcome]  # by seed


@dataclass(frozen=True)
class Run:
    """What a program did with the robot, and what it reports at its end."""

    outcomes: Outcomes
    report: Any


def evaluated(seeds: Sequence[int] = SEEDS) -> Outcomes:
    """Return what ``openvla evaluate`` says of the seeds, in this process."""
    request = EvaluationRequest(CHECKPOINT, None, ROBOT, (TASK,), tuple(seeds))
    trials = evaluate_tasks(request).trials
    return {trial.seed: Outcome(trial.success, trial.steps) for trial in trials}


def same(found: Outcomes, right: Outcomes) -> tuple[bool, str]:
    """Return whether every scene ended alike, after as many steps, and a sentence on it."""
    wrong = [seed for seed in right if found.get(seed) != right[seed]]
    if wrong:
        return False, f"differs on seed {wrong[0]}: {found.get(wrong[0])}, evaluate {right[wrong[0]]}"
    good = sum(outcome.success for outcome in found.values())
    return True, f"{good} of {len(found)} scenes, as openvla evaluate, in as many steps"


@contextmanager
def served(*arguments: str) -> Iterator[int]:
    """Run ``openvla serve`` on the small base with more ``arguments``; yields its port."""
    command = [sys.executable, "-c", PROGRAM, "serve", CHECKPOINT, "--robot", ROBOT, "--port", "0"]
    with subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            line = server.stdout.readline()
            if not line:
                raise PeerError("openvla serve did not start")
            yield int(line.rsplit(":", 1)[1])
        finally:
            server.terminate()


@contextmanager
def running(python: Path, program: str, *arguments: str) -> Iterator[int]:
    """Run a server of ``clients/program`` in its environment; yields the port that it prints first."""
    command = [str(python), str(CLIENTS / program), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=_surroundings()) as server:
        assert server.stdout is not None
        try:
            line = server.stdout.readline()
            if not line:
                raise PeerError(f"{program} {arguments[0]} did not start")
            port = int(line)
            _wait_for(port)
            yield port
        finally:
            server.terminate()


def _wait_for(port: int) -> None:
    """Wait until something listens on ``port``; raises ``PeerError`` after 30 s."""
    deadline = time.monotonic() + 30.0
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    raise PeerError(f"nothing listens on port {port}")


def rolled_out(policy: Policy, seeds: Sequence[int] = SEEDS) -> Outcomes:
    """Return what becomes of the seeds under ``policy`` in this process."""
    with SimulatedRobot(load_profile(ROBOT), find_task(TASK)) as robot:
        trials = list(run_trials(policy, robot, seeds))
    return {trial.seed: Outcome(trial.success, trial.steps) for trial in trials}


def _surroundings() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": "", "CUDA_VISIBLE_DEVICES": ""}


def driven(python: Path, program: str, *arguments: str) -> Run:
    """Run ``clients/program`` with the Python of its environment, which drives the robot.

    Raises ``PeerError`` if it fails; its complaints are on the terminal.
    """
    command = [str(python), str(CLIENTS / program), *arguments]
    profile = load_profile(ROBOT)
    with (
        SimulatedRobot(profile, find_task(TASK)) as robot,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_surroundings()
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        run = _obey(robot, profile, process.stdout, process.stdin)
        if process.wait(60) or run is None:
            raise PeerError(f"{program} {' '.join(arguments)} ended with {process.returncode}")
        return run


def _obey(robot: SimulatedRobot, profile: RobotProfile, asked: IO[bytes], told: IO[bytes]) -> Run | None:
    """Do what the program says until it reports; None if it ends without a report."""
    outcomes: Outcomes = {}
    executor, seed, state = ActionExecutor(robot), -1, state_reader("pose_gripper", profile)
    for line in asked:
        order = json.loads(line)
        match order["do"]:
            case "report":
                return Run(outcomes, order["report"])
            case "reset":
                seed = order["seed"]
                robot.reset(seed)
                executor = ActionExecutor(robot)
                outcomes[seed] = Outcome(robot.success, 0)
            case "step":
                if not outcomes[seed].success:
                    chunk = ActionChunk(
                        np.array([order["action"]]), nanoseconds(robot.time_s), profile.space()
                    )
                    executor.execute(chunk)
                    outcomes[seed] = Outcome(robot.success, outcomes[seed].steps + 1)
        seen = observe(robot, robot.instruction)
        image = seen.images[profile.cameras[0].name]
        head = {
            "shape": image.shape, "state": state(seen).tolist(), "instruction": robot.instruction,
            "over": robot.success or outcomes[seed].steps >= MAX_STEPS, "success": robot.success,
        }  # fmt: skip
        told.write(json.dumps(head).encode() + b"\n" + image.tobytes())
        told.flush()
    return None
