"""Measures a policy's success in simulation, in one process: the fast way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from openvla_ros.errors import ModelOutputError
from openvla_ros.evaluation.trials import Trial
from openvla_ros.policy.protocol import Policy
from openvla_ros.sim.rollout import rollout
from openvla_ros.sim.tasks import MAX_STEPS
from openvla_ros.sim.video import VideoWriter
from openvla_ros.sim.world import SimulatedRobot
from openvla_ros.values.action import ActionChunk
from openvla_ros.values.observation import Observation


def run_trials(
    policy: Policy,
    robot: SimulatedRobot,
    seeds: Sequence[int],
    *,
    max_steps: int = MAX_STEPS,
    videos: Path | None = None,
    filmed: int = 0,
) -> Iterator[Trial]:
    """Yield one trial of the robot's task for each seed, as it ends.

    A trial in which the model outputs no valid action counts as failed.

    Args:
        policy: The policy, for the robot's action space.
        robot: The simulated robot; it is reset for each trial.
        seeds: One scene for each.
        max_steps: How many actions the policy gets in a trial.
        videos: Folder for MP4 files of the trials.
        filmed: How many of the first trials to film.

    Raises:
        PolicyError: The policy cannot act on what it sees.
    """
    for index, seed in enumerate(seeds):
        robot.reset(seed)
        writer = _writer(robot, videos, seed) if videos is not None and index < filmed else None
        yield _trial(robot, policy, seed, max_steps, writer)


def _trial(
    robot: SimulatedRobot, policy: Policy, seed: int, max_steps: int, writer: VideoWriter | None
) -> Trial:
    camera, instruction, started_s = robot.profile.cameras[0].name, robot.instruction, robot.time_s

    def film(observation: Observation, _chunk: ActionChunk) -> None:
        if writer is not None:
            writer.write(observation.images[camera], instruction)

    try:
        done = rollout(robot, policy, max_steps=max_steps, on_step=film)
        return Trial(robot.task.name, seed, instruction, done.success, done.steps, done.seconds)
    except ModelOutputError:
        return Trial(robot.task.name, seed, instruction, False, max_steps, robot.time_s - started_s)
    finally:
        if writer is not None:
            writer.close()


def _writer(robot: SimulatedRobot, folder: Path, seed: int) -> VideoWriter:
    camera = robot.profile.cameras[0]
    rate_hz = robot.profile.action_space.rate_hz
    return VideoWriter(folder / f"{robot.task.name}_{seed}.mp4", camera.width, camera.height, rate_hz)
