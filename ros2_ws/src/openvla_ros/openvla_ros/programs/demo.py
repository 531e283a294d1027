"""The demo: the whole live loop in simulation, told what to do, watched, and summed up on one page.

Every process is a real one and every message crosses DDS; this process starts them, gives the
instructions through the ``Operator`` and writes down what came of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from openvla_ros.bringup.graph import GraphOptions
from openvla_ros.programs.live_robot import LiveRobot
from openvla_ros.programs.operator import Operator, Outcome
from openvla_ros.report import Page
from openvla_ros.ros.verdict_messages import ORDINARY
from openvla_ros.values.arrays import Float
from openvla_ros.values.health import LatencyHealth, StreamHealth


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
    exit_codes: dict[str, int]  # of the processes

    @property
    def clean(self) -> bool:
        """Whether every instruction was carried out and every process ended as it should."""
        return self.successes == len(self.outcomes) and not any(self.exit_codes.values())

    @property
    def successes(self) -> int:
        """How many instructions were carried out, by the simulation's own judgement."""
        return sum(outcome.succeeded for outcome in self.outcomes)


Say = Callable[[str], None]


def run_demo(request: DemoRequest, say: Say) -> DemoResult:
    """Start everything, give each instruction in turn, stop everything, write the page.

    Raises ``DeviceError`` if the loop does not come up or one of its processes ends by itself.
    """
    request.folder.mkdir(parents=True, exist_ok=True)
    video = request.folder / "robot.mp4"
    options = GraphOptions(
        robot=request.robot,
        policy=request.policy,
        policy_parameters=request.policy_parameters,
        simulation_parameters={"task": request.tasks[0], "record_video": str(video)},
    )
    robot = LiveRobot(options, request.folder / "nodes.log")
    say("starting " + ", ".join(robot.processes))
    with robot:
        say(f"policy: {robot.policy_description()}")
        outcomes = [_carry_out(robot, request, task, seed, say) for seed, task in enumerate(request.tasks)]
    return summarise(request, robot.operator, outcomes, robot.exit_codes, video)


def _carry_out(robot: LiveRobot, request: DemoRequest, task: str, seed: int, say: Say) -> Outcome:
    """Lay the table for ``task``, tell the robot, and wait for how it ends."""
    instruction = robot.lay_table(task, seed)
    say(f'"{instruction}"')
    robot.operator.on_step = lambda step, verdict: say(f"  step {step:3d}  {verdict}")
    outcome = robot.operator.carry_out(instruction, request.time_limit_s)
    say(f"  {outcome.outcome}: {outcome.steps} steps in {outcome.duration_s:.1f} s")
    return outcome


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
        "actions": f"{_rate(measured.chunks)}",
        "camera": f"{_rate(camera)}",
        "camera to action": _median(measured.age),
        "camera to command": _reported(operator, "controller: camera to command", "p50_ms", " ms"),
        "inference": _median(measured.inference),
        "refusals": str(sum(n for reason, n in measured.verdicts.items() if reason not in ORDINARY)),
    }
    page = Page("One robot, told what to do", f"{request.robot}, policy: {_policy_line(operator)}")
    page.facts(figures)
    if video.is_file():
        page.videos([("what the robot did", video)], beside=request.folder)
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
    return DemoResult(tuple(outcomes), path, video, figures, dict(exit_codes))


def _policy_line(operator: Operator) -> str:
    return _reported(operator, "policy: task", "policy")


def _reported(operator: Operator, name: str, key: str, unit: str = "") -> str:
    """Return what the newest status called ``name`` says under ``key``."""
    status = operator.measured.statuses.get(name)
    values = status.values if status is not None else []
    return next((value.value + unit for value in values if value.key == key), "not reported")


def _rate(stream: StreamHealth) -> str:
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
