"""The frames of the pre-training: collected in simulation, stored in shards, read again while more come."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from openvla_ros.policy.expert import IN_HAND_M, ScriptedExpert
from openvla_ros.policy.openvla_policy import OpenVLAPolicy
from openvla_ros.pretraining.frame_shards import FrameSet, FrameShards, shrink
from openvla_ros.pretraining.small_model import SmallSize
from openvla_ros.pretraining.snapshots import Photographer
from openvla_ros.profile import load_profile
from openvla_ros.sim.demonstrations import IDLE_M, IDLE_RAD, Disturbance, demonstrate
from openvla_ros.sim.labels import THINGS, Whereabouts, asked_for, whereabouts
from openvla_ros.sim.rollout import rollout
from openvla_ros.sim.tasks import TASKS
from openvla_ros.sim.world import SimulatedRobot
from openvla_ros.values.action import ActionChunk
from openvla_ros.values.goal import Verb, parse_goal
from openvla_ros.values.observation import Observation
from pretrain_checkpoint import CAMERA, ROBOT, load_policy

BASE_TASKS = tuple(task for task in TASKS.values() if task.base)
DEMONSTRATION_SEED, CORRECTION_SEED, SNAPSHOT_SEED = 1_000_000, 2_000_000, 3_000_000
SHARD_EPISODES = 40
EPISODES_A_TASK = SHARD_EPISODES // len(BASE_TASKS)
SHARD_SNAPSHOTS = 2000
SHARES = (0.2, 0.35, 0.45)  # of each batch: snapshots, demonstrations, the model's own episodes
# The tasks in which the model acts and is corrected: seldom the easiest one.
CORRECTED = ("lift", "put", "push", "lift", "put", "push", "put", "reach")
# Metres, for ``is_ambiguous``: the longest step while waiting; what counts as near, on the table, away.
WAITING_M, OPENING_M, NEARBY_M, LYING_M, STANDING_M = 0.006, 0.002, 0.01, 0.005, 0.04
log = logging.getLogger("pretrain_frames")


def collect(folder: Path, snapshots: int, demonstrations: int) -> None:
    """Write shards of snapshots and demonstrations, then of corrections to the newest model, forever."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    robots = {task.name: SimulatedRobot(load_profile(ROBOT), task) for task in BASE_TASKS}
    photographers = [Photographer(robot) for robot in robots.values()]
    shards = range(-(-snapshots // SHARD_SNAPSHOTS))
    firsts = range(0, demonstrations, EPISODES_A_TASK)
    for shard, first in itertools.zip_longest(shards, firsts):
        if shard is not None:
            path = folder / "frames" / f"snapshots_{shard:06d}.npz"
            numbers = range(shard * SHARD_SNAPSHOTS, (shard + 1) * SHARD_SNAPSHOTS)
            if not path.exists():
                write_shard(path, (taken(photographers[n % len(photographers)], n) for n in numbers))
        if first is not None:
            path = folder / "frames" / f"expert_{first:06d}.npz"
            numbers = range(first, first + EPISODES_A_TASK)
            if not path.exists():
                write_shard(path, (demonstrated(robots[t.name], n) for n in numbers for t in BASE_TASKS))
    while not (folder / "model" / "config.json").exists():
        time.sleep(1.0)
    own = len(list((folder / "frames").glob("own_*.npz")))
    while True:
        policy = load_policy(folder / "model")
        episodes = range(own * SHARD_EPISODES, (own + 1) * SHARD_EPISODES)
        write_shard(
            folder / "frames" / f"own_{own:06d}.npz",
            (corrected(robots[CORRECTED[n % len(CORRECTED)]], policy, n) for n in episodes),
        )
        own += 1


def write_shard(path: Path, episodes: Iterator[tuple[FrameSet, bool]]) -> None:
    """Write the frames of ``episodes``; log how many succeeded."""
    frames, successes = zip(*episodes, strict=True)
    joined = FrameSet.join([f for f in frames if len(f)])
    joined.save(path)
    log.info("%s: %d of %d succeeded, %d frames", path.stem, sum(successes), len(successes), len(joined))


def frame_set(
    images: list[np.ndarray],
    actions: np.ndarray,
    where: Sequence[Whereabouts],
    asked: tuple[int, int, int],
    words: str,
) -> FrameSet:
    """Return the frames of one instruction in the form in which they are stored."""
    side = SmallSize().image_size
    return FrameSet(
        images=np.stack([shrink(np.asarray(image), side) for image in images]),
        actions=actions.astype(np.float32),
        uv=np.stack([w.uv for w in where]).astype(np.float32),
        metres=np.stack([w.metres for w in where]).astype(np.float32),
        asked=np.array([asked] * len(where)),
        words=np.array([words] * len(where), dtype="U64"),
    )


def taken(photographer: Photographer, number: int) -> tuple[FrameSet, bool]:
    """Return one snapshot."""
    shot = photographer.take(SNAPSHOT_SEED + number)
    images = [shot.observation.images[CAMERA]]
    words = shot.observation.instruction
    return frame_set(images, shot.chunk.actions[:1], [shot.whereabouts], shot.asked, words), True


def demonstrated(robot: SimulatedRobot, number: int) -> tuple[FrameSet, bool]:
    """Return one demonstration of the expert; a failed one is left out."""
    result = demonstrate(robot, DEMONSTRATION_SEED + number, Disturbance())
    episode, labels = result.episode, result.labels
    frames = frame_set(
        list(episode.images[CAMERA]), episode.actions, labels.whereabouts, labels.asked, episode.instruction
    )
    return frames.take(np.arange(len(frames) if result.success else 0)), result.success


def corrected(robot: SimulatedRobot, policy: OpenVLAPolicy, number: int) -> tuple[FrameSet, bool]:
    """Return the states that ``policy`` reached, with the expert's actions."""
    robot.reset(CORRECTION_SEED + number)
    expert = ScriptedExpert.for_profile(robot.profile, robot.scene)
    images: list[np.ndarray] = []
    actions: list[np.ndarray] = []
    where: list[Whereabouts] = []

    def note(observation: Observation, _chunk: ActionChunk) -> None:
        action = expert.infer(observation).actions[0]
        idle = np.linalg.norm(action[:3]) < IDLE_M and np.linalg.norm(action[3:6]) < IDLE_RAD
        if idle and actions and action[6] == actions[-1][6]:
            return
        images.append(observation.images[CAMERA])
        actions.append(action)
        where.append(whereabouts(robot, CAMERA))

    result = rollout(robot, policy, on_step=note)
    frames = frame_set(images, np.stack(actions), where, asked_for(robot.goal), robot.instruction)
    return frames, result.success


class Frames:
    """The frames collected so far, in memory."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._shards = folder, dict[str, FrameSet]()
        self.refresh()

    def refresh(self) -> None:
        """Load new frames."""
        for path in sorted(self._folder.glob("*[0-9].npz")):
            if path.stem not in self._shards:
                frames = FrameSet.load(path)
                self._shards[path.stem] = frames.take(np.flatnonzero(~is_ambiguous(frames)))
        self.snapshots, self.demonstrations, self.own = (
            FrameShards([frames for name, frames in self._shards.items() if name.startswith(kind)])
            for kind in ("snapshots", "expert", "own")
        )

    def pools(self) -> list[tuple[FrameShards, float]]:
        """Return the available kinds of frames, with their shares."""
        kinds = (self.snapshots, self.demonstrations, self.own)
        return [(frames, share) for frames, share in zip(kinds, SHARES, strict=True) if len(frames)]

    def __str__(self) -> str:
        return (
            f"{len(self.snapshots)} snapshots, {len(self.demonstrations)} frames of demonstrations, "
            f"{len(self.own)} of its own"
        )


def is_ambiguous(frames: FrameSet) -> np.ndarray:
    """Return which frames (N,) demand standing still before the object is where it belongs.

    The expert waits there for its fingers to close or open, and it remembers which. A moment later, with the
    same image, it moves on. A policy that learned to wait there would wait forever.
    """
    rows = np.arange(len(frames))
    tool, item, destination = (frames.metres[rows, frames.asked[:, i]] for i in range(3))
    grasps = np.array([parse_goal(str(words)).verb in (Verb.LIFT, Verb.PUT) for words in frames.words])
    still = np.linalg.norm(frames.actions[:, :3], axis=1)
    near = np.linalg.norm(tool - item, axis=1) < IN_HAND_M + NEARBY_M
    cubes = [i for i, name in enumerate(THINGS) if name.endswith("cube")]
    lies = item[:, 2] < np.nanmin(frames.metres[:, cubes, 2], axis=1) + LYING_M
    away = (frames.asked[:, 1] == frames.asked[:, 2]) | (
        np.linalg.norm((item - destination)[:, :2], axis=1) > STANDING_M
    )
    closes = grasps & (frames.actions[:, 6] == 0.0)
    closed_before = np.roll(closes, 1) & (np.roll(frames.words, 1) == frames.words)
    closed_before[:1] = False
    opens = grasps & (frames.actions[:, 6] == 1.0) & (still < OPENING_M)
    return (opens & away) | (near & lies & away & closes & closed_before & (still < WAITING_M))
