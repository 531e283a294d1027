"""Demonstrations by the scripted expert, with disturbances.

The arm starts anywhere near neutral and executes the expert's action plus noise, while the expert's own
action is recorded; so an episode also shows how to recover from states that the expert would never reach
(DART, arXiv 1703.09327). ``Labels`` are the true positions of tool and objects: privileged, for auxiliary
losses, and never part of the episode.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from openvla_ros.policy.expert import ScriptedExpert
from openvla_ros.profile import RobotProfile
from openvla_ros.sim.labels import Whereabouts, asked_for, whereabouts
from openvla_ros.sim.rollout import ActionExecutor, observe
from openvla_ros.sim.tasks import Task
from openvla_ros.sim.world import SimulatedRobot
from openvla_ros.values.action import ActionChunk
from openvla_ros.values.arrays import Float, Image, float_array
from openvla_ros.values.episode import Episode
from openvla_ros.values.observation import Observation

LONGEST = 100  # steps: disturbances cost some beyond what an evaluation allows
# Steps that move the tool by less than this and leave the gripper alone teach the policy to stand still.
IDLE_M, IDLE_RAD = 0.002, 0.01


@dataclass(frozen=True)
class Disturbance:
    """The noise added to demonstrations. All zero: the expert's own path."""

    start_rad: float = 0.12  # standard deviation of each joint at the start
    position_m: float = 0.006  # standard deviation of the noise on each executed step
    rotation_rad: float = 0.02
    push_probability: float = 0.06  # of a step that is knocked off by a push
    push_m: float = 0.025  # standard deviation of such a push


@dataclass(frozen=True, eq=False)
class Labels:
    """The true positions at each step."""

    camera: str
    asked: tuple[int, int, int]  # which of them are tool, object and destination, see ``asked_for``
    whereabouts: tuple[Whereabouts, ...]
    targets: Float  # (T, 4, 4) commanded tool pose before each step's action

    def __post_init__(self) -> None:
        targets = float_array("labels: targets", self.targets, (len(self.whereabouts), 4, 4))
        object.__setattr__(self, "targets", targets)


@dataclass(frozen=True, eq=False)
class Demonstration:
    """One episode with its ground truth."""

    episode: Episode
    labels: Labels

    @property
    def success(self) -> bool:
        """Whether the expert reached the goal despite the disturbance."""
        return self.episode.outcome == "success"


def generate_demonstrations(
    profile: RobotProfile,
    task: Task,
    seeds: Iterable[int],
    disturbance: Disturbance | None = None,
    keep_idle: bool = False,
) -> Iterator[Demonstration]:
    """Yield the scripted expert's demonstrations, failures too; the same seed gives the same one.

    Args:
        profile: A profile with a part ``simulation``.
        task: The task to demonstrate.
        seeds: One episode for each.
        disturbance: The noise on the executed steps; by default what the small base was trained with.
        keep_idle: Keep steps without motion, which teach a policy to stand still.

    Raises:
        ProfileError: The profile has no simulation.
    """
    with SimulatedRobot(profile, task) as robot:
        for seed in seeds:
            yield demonstrate(robot, seed, disturbance or Disturbance(), keep_idle)


def demonstrate(
    robot: SimulatedRobot, seed: int, disturbance: Disturbance, keep_idle: bool = False
) -> Demonstration:
    """Return the expert's demonstration of episode ``seed`` on ``robot``."""
    random = np.random.default_rng([seed, 1703_09327])
    neutral = np.array(robot.profile.arm.neutral)
    start = neutral + random.normal(0.0, 1.0, len(neutral)).clip(-2.0, 2.0) * disturbance.start_rad
    limits = robot.profile.limits
    robot.reset(seed, start.clip(limits.joint_lower, limits.joint_upper))
    expert = ScriptedExpert.for_profile(robot.profile, robot.scene)
    executor, steps = ActionExecutor(robot), _Steps(robot.profile.cameras[0].name)
    for _ in range(LONGEST):
        if robot.success:
            break
        observation = observe(robot, robot.instruction)
        chunk = expert.infer(observation)
        if keep_idle or not steps.is_idle(chunk):
            steps.add(robot, observation, chunk, executor)
        executor.execute(_disturbed(chunk, disturbance, random))
    return steps.demonstration(robot, seed)


def _disturbed(chunk: ActionChunk, by: Disturbance, random: np.random.Generator) -> ActionChunk:
    noise = np.zeros(chunk.space.width)
    noise[:3] = random.normal(0.0, by.position_m, 3)
    noise[3:6] = random.normal(0.0, by.rotation_rad, 3)
    pushed = random.uniform() < by.push_probability
    noise[:3] += pushed * random.normal(0.0, by.push_m, 3)
    actions = np.clip(chunk.actions + noise, chunk.space.lower, chunk.space.upper)
    return ActionChunk(actions, chunk.observation_stamp_ns, chunk.space)


@dataclass
class _Steps:
    """The steps of a demonstration in progress."""

    camera: str
    observations: list[Observation] = field(default_factory=list)
    actions: list[Float] = field(default_factory=list)
    whereabouts: list[Whereabouts] = field(default_factory=list)
    targets: list[Float] = field(default_factory=list)

    def is_idle(self, chunk: ActionChunk) -> bool:
        action = chunk.actions[0]
        if not self.actions or action[-1] != self.actions[-1][-1]:
            return False
        moves = np.linalg.norm(action[:3]) > IDLE_M or np.linalg.norm(action[3:6]) > IDLE_RAD
        return not moves

    def add(
        self, robot: SimulatedRobot, observation: Observation, chunk: ActionChunk, executor: ActionExecutor
    ) -> None:
        self.observations.append(observation)
        self.actions.append(chunk.actions[0])
        self.whereabouts.append(whereabouts(robot, self.camera))
        self.targets.append(executor.target.matrix)

    def demonstration(self, robot: SimulatedRobot, seed: int) -> Demonstration:
        seen, space = self.observations, robot.profile.space()
        images: dict[str, tuple[Image, ...]] = {
            name: tuple(observation.images[name] for observation in seen) for name in seen[0].images
        }
        episode = Episode(
            id=f"{robot.profile.name}-{robot.task.name}-{seed:06d}",
            instruction=robot.instruction,
            space=space,
            rate_hz=space.rate_hz,
            stamps_ns=np.array([observation.stamp_ns for observation in seen]),
            images=images,
            actions=np.array(self.actions),
            joint_positions=np.array([observation.joint_positions for observation in seen]),
            poses=np.array([observation.pose.matrix for observation in seen if observation.pose is not None]),
            gripper=np.array([observation.gripper for observation in seen]),
            outcome="success" if robot.success else "failure",
            provenance={
                "format": "simulation",
                "profile": robot.profile.name,
                "task": robot.task.name,
                "seed": str(seed),
                "operator": "scripted expert",
            },
        )
        labels = Labels(self.camera, asked_for(robot.goal), tuple(self.whereabouts), np.array(self.targets))
        return Demonstration(episode, labels)
