"""The demo: the whole live loop in simulation, told what to do, watched, and summed up on one page.

Every process is a real one and every message crosses DDS; this process starts them, gives the
instructions through the ``Operator`` and writes down what came of it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import rclpy
from matplotlib.figure import Figure
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.parameter_client import AsyncParameterClient
from rclpy.signals import SignalHandlerOptions

from openvla_ros.arrays import Float
from openvla_ros.errors import OpenVLARosError
from openvla_ros.graph import GraphOptions, build_graph
from openvla_ros.health import LatencyHealth, StreamHealth
from openvla_ros.nodes.operator import Operator, Outcome
from openvla_ros.nodes.verdict_message import ORDINARY
from openvla_ros.profile import RobotProfile, load_profile
from openvla_ros.report import Page
from openvla_ros.supervisor import Supervisor

# Starting MuJoCo, PyTorch and discovery on two busy cores.
READY_TIMEOUT_S = 90.0
ANSWER_TIMEOUT_S = 20.0
# Callbacks that may wait between two looks at the processes: one spin runs one of them.
READY_CALLBACKS = 20


@dataclass(frozen=True)
class DemoRequest:
    """What the demo is to show."""

    robot: str
    policy: str
    tasks: tuple[str, ...]  # of the simulation; each in a scene of its own, with the words that fit it
    time_limit_s: float
    folder: Path
    policy_parameters: dict[str, str]


@dataclass(frozen=True)
class DemoResult:
    """What came of it."""

    outcomes: tuple[Outcome, ...]
    page: Path
    video: Path
    figures: dict[str, str]  # headline → value with its unit

    @property
    def successes(self) -> int:
        """How many instructions were carried out, by the simulation's own judgement."""
        return sum(outcome.succeeded for outcome in self.outcomes)


class DemoError(OpenVLARosError):
    """The live loop did not come up, or a part of it ended; the log file says more."""


Say = Callable[[str], None]


class Demo:
    """One run of the demo."""

    def __init__(self, request: DemoRequest, say: Say) -> None:
        self._request, self._say = request, say
        self._profile: RobotProfile = load_profile(request.robot)
        self._video = request.folder / "robot.mp4"
        self._log_lines: list[str] = []

    def run(self) -> DemoResult:
        """Start everything, give each instruction in turn, stop everything, write the page.

        Raises ``DemoError`` if the loop does not come up or one of its processes ends by itself.
        """
        self._request.folder.mkdir(parents=True, exist_ok=True)
        options = GraphOptions(
            robot=self._request.robot,
            policy=self._request.policy,
            policy_parameters=self._request.policy_parameters,
            simulation_parameters={"task": self._request.tasks[0], "record_video": str(self._video)},
        )
        graph = build_graph(options, os.environ)
        os.environ.update(graph.environment)  # this process looks at the images too
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        operator = Operator(self._profile)
        loop = _Loop(Supervisor(graph, self._note), operator)
        outcomes: list[Outcome] = []
        try:
            self._say("starting " + ", ".join(node.name for node in graph.nodes))
            loop.start()
            self._say(f"policy: {loop.policy_description()}")
            outcomes += (self._carry_out(loop, task) for task in self._request.tasks)
        finally:
            exit_codes = loop.stop()
            log = self._request.folder / "nodes.log"
            log.write_text("\n".join(self._log_lines) + "\n", encoding="utf-8")
        return summarise(self._request, operator, outcomes, exit_codes, self._video)

    def _carry_out(self, loop: _Loop, task: str) -> Outcome:
        """Lay the table for ``task``, tell the robot, and wait for how it ends."""
        instruction = loop.lay_table(task)
        self._say(f'"{instruction}"')
        operator = loop.operator
        operator.on_step = lambda step, verdict: self._say(f"  step {step:3d}  {verdict}")
        operator.tell(instruction, self._request.time_limit_s)
        loop.spin_until(lambda: operator.outcome() is not None, self._request.time_limit_s + 15.0)
        outcome = operator.outcome()
        assert outcome is not None
        self._say(f"  {outcome.outcome}: {outcome.steps} steps in {outcome.duration_s:.1f} s")
        return outcome

    def _note(self, name: str, line: str) -> None:
        self._log_lines.append(f"{name}: {line}")


