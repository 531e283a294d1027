"""The demo: the whole live loop in simulation, told what to do, watched, and summed up on one page.

Every process is a real one and every message crosses DDS; this process starts them, gives the
instructions through the ``Operator`` and writes the report.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from matplotlib.figure import Figure

from openvla_ros.bringup.graph import GraphOptions
from openvla_ros.programs.live_robot import LiveRobot
from openvla_ros.programs.operator import Operator, Outcome
from openvla_ros.report import Page
from openvla_ros.ros.diagnostics import LEVELS as STATUS_LEVELS
from openvla_ros.values.arrays import Float
from openvla_ros.values.health import Health, Level

LOG = "nodes.log"
AGE = "controller: camera to command"
DIAGNOSTICS_S = 5.0  # every node speaks once a second
LEVELS: dict[bytes, Level] = {value: name for name, value in STATUS_LEVELS.items()}


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
    """How the demo went."""

    outcomes: tuple[Outcome, ...]
    page: Path
    video: Path
    figures: dict[str, str]  # headline → value with its unit and statistic
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
OnStep = Callable[[int, str], None]


def run_demo(request: DemoRequest, say: Say, on_step: OnStep = lambda step, verdict: None) -> DemoResult:
    """Start everything, give each instruction in turn, stop everything, write the page.

    ``say`` gets one line for each event; ``on_step`` is called after each step with its number and the
    controller's verdict. Raises ``DeviceError`` if the loop does not come up or one of its processes ends
    by itself.
    """
    request.folder.mkdir(parents=True, exist_ok=True)
    video = request.folder / "robot.mp4"
    options = GraphOptions(
        robot=request.robot,
        policy=request.policy,
        policy_parameters=request.policy_parameters,
        simulation_parameters={"task": request.tasks[0], "record_video": str(video)},
    )
    robot = LiveRobot(options, request.folder / LOG)
    say(f"starting {', '.join(robot.processes)}; their log: {request.folder / LOG}")
    with robot:
        say(f"policy: {robot.policy_description()}")
        robot.operator.on_step = on_step
        measured = robot.operator.measured
        measured.wait_for_diagnostics(DIAGNOSTICS_S)
        before = measured.interventions()  # while it started
        outcomes = [_carry_out(robot, request, task, seed, say) for seed, task in enumerate(request.tasks)]
        measured.wait_for_diagnostics(DIAGNOSTICS_S)
        interventions = measured.interventions() - before
    return summarise(request, robot.operator, outcomes, interventions, robot.exit_codes, video)


def _carry_out(robot: LiveRobot, request: DemoRequest, task: str, seed: int, say: Say) -> Outcome:
    """Lay the table for ``task``, tell the robot, and wait for how it ends."""
    instruction = robot.lay_table(task, seed)
    say(f'"{instruction}"')
    outcome = robot.operator.carry_out(instruction, request.time_limit_s)
    say(f"  {outcome.outcome}: {outcome.steps} steps in {outcome.duration_s:.1f} s")
    return outcome


def summarise(
    request: DemoRequest,
    operator: Operator,
    outcomes: Sequence[Outcome],
    interventions: Mapping[str, int],
    exit_codes: Mapping[str, int],
    video: Path,
) -> DemoResult:
    """Write the page and ``summary.json`` and return what they say.

    ``interventions`` is how often the controller limited or refused a motion, by reason.
    """
    measured = operator.measured
    camera = next(iter(measured.images.values())).health(operator.client.now_ns)
    ages = [measured.age.health(), _status_health(operator, AGE), measured.inference.health()]
    latencies = dict(zip(("camera to action", "camera to command", "inference"), ages, strict=True))
    figures = {
        "instructions carried out": f"{sum(o.succeeded for o in outcomes)} of {len(outcomes)}",
        "actions": f"{measured.chunks.measured_rate_hz():.1f} Hz (mean)",
        "camera": f"{float(camera.values['rate_hz']):.1f} Hz (mean)",
        **{name: _latency(health) for name, health in latencies.items()},
        "limited or refused by the controller": _times(interventions),
    }
    passed = {name for name, health in latencies.items() if health.level == "warn"}
    page = Page("One robot, told what to do", f"{request.robot}, policy: {_policy_line(operator)}")
    page.facts(figures, passed)
    if video.is_file():
        page.videos([("what the robot did", video)], beside=request.folder)
    page.heading("Instructions")
    page.table(
        ["instruction", "outcome", "steps", "seconds", "why"],
        [[o.instruction, o.outcome, o.steps, round(o.duration_s, 1), o.message] for o in outcomes],
        marked={row for row, o in enumerate(outcomes) if not o.succeeded},
    )
    page.heading("The tool's path")
    page.figure(_path_figure(np.array(measured.path)), "tool point in the base frame, metres")
    page.heading("Limited or refused by the controller")
    _add_interventions(page, interventions)
    page.heading("Diagnostics")
    statuses = [status for _, status in sorted(measured.statuses.items())]
    page.table(
        ["what", "level", "state"],
        [[status.name, LEVELS[status.level], status.message] for status in statuses],
        "Latest values; latencies are percentiles over recent measurements, next to their limit.",
        marked={row for row, status in enumerate(statuses) if status.level != DiagnosticStatus.OK},
    )
    page.heading("Processes")
    codes = sorted(exit_codes.items())
    failed = {row for row, (_, code) in enumerate(codes) if code}
    page.table(["process", "exit code"], codes, f"Their log: {LOG}", marked=failed)
    path = page.write(request.folder / "index.html")
    summary = {
        "figures": figures,
        "interventions": dict(interventions),
        "outcomes": [asdict(o) for o in outcomes],
        "exit_codes": dict(exit_codes),
    }
    (request.folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return DemoResult(tuple(outcomes), path, video, figures, dict(exit_codes))


def _add_interventions(page: Page, interventions: Mapping[str, int]) -> None:
    """Add the table behind the headline figure: its rows add up to it."""
    if not interventions:
        page.paragraph("Nothing.")
        return
    page.table(
        ["reason", "times"],
        sorted(interventions.items()),
        "By the controller's own count. docs/reference/verdicts.md explains each reason.",
    )


def _times(interventions: Mapping[str, int]) -> str:
    total = sum(interventions.values())
    return f"{total} time" if total == 1 else f"{total} times"


def _policy_line(operator: Operator) -> str:
    return _status_health(operator, "policy: task").values.get("policy", "not reported")


def _status_health(operator: Operator, name: str) -> Health:
    """Return the newest status called ``name``, or one without values if there was none."""
    status = operator.measured.statuses.get(name)
    if status is None:
        return Health(name, "stale", "not reported", {})
    return Health(name, LEVELS[status.level], status.message, {v.key: v.value for v in status.values})


def _latency(health: Health) -> str:
    """Return the latency of ``health`` with its statistics, and its limit if that was passed."""
    if "p50_ms" not in health.values:
        return "not measured"
    median, p95 = (float(health.values[key]) for key in ("p50_ms", "p95_ms"))
    text = f"{median:.0f} ms (median), {p95:.0f} ms (p95)"
    return f"⚠ {text}; {health.message.partition('; ')[2]}" if health.level == "warn" else text


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
