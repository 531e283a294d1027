"""Pre-train the small base model in simulation, from nothing, and write its checkpoint.

    .venv/bin/python tools/pretrain_small.py runs/base --minutes 70

Two processes share the folder. One first has the scripted expert give demonstrations of every base
task, then lets the newest model act and notes what the expert would have done (DAgger, arXiv
1011.0686). The other trains on all frames that are there, and takes in new ones every few minutes.
The expert and the localisation loss use the simulator's ground truth; the model sees one picture
and the words. Seeds below 1,000,000 are left for evaluation.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import multiprocessing
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from openvla_ros.action import ActionChunk
from openvla_ros.manifest import Manifest, write_manifest
from openvla_ros.model.predictor import load_predictor
from openvla_ros.model.tokenizer import PromptTokenizer
from openvla_ros.model.vision_language import read_transform
from openvla_ros.observation import Observation
from openvla_ros.policy.expert import ScriptedExpert
from openvla_ros.policy.openvla import OpenVLAPolicy
from openvla_ros.profile import load_profile
from openvla_ros.prompt import build_training_prompt
from openvla_ros.sim.demonstrations import (
    IDLE_M,
    IDLE_RAD,
    Disturbance,
    demonstrate,
    points_of_interest,
)
from openvla_ros.sim.rollout import rollout
from openvla_ros.sim.tasks import TASKS
from openvla_ros.sim.world import SimulatedRobot
from openvla_ros.statistics import DatasetStatistics, mask_of, read_statistics, write_statistics
from openvla_ros.statistics_accumulator import DatasetAccumulator
from openvla_ros.training.frames import FrameSet, shrink
from openvla_ros.training.pretraining import Pretraining, PretrainingOptions, Progress
from openvla_ros.training.small_model import (
    SmallSize,
    make_small_model,
    save_checkpoint,
    train_tokenizer,
)

ROBOT = "sim_widowx"
BASE_TASKS = tuple(task for task in TASKS.values() if task.base)
DEMONSTRATION_SEED, CORRECTION_SEED = 1_000_000, 2_000_000
SHARD_EPISODES = 40
EPISODES_A_TASK = SHARD_EPISODES // len(BASE_TASKS)
log = logging.getLogger("pretrain_small")


def main() -> None:
    """Run both processes for the time that is given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where frames and checkpoints go")
    parser.add_argument("--minutes", type=float, default=70.0, help="training time")
    parser.add_argument("--demonstrations", type=int, default=300, help="episodes of each task at first")
    parser.add_argument("--round-minutes", type=float, default=4.0, help="new frames are taken in so often")
    parser.add_argument("--threads", type=int, default=1, help="of the training process")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    (arguments.folder / "frames").mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    gather = context.Process(target=collect, args=(arguments.folder, arguments.demonstrations), daemon=True)
    gather.start()
    try:
        train(arguments)
    finally:
        gather.terminate()
        gather.join()


# -- frames


def collect(folder: Path, demonstrations: int) -> None:
    """Write shards of demonstrations until there is a model, then of its corrections, without end."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    robots = {task.name: SimulatedRobot(load_profile(ROBOT), task) for task in BASE_TASKS}
    own = len(list((folder / "frames").glob("own_*.npz")))
    first = 0
    while True:
        if first < demonstrations or not (folder / "model" / "config.json").exists():
            path = folder / "frames" / f"expert_{first:06d}.npz"
            if not path.exists():
                numbers = range(first, first + EPISODES_A_TASK)
                write_shard(path, (demonstrated(robots[t.name], n) for n in numbers for t in BASE_TASKS))
            first += EPISODES_A_TASK
            continue
        policy = load_policy(folder / "model")
        episodes = range(own * SHARD_EPISODES, (own + 1) * SHARD_EPISODES)
        write_shard(
            folder / "frames" / f"own_{own:06d}.npz",
            (corrected(robots[BASE_TASKS[n % len(BASE_TASKS)].name], policy, n) for n in episodes),
        )
        own += 1


def write_shard(path: Path, episodes: Iterator[tuple[FrameSet, bool]]) -> None:
    """Write the frames of ``episodes`` and say how many of them succeeded."""
    frames, successes = zip(*episodes, strict=True)
    FrameSet.join([f for f in frames if len(f)]).save(path)
    log.info("%s: %d of %d succeeded", path.stem, sum(successes), len(successes))


def demonstrated(robot: SimulatedRobot, number: int) -> tuple[FrameSet, bool]:
    """Return one demonstration of the expert; that of a failed one is left out."""
    result = demonstrate(robot, DEMONSTRATION_SEED + number, Disturbance())
    episode, side = result.episode, SmallSize().image_size
    count = len(episode.actions) if result.success else 0
    frames = FrameSet(
        images=np.stack([shrink(np.asarray(im), side) for im in episode.images[result.labels.camera]])[
            :count
        ],
        actions=episode.actions.astype(np.float32)[:count],
        picture=result.labels.picture.astype(np.float32)[:count],
        metres=result.labels.metres.astype(np.float32)[:count],
        words=np.array([episode.instruction] * count, dtype="U64"),
    )
    return frames, result.success


def corrected(robot: SimulatedRobot, policy: OpenVLAPolicy, number: int) -> tuple[FrameSet, bool]:
    """Return the states that ``policy`` got into, with the expert's actions."""
    robot.reset(CORRECTION_SEED + number)
    expert = ScriptedExpert.for_profile(robot.profile, robot.scene)
    camera, side = robot.profile.cameras[0].name, SmallSize().image_size
    rows: list[tuple[np.ndarray, ...]] = []

    def note(observation: Observation, _chunk: ActionChunk) -> None:
        action = expert.infer(observation).actions[0]
        idle = np.linalg.norm(action[:3]) < IDLE_M and np.linalg.norm(action[3:6]) < IDLE_RAD
        if idle and rows and action[6] == rows[-1][1][6]:
            return
        points = points_of_interest(robot.scene(), robot.goal)
        picture = robot.project(camera, points)[:, :2]
        rows.append((shrink(observation.images[camera], side), action, picture, points))

    result = rollout(robot, policy, on_step=note)
    images, actions, picture, metres = (np.stack(part) for part in zip(*rows, strict=True))
    words = np.array([robot.instruction] * len(rows), dtype="U64")
    single = np.float32
    return FrameSet(
        images, actions.astype(single), picture.astype(single), metres.astype(single), words
    ), result.success


