"""The loop, closed: demonstrations, fine-tuning, the adapter into the running robot, and what it brought.

The scripted expert stands in for the person. It knows from the simulator where things are; what is
recorded and learned are images, words and commands alone, as on a real robot.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from openvla_ros.bringup.graph import GraphOptions
from openvla_ros.errors import DeviceError, InvalidValueError, TrainingError
from openvla_ros.evaluation.evaluation_run import EvaluationRequest, evaluate_tasks
from openvla_ros.evaluation.page import add_rates, add_videos
from openvla_ros.evaluation.trials import Evaluation
from openvla_ros.evaluation.wilson import SuccessRate
from openvla_ros.manifest import read_manifest
from openvla_ros.model.checkpoints.safetensors import resolve
from openvla_ros.profile import load_profile
from openvla_ros.programs.expert_operator import ExpertOperator
from openvla_ros.programs.live_evaluation import live_options, run_live_trials, swap_adapter
from openvla_ros.programs.live_robot import LiveRobot
from openvla_ros.report import Page
from openvla_ros.sim.demonstrations import IDLE_M, IDLE_RAD
from openvla_ros.sim.tasks import MAX_STEPS, find_task

# Scenes of the demonstrations and of the evaluations: no seed is in both.
FIRST_DEMONSTRATION, FIRST_TRIAL, FIRST_LIVE_TRIAL, FIRST_CORRECTION = 20_000, 30_000, 40_000, 50_000
PATIENCE_STEPS = 35  # of the policy, before the expert takes over
# While the model learns the robot stands; simulated slowly, it leaves the cores alone. Its states and
# images still come within the age that the profile allows.
STANDING_FACTOR = 0.25
START_TIMEOUT_S = 10.0
FILMED = 3
Say = Callable[[str], None]


@dataclass(frozen=True)
class LoopRequest:
    """How large a loop."""

    base: str
    task: str
    demonstrations: int
    steps: int
    batch_size: int
    corrections: int
    trials: int
    live_trials: int
    robot: str
    folder: Path

    def __post_init__(self) -> None:
        if min(self.demonstrations, self.steps, self.batch_size, self.trials, self.live_trials) < 1:
            raise InvalidValueError("demonstrations, steps, batch size and trials must be at least 1")
        if self.corrections < 0:
            raise InvalidValueError(f"corrections is {self.corrections}; it must not be negative")
        if find_task(self.task).base:
            raise InvalidValueError(
                f"task {self.task!r} is one that the base was trained on; choose a new one"
            )


@dataclass(frozen=True)
class Learned:
    """One fine-tuning: where its result is, and what it took."""

    folder: Path
    cpu_s: float
    seconds: float


class LearningLoop:
    """One loop in one folder."""

    def __init__(self, request: LoopRequest, say: Say) -> None:
        self._request, self._say = request, say
        self._log = request.folder / "nodes.log"

    def run(self) -> dict[str, Any]:
        """Run all of it, write ``index.html`` and ``summary.json``, return the summary."""
        request = self._request
        read_manifest(resolve(request.base)).check(load_profile(request.robot))
        request.folder.mkdir(parents=True, exist_ok=True)
        recordings = self.record()
        before = self._evaluate(None, "before")
        with LiveRobot(self._robot_that_records("corrections"), self._log) as robot:
            self._say(f"policy: {robot.policy_description()}")
            live_before = self._evaluate_live(robot, "before")
            robot.client.set_parameter("simulation", "real_time_factor", STANDING_FACTOR)
            learned = self.learn(recordings)
            robot.client.set_parameter("simulation", "real_time_factor", 1.0)
            swapped = swap_adapter(robot, str(learned.folder.resolve()))
            self._say(swapped)
            live_after = self._evaluate_live(robot, "after")
            corrected = self.correct(robot)
        after = self._evaluate(learned.folder, "after")
        evaluations = {
            "before": before,
            "after": after,
            "live_before": live_before,
            "live_after": live_after,
        }
        if corrected:
            again = self.learn(recordings, request.folder / "corrections", name="adapter_corrected")
            evaluations["corrected"] = self._evaluate(again.folder, "corrected")
        summary = self._summary(evaluations, learned, recordings, swapped)
        summary["corrections"] = corrected
        self._write_page(evaluations, summary, learned)
        return summary

    def record(self) -> Path:
        """Have the expert demonstrate the task through the real nodes; return the folder of the bags."""
        request, folder = self._request, self._request.folder / "demonstrations"
        options = GraphOptions(
            robot=request.robot,
            policy="expert",
            simulation_parameters={"task": request.task},
            record=True,
            recorder_parameters={"folder": str(folder.resolve()), "operator": "scripted expert"},
        )
        done = len(list(folder.glob("episode_*")))
        if done >= request.demonstrations:
            return folder
        with LiveRobot(options, self._log) as robot:
            for number in range(done, request.demonstrations):
                success = self._demonstrate(robot, number)
                self._say(f"demonstration {number + 1}: {'done' if success else 'failed'}")
        return folder

    def correct(self, robot: LiveRobot) -> int:
        """Have the expert take over where the policy is not done in time; return how often it had to.

        What the policy did by itself is recorded too, and labelled as such.
        """
        expert = ExpertOperator(robot.client.node, robot.profile)
        robot.client.require(
            lambda: expert.ready, START_TIMEOUT_S, lambda: "simulation/scene or joint states are missing"
        )
        return sum(self._correct(robot, expert, number) for number in range(self._request.corrections))

    def learn(self, *recordings: Path, name: str = "adapter") -> Learned:
        """Fine-tune in a process of its own; raises ``TrainingError`` if that fails."""
        request, folder = self._request, self._request.folder / name
        stated = read_manifest(resolve(request.base))
        began, cpu_before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        options = {
            "output": folder,
            "steps": request.steps,
            "batch-size": request.batch_size,
            "keep-statistics": stated.dataset_key,
            "idle-m": IDLE_M,
            "idle-rad": IDLE_RAD,
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        program = "from openvla_ros.cli.main import main; main()"
        command = [sys.executable, "-c", program, "finetune", request.base, *map(str, recordings), *arguments]
        if not stated.center_crop:
            command.append("--no-augment")
        self._say(f"learning from {', '.join(map(str, recordings))}")
        if subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False).returncode:
            raise TrainingError(f"fine-tuning failed; its message is above, its folder is {folder}")
        cpu = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_s = cpu.ru_utime + cpu.ru_stime - cpu_before.ru_utime - cpu_before.ru_stime
        return Learned(folder, cpu_s, time.monotonic() - began)

    def _demonstrate(self, robot: LiveRobot, number: int) -> bool:
        """Record one demonstration; every other one begins where the arm happens to be."""
        if number % 2:
            robot.open_gripper()
        else:
            robot.go_to_neutral()
        instruction = robot.lay_table(self._request.task, FIRST_DEMONSTRATION + number)
        self._begin(robot, instruction)
        limit_s = MAX_STEPS / robot.profile.action_space.rate_hz
        success = robot.client.wait(lambda: robot.operator.success, limit_s)
        robot.client.order("recorder/stop_success" if success else "recorder/stop_failure")
        robot.operator.say("")
        return success

    def _correct(self, robot: LiveRobot, expert: ExpertOperator, number: int) -> bool:
        """Record one episode of the policy; return whether the expert had to take over."""
        robot.go_to_neutral()
        instruction = robot.lay_table(self._request.task, FIRST_CORRECTION + number)
        self._begin(robot, instruction)
        step_s = robot.profile.space().step_s
        if robot.client.wait(lambda: robot.operator.success, PATIENCE_STEPS * step_s):
            robot.client.order("recorder/discard")
            robot.operator.say("")
            return False
        robot.client.order("controller/give_to_teleop")
        expert.begin()
        success = False
        for _ in range(MAX_STEPS):
            expert.act(instruction)
            if success := robot.client.wait(lambda: robot.operator.success, step_s):
                break
        robot.client.order("recorder/stop_success" if success else "recorder/stop_failure")
        robot.operator.say("")
        self._say(f"correction {number + 1}: {'done' if success else 'failed'}")
        return True

    def _begin(self, robot: LiveRobot, instruction: str) -> None:
        """Tell the robot and start the recorder."""
        robot.client.listen(0.2)
        robot.operator.say(instruction)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not (answer := robot.client.ask("recorder/start")).success:
            if time.monotonic() > deadline:
                raise DeviceError(f"the recorder does not start: {answer.message}")

    def _robot_that_records(self, name: str) -> GraphOptions:
        folder = str((self._request.folder / name).resolve())
        recorder = {"folder": folder, "operator": "scripted expert"}
        return live_options(self._asked(None), record=True, recorder_parameters=recorder)

    def _asked(self, adapter: Path | None, trials: int = 1) -> EvaluationRequest:
        seeds = tuple(range(FIRST_TRIAL, FIRST_TRIAL + trials))
        return EvaluationRequest(
            self._request.base, adapter, self._request.robot, (self._request.task,), seeds
        )

    def _evaluate(self, adapter: Path | None, name: str) -> Evaluation:
        asked = self._asked(adapter, self._request.trials)
        done = evaluate_tasks(asked, self._request.folder / name, FILMED)
        self._say(f"{name}: {done.rate}")
        return done

    def _evaluate_live(self, robot: LiveRobot, name: str) -> Evaluation:
        seeds = range(FIRST_LIVE_TRIAL, FIRST_LIVE_TRIAL + self._request.live_trials)
        trials = tuple(run_live_trials(robot, self._request.task, seeds))
        done = Evaluation(robot.policy_description(), trials)
        self._say(f"{name}, through the nodes: {done.rate}")
        return done

    def _summary(
        self, evaluations: dict[str, Evaluation], learned: Learned, recordings: Path, swapped: str
    ) -> dict[str, Any]:
        rates = {name: done.rate for name, done in evaluations.items()}
        return {
            "task": self._request.task,
            "demonstrations": len(list(recordings.glob("episode_*"))),
            "finetune_cpu_s": round(learned.cpu_s, 1),
            "finetune_s": round(learned.seconds, 1),
            "swap": swapped,
            **{name: rate.to_json() for name, rate in rates.items()},
            "intervals_apart": rates["after"].interval()[0] > rates["before"].interval()[1],
        }

    def _write_page(
        self, evaluations: dict[str, Evaluation], summary: dict[str, Any], learned: Learned
    ) -> None:
        request, folder = self._request, self._request.folder
        page = Page("Shown, learned, done", f"task {request.task}, base {request.base}")
        page.facts(
            {
                "demonstrations": f"{summary['demonstrations']} episodes",
                "CPU time of the fine-tuning": f"{learned.cpu_s / 60:.1f} min (total)",
                "successes before": str(evaluations["before"].rate),
                "successes after": str(evaluations["after"].rate),
                "corrected by the expert": f"{summary['corrections']} of {request.corrections} episodes",
            }
        )
        labels = {
            "before": "before, in one process",
            "after": "after, in one process",
            "live_before": "before, through the nodes",
            "live_after": "after, through the nodes",
            "corrected": "after one round of corrections, in one process",
        }
        rates: dict[str, SuccessRate] = {labels[name]: done.rate for name, done in evaluations.items()}
        add_rates(page, rates, "Fresh scenes: none of them was demonstrated")
        page.paragraph(
            "The demonstrations were given by a scripted expert that knows from the simulator where things "
            "are. The model sees images and words only. Its base was pre-trained in simulation with such "
            "labels as an auxiliary loss; the fine-tuning uses none."
        )
        page.heading("The same scenes before and after")
        filmed = ("before", "after", "corrected")
        shown = {labels[name]: (evaluations[name], folder / name) for name in filmed if name in evaluations}
        add_videos(page, shown, folder)
        page.heading("The fine-tuning")
        page.paragraph(f"Curves and open-loop plots: {os.path.relpath(learned.folder, folder)}/report.html")
        page.heading("The request")
        page.table(["setting", "value"], [[name, str(value)] for name, value in asdict(request).items()])
        path = page.write(folder / "index.html")
        (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
        self._say(f"report: {path}")
