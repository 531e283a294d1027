"""Pre-train the small base model in simulation, from scratch, and write its checkpoint.

    .venv/bin/python tools/pretrain_small.py runs/base --minutes 70

With more cores, run the two processes separately, and the training in several that average gradients:

    .venv/bin/python tools/pretrain_small.py runs/base --only collect &
    .venv/bin/torchrun --nproc-per-node 2 tools/pretrain_small.py runs/base --only train

Two processes share the folder. One takes snapshots of random moments, lets the scripted expert demonstrate
every base task, then lets the newest model act and records what the expert would have done (DAgger, arXiv
1011.0686). The other first trains the towers to see, then everything to act, on all frames so far, and
loads new ones every few minutes. After a kill it resumes from its last round. The expert and the
localisation losses use the simulator's ground truth; the model sees one image and the words. Seeds below
1,000,000 are reserved for evaluation.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import multiprocessing
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from openvla_ros.manifest import Manifest, write_manifest
from openvla_ros.model.checkpoints.verification import write_checkpoint_sums
from openvla_ros.model.inference.checkpoint_files import read_transform
from openvla_ros.model.inference.options import LoadOptions
from openvla_ros.model.inference.predictor import load_predictor
from openvla_ros.model.network.tokenizer import PromptTokenizer
from openvla_ros.policy.expert import IN_HAND_M, ScriptedExpert
from openvla_ros.policy.openvla_policy import OpenVLAPolicy
from openvla_ros.preprocessing.dataset_statistics import (
    DatasetStatistics,
    mask_of,
    read_statistics,
    write_statistics,
)
from openvla_ros.preprocessing.prompt import build_training_prompt
from openvla_ros.preprocessing.statistics_accumulator import DatasetAccumulator
from openvla_ros.pretraining.frame_shards import FrameSet, FrameShards, shrink
from openvla_ros.pretraining.small_model import SmallSize, make_small_model, save_checkpoint, train_tokenizer
from openvla_ros.pretraining.snapshots import Photographer
from openvla_ros.pretraining.trainer import Pretraining, PretrainingOptions, Progress, Span
from openvla_ros.profile import load_profile
from openvla_ros.resources import SMALL_BASE
from openvla_ros.sim.demonstrations import IDLE_M, IDLE_RAD, Disturbance, demonstrate
from openvla_ros.sim.labels import THINGS, Whereabouts, asked_for, whereabouts
from openvla_ros.sim.rollout import rollout
from openvla_ros.sim.tasks import TASKS, Task
from openvla_ros.sim.world import SimulatedRobot
from openvla_ros.training.distributed import Processes, joined_processes
from openvla_ros.values.action import ActionChunk
from openvla_ros.values.goal import Goal, Verb, parse_goal
from openvla_ros.values.observation import Observation

ROBOT = "sim_widowx"
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
CAMERA = load_profile(ROBOT).cameras[0].name
log = logging.getLogger("pretrain_small")


def main() -> None:
    """Run both processes for the given time."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where frames and checkpoints go")
    parser.add_argument("--see-minutes", type=float, default=8.0, help="training of the towers alone")
    parser.add_argument("--minutes", type=float, default=70.0, help="training of everything after that")
    parser.add_argument("--round-minutes", type=float, default=4.0, help="how often new frames are loaded")
    parser.add_argument("--snapshots", type=int, default=40_000, help="single moments")
    parser.add_argument("--demonstrations", type=int, default=200, help="episodes of each task at first")
    parser.add_argument("--threads", type=int, default=1, help="of the training process")
    parser.add_argument("--half", action="store_true", help="bfloat16 products, for CPUs that have them")
    parser.add_argument("--only", choices=("collect", "train"), help="one of the two processes")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    (arguments.folder / "frames").mkdir(parents=True, exist_ok=True)
    if arguments.only == "collect":
        collect(arguments.folder, arguments.snapshots, arguments.demonstrations)
        return
    if arguments.only == "train":
        with joined_processes() as processes:
            train(arguments, processes)
        return
    gather = multiprocessing.get_context("spawn").Process(
        target=collect, args=(arguments.folder, arguments.snapshots, arguments.demonstrations), daemon=True
    )
    gather.start()
    try:
        train(arguments, Processes())
    finally:
        gather.terminate()
        gather.join()


# -- frames


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


# -- training