# -- training


def train(arguments: argparse.Namespace) -> None:
    """Train in rounds; after each, the checkpoint is what the other process lets act."""
    torch.set_num_threads(arguments.threads)
    folder, size = arguments.folder, SmallSize()
    wanted = -(-arguments.demonstrations // EPISODES_A_TASK)
    while len(list((folder / "frames").glob("expert_*.npz"))) < wanted:
        time.sleep(1.0)
    frames = load_frames(folder)
    statistics = read_or_compute_statistics(folder, frames)
    texts = sorted({build_training_prompt(str(words)) for words in np.unique(frames.words)})
    tokenizer = train_tokenizer(texts, size.pieces)
    model = make_small_model(size, arguments.seed)
    run = Pretraining(
        model,
        PromptTokenizer(tokenizer, "small model"),
        statistics.action,
        PretrainingOptions(seed=arguments.seed),
    )
    rounds = max(2, round(arguments.minutes / arguments.round_minutes))
    ends = learning_rates(rounds)
    for number, (first, last) in enumerate(ends):
        frames = load_frames(folder)
        log.info("round %d of %d: %d frames", number + 1, rounds, len(frames))
        run.run(frames, 60.0 * arguments.minutes / rounds, first, last, report)
        unfinished = folder / "model.part"
        save_checkpoint(
            unfinished, model, tokenizer, size, {ROBOT: statistics.to_json()}, dtype=torch.float32
        )
        write_manifest(unfinished, manifest(unfinished, statistics))
        shutil.rmtree(folder / "model", ignore_errors=True)
        unfinished.rename(folder / "model")


def learning_rates(rounds: int) -> list[tuple[float, float]]:
    """Return the rate factors at each round's start and end: level, then half a cosine to 2%."""
    falling = max(1, round(0.4 * rounds))
    level = [(1.0, 1.0)] * (rounds - falling)
    values = 0.51 + 0.49 * np.cos(np.pi * np.arange(falling + 1) / falling)
    return level + [(float(a), float(b)) for a, b in itertools.pairwise(values)]


def report(progress: Progress) -> None:
    """Log one line."""
    log.info(
        "step %d, %d samples: loss %.3f, within 2 bins %.3f, gripper %.3f, pointing %.3f, distance %.3f",
        progress.step, progress.samples, progress.action_loss, progress.accuracy,
        progress.gripper_accuracy, progress.pointing_loss, progress.distance_loss,
    )  # fmt: skip


def load_frames(folder: Path) -> FrameSet:
    """Return all frames that have been collected so far."""
    return FrameSet.join([FrameSet.load(path) for path in sorted((folder / "frames").glob("*[0-9].npz"))])


def read_or_compute_statistics(folder: Path, frames: FrameSet) -> DatasetStatistics:
    """Return the statistics of the demonstrations: fixed once, so that bins keep their meaning."""
    path = folder / "statistics.json"
    if path.exists():
        return read_statistics(path)[ROBOT]
    accumulator = DatasetAccumulator(frames.actions.shape[1])
    accumulator.add_episode(frames.actions)
    statistics = accumulator.statistics(mask_of(load_profile(ROBOT).space()))
    write_statistics(path, {ROBOT: statistics})
    return statistics


def manifest(folder: Path, statistics: DatasetStatistics) -> Manifest:
    """Return what the policy node checks the checkpoint against."""
    profile = load_profile(ROBOT)
    return Manifest(
        base_model="small_base",
        base_revision=None,
        adapter_sha256=None,
        dataset_key=ROBOT,
        statistics=statistics,
        action_space=profile.space(),
        prompt_style="openvla",
        image_transform=read_transform(folder),
        center_crop=False,
        cameras=(profile.cameras[0].name,),
        robot=ROBOT,
    )


def load_policy(folder: Path) -> OpenVLAPolicy:
    """Return the checkpoint in ``folder`` as a policy."""
    profile = load_profile(ROBOT)
    predictor = load_predictor(folder, dtype=torch.float32, progress=False)
    return OpenVLAPolicy(
        predictor, profile.space(), cameras=[profile.cameras[0].name], description=str(folder)
    )


# -- evaluation


def evaluate(folder: Path, episodes: int, first_seed: int = 0) -> dict[str, float]:
    """Return the success rate of the checkpoint in ``folder`` on each base task, in this process."""
    policy, rates = load_policy(folder), {}
    for task in BASE_TASKS:
        with SimulatedRobot(load_profile(ROBOT), task) as robot:
            wins = 0
            for seed in range(first_seed, first_seed + episodes):
                robot.reset(seed)
                wins += rollout(robot, policy).success
        rates[task.name] = wins / episodes
        log.info("%s: %d of %d", task.name, wins, episodes)
    log.info(json.dumps(rates))
    return rates


if __name__ == "__main__":
    main()
