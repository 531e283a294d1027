"""One evaluation: a checkpoint, tasks, seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from openvla_ros.errors import InvalidValueError
from openvla_ros.evaluation.closed_loop import run_trials
from openvla_ros.evaluation.trials import Evaluation, Trial
from openvla_ros.policy.factory import PolicyOptions, load_policy
from openvla_ros.policy.protocol import Policy
from openvla_ros.profile import RobotProfile, load_profile
from openvla_ros.sim.tasks import find_task
from openvla_ros.sim.world import SimulatedRobot
from openvla_ros.values.scene import Scene

EXPERT = "expert"


@dataclass(frozen=True)
class EvaluationRequest:
    """What to evaluate."""

    checkpoint: str  # folder or hub id, or "expert"
    adapter: Path | None
    robot: str
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    unnorm_key: str | None = None
    device: str = "auto"

    def policy_options(self) -> PolicyOptions:
        """Return the request as options for the policy factory."""
        if self.checkpoint == EXPERT:
            return PolicyOptions(EXPERT)
        return PolicyOptions(
            "openvla",
            checkpoint=self.checkpoint,
            unnorm_key=self.unnorm_key or "",
            device=self.device,
            adapter="" if self.adapter is None else str(self.adapter),
        )


class _CurrentScene:
    """The ground truth of the robot that is currently simulated; only the expert uses it."""

    def __init__(self) -> None:
        self.robot: SimulatedRobot | None = None

    def __call__(self) -> Scene:
        if self.robot is None:
            raise InvalidValueError("no simulation is running")
        return self.robot.scene()


@contextmanager
def loaded_policy(
    request: EvaluationRequest, profile: RobotProfile
) -> Iterator[tuple[Policy, _CurrentScene]]:
    """Load the policy, and the holder for its scene; close it at the end."""
    scene = _CurrentScene()
    policy = load_policy(request.policy_options(), profile, scene)
    try:
        yield policy, scene
    finally:
        policy.close()


def evaluate_tasks(
    request: EvaluationRequest,
    videos: Path | None = None,
    filmed: int = 0,
    report: Callable[[Trial], None] | None = None,
) -> Evaluation:
    """Return the trials of every task and seed in one process; the first ``filmed`` of a task as MP4."""
    profile = load_profile(request.robot)
    trials: list[Trial] = []
    with loaded_policy(request, profile) as (policy, scene):
        for name in request.tasks:
            task = find_task(name)
            with SimulatedRobot(profile, task) as robot:
                scene.robot = robot
                for trial in run_trials(policy, robot, request.seeds, videos=videos, filmed=filmed):
                    trials.append(trial)
                    if report is not None:
                        report(trial)
        return Evaluation(policy.description, tuple(trials))