def train(arguments: argparse.Namespace, processes: Processes) -> None:
    """Train in rounds; after each, the other process lets the new checkpoint act."""
    torch.set_num_threads(arguments.threads)
    folder, size = arguments.folder, SmallSize()
    frames = Frames(folder / "frames")
    while len(frames.snapshots) < 5 * SHARD_SNAPSHOTS or not len(frames.demonstrations):
        time.sleep(2.0)
        frames.refresh()
    statistics = read_or_compute_statistics(folder, frames.demonstrations)
    texts = sorted({build_training_prompt(words) for words in instructions(BASE_TASKS)})
    tokenizer = train_tokenizer(texts, size.pieces)
    model = make_small_model(size, arguments.seed)
    options = PretrainingOptions(seed=arguments.seed, half=arguments.half)
    prompts = PromptTokenizer(tokenizer, "small model")
    run = Pretraining(model, prompts, statistics.action, len(THINGS), options, processes)
    done = resume(folder, run)
    seeing = rounds_of(arguments.see_minutes, arguments.round_minutes)
    acting = rounds_of(arguments.minutes, arguments.round_minutes)
    plan = [("see", rates) for rates in [(1.0, 1.0)] * seeing] + [("act", r) for r in learning_rates(acting)]
    for number, (what, rates) in enumerate(plan[done:], done + 1):
        frames.refresh()
        log.info("round %d of %d, %s: %s", number, len(plan), what, frames)
        if what == "see":
            run.see(frames.snapshots, Span(60.0 * arguments.see_minutes / seeing, rates=rates), report)
        else:
            run.act(frames.pools(), Span(60.0 * arguments.minutes / acting, rates=rates), report)
        if not processes.is_first:
            continue
        if what == "act":
            save(folder, run, tokenizer, size, statistics)
        torch.save({"rounds": number, "run": run.state()}, folder / "state.part")
        (folder / "state.part").replace(folder / "state.pt")


def rounds_of(minutes: float, round_minutes: float) -> int:
    """Return how many rounds of about ``round_minutes`` fit in ``minutes``."""
    return max(1, round(minutes / round_minutes))


def resume(folder: Path, run: Pretraining) -> int:
    """Load the last round's state if there is one; return how many rounds are done."""
    path = folder / "state.pt"
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    run.load_state(state["run"])
    return int(state["rounds"])


def save(
    folder: Path, run: Pretraining, tokenizer: Tokenizer, size: SmallSize, statistics: DatasetStatistics
) -> None:
    """Write the checkpoint with its manifest, atomically."""
    unfinished = folder / "model.part"
    norm_stats = {ROBOT: statistics.to_json()}
    save_checkpoint(unfinished, run.model, tokenizer, size, norm_stats, dtype=torch.float32)
    write_manifest(unfinished, manifest(unfinished, statistics))
    write_checkpoint_sums(unfinished, (path.name for path in unfinished.iterdir()))
    shutil.rmtree(folder / "model", ignore_errors=True)
    unfinished.rename(folder / "model")


def learning_rates(rounds: int) -> list[tuple[float, float]]:
    """Return the learning-rate factors at each round's start and end: constant, then half a cosine to 2%."""
    falling = max(1, round(0.7 * rounds))
    level = [(1.0, 1.0)] * (rounds - falling)
    values = 0.51 + 0.49 * np.cos(np.pi * np.arange(falling + 1) / falling)
    return level + [(float(a), float(b)) for a, b in itertools.pairwise(values)]


def report(progress: Progress) -> None:
    """Log one line."""
    numbers = ", ".join(f"{name} {value:.3f}" for name, value in progress.numbers.items())
    log.info("step %d, %d samples: %s", progress.step, progress.samples, numbers)


def instructions(tasks: Iterable[Task]) -> set[str]:
    """Return every instruction that the tasks can produce."""
    goals = {Goal(task.verb, f"{colour} cube", task.destination) for task in tasks for colour in task.objects}
    return {phrasing for goal in goals for phrasing in goal.phrasings}


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


def read_or_compute_statistics(folder: Path, frames: FrameShards) -> DatasetStatistics:
    """Return the statistics of the demonstrations: computed once, so that bins keep their meaning."""
    path = folder / "statistics.json"
    if path.exists():
        return read_statistics(path)[ROBOT]
    accumulator = DatasetAccumulator(7)
    for shard in frames.shards:
        accumulator.add_episode(shard.actions)
    statistics = accumulator.statistics(mask_of(load_profile(ROBOT).space()))
    write_statistics(path, {ROBOT: statistics})
    return statistics


def manifest(folder: Path, statistics: DatasetStatistics) -> Manifest:
    """Return the manifest that the policy node checks the checkpoint against."""
    profile = load_profile(ROBOT)
    return Manifest(
        base_model=SMALL_BASE,
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
    predictor = load_predictor(folder, LoadOptions(dtype=torch.float32))
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
