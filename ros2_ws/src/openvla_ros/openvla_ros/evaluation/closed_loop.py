"""Success of a policy that acts in simulation, in one process: the fast way to measure it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from openvla_ros.action import ActionChunk
from openvla_ros.errors import ModelOutputError
from openvla_ros.evaluation.trials import Evaluation, Trial
from openvla_ros.observation import Observation
from openvla_ros.policy.protocol import Policy
from openvla_ros.profile import RobotProfile
from openvla_ros.sim.rollout import rollout
from openvla_ros.sim.tasks import MAX_STEPS, Task
from openvla_ros.sim.video import VideoWriter
from openvla_ros.sim.world import SimulatedRobot


def run_trials(
    policy: Policy,
    profile: RobotProfile,
    task: Task,
    seeds: Sequence[int],
    *,
    max_steps: int = MAX_STEPS,
    videos: Path | None = None,
    filmed: int = 0,
) -> Iterator[Trial]:
    """Yield one trial for each seed; the first ``filmed`` are written to ``videos`` as MP4.

    A trial in which the model gives no action counts as failed.
    """
    with SimulatedRobot(profile, task) as robot:
        for index, seed in enumerate(seeds):
            robot.reset(seed)
            writer = _writer(profile, videos, task.name, seed) if videos and index < filmed else None
            yield _trial(robot, policy, task, seed, max_steps, writer)


def evaluate(
    policy: Policy,
    profile: RobotProfile,
    task: Task,
    seeds: Sequence[int],
    *,
    max_steps: int = MAX_STEPS,
    videos: Path | None = None,
    filmed: int = 0,
    report: Callable[[Trial], None] | None = None,
) -> Evaluation:
    """Return all trials of ``run_trials``; ``report`` hears of each when it ends."""
    trials = []
    for trial in run_trials(policy, profile, task, seeds, max_steps=max_steps, videos=videos, filmed=filmed):
        trials.append(trial)
        if report is not None:
            report(trial)
    return Evaluation(policy.description, tuple(trials))


def _trial(
    robot: SimulatedRobot, policy: Policy, task: Task, seed: int, max_steps: int, writer: VideoWriter | None
) -> Trial:
    camera, instruction, started_s = robot.profile.cameras[0].name, robot.instruction, robot.time_s

    def film(observation: Observation, chunk: ActionChunk) -> None:
        if writer is not None:
            writer.write(observation.images[camera], instruction)

    try:
        done = rollout(robot, policy, max_steps=max_steps, on_step=film)
        return Trial(task.name, seed, instruction, done.success, done.steps, done.seconds)
    except ModelOutputError:
        return Trial(task.name, seed, instruction, False, max_steps, robot.time_s - started_s)
    finally:
        if writer is not None:
            writer.close()


def _writer(profile: RobotProfile, folder: Path, task: str, seed: int) -> VideoWriter:
    camera = profile.cameras[0]
    return VideoWriter(
        folder / f"{task}_{seed}.mp4", camera.width, camera.height, profile.action_space.rate_hz
    )