class _Loop:
    """The supervised processes and the operator's node, driven from one thread."""

    def __init__(self, supervisor: Supervisor, operator: Operator) -> None:
        self.operator, self._supervisor = operator, supervisor
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(operator)
        self._parameters = AsyncParameterClient(operator, "simulation")

    def start(self) -> None:
        self._supervisor.start()
        self.spin_until(lambda: not self.operator.missing(), READY_TIMEOUT_S)

    def spin_until(self, done: Callable[[], bool], timeout_s: float) -> None:
        """Spin and forward logs; raises ``DemoError`` after ``timeout_s`` or if a process ends."""
        deadline = time.monotonic() + timeout_s
        while not done():
            self._executor.spin_once(timeout_sec=0.02)
            for _ in range(READY_CALLBACKS):
                self._executor.spin_once(timeout_sec=0.0)
            self._supervisor.forward(timeout_s=0.0)
            ended = self._supervisor.check()
            if ended is not None:
                raise DemoError(f"{ended.spec.name} ended by itself; nodes.log says why")
            if time.monotonic() > deadline:
                missing = ", ".join(self.operator.missing()) or "the answer"
                raise DemoError(f"after {timeout_s:.0f} s still missing: {missing}; nodes.log says more")

    def lay_table(self, task: str) -> str:
        """Ask the simulation for a new scene of ``task``; return what it asks for, in words."""
        chosen = self._parameters.set_parameters([Parameter("task", value=task)])
        self.spin_until(chosen.done, ANSWER_TIMEOUT_S)
        (result,) = chosen.result().results
        if not result.successful:
            raise DemoError(f"the simulation refuses task {task!r}: {result.reason}")
        answer = self.operator.reset_simulation()
        self.spin_until(answer.done, ANSWER_TIMEOUT_S)
        return str(answer.result().message)

    def policy_description(self) -> str:
        """Return what decides, as the policy node says it in its diagnostics."""
        self.spin_until(lambda: "policy: task" in self.operator.measured.statuses, ANSWER_TIMEOUT_S)
        values = self.operator.measured.statuses["policy: task"].values
        return next(value.value for value in values if value.key == "policy")

    def stop(self) -> dict[str, int]:
        codes = self._supervisor.stop()
        self._executor.shutdown()
        self.operator.destroy_node()
        rclpy.try_shutdown()
        return codes


def summarise(
    request: DemoRequest,
    operator: Operator,
    outcomes: Sequence[Outcome],
    exit_codes: Mapping[str, int],
    video: Path,
) -> DemoResult:
    """Write the page and ``summary.json`` and return what they say."""
    measured = operator.measured
    camera = next(iter(measured.images.values()))
    figures = {
        "instructions carried out": f"{sum(o.succeeded for o in outcomes)} of {len(outcomes)}",
        "actions": f"{camera_rate(measured.chunks)}",
        "camera": f"{camera_rate(camera)}",
        "camera to action": _median(measured.age),
        "inference": _median(measured.inference),
        "refusals": str(sum(n for reason, n in measured.verdicts.items() if reason not in ORDINARY)),
    }
    page = Page("One robot, told what to do", f"{request.robot}, policy: {_policy_line(operator)}")
    page.facts(figures)
    if video.is_file():
        page.videos({"what the robot did": video}, beside=request.folder)
    page.heading("Instructions")
    page.table(
        ["instruction", "outcome", "steps", "seconds", "why"],
        [[o.instruction, o.outcome, o.steps, o.duration_s, o.message] for o in outcomes],
    )
    page.heading("The way of the tool")
    page.figure(_path_figure(np.array(measured.path)), "tool point in the base frame, metres")
    page.heading("Verdicts of the controller")
    page.table(["verdict", "times"], sorted(measured.verdicts.items()))
    page.heading("Diagnostics")
    page.table(
        ["what", "state"], [[status.name, status.message] for _, status in sorted(measured.statuses.items())]
    )
    page.heading("Processes")
    page.table(["process", "exit code"], sorted(exit_codes.items()))
    path = page.write(request.folder / "index.html")
    summary = {"figures": figures, "outcomes": [asdict(o) for o in outcomes], "exit_codes": dict(exit_codes)}
    (request.folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return DemoResult(tuple(outcomes), path, video, figures)


def _policy_line(operator: Operator) -> str:
    status = operator.measured.statuses.get("policy: task")
    values = status.values if status is not None else []
    return next((value.value for value in values if value.key == "policy"), "unknown")


def camera_rate(stream: StreamHealth) -> str:
    """Return the measured rate of ``stream`` in words."""
    return f"{stream.measured_rate_hz():.1f} Hz"


def _median(latency: LatencyHealth) -> str:
    values = latency.health().values
    return f"{values['p50_ms']} ms" if values else "not measured"


def _path_figure(path: Float) -> Figure:
    """Return the tool's coordinates over the run; ``path`` (N, 4): seconds, x, y, z."""
    figure = Figure(figsize=(9, 3))
    axes = figure.subplots()
    if len(path):
        for column, name in enumerate("xyz", start=1):
            axes.plot(path[:, 0] - path[0, 0], path[:, column], label=name)
        axes.legend()
    axes.set_xlabel("seconds")
    axes.set_ylabel("metres")
    return figure
