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
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from openvla_ros.model.network.tokenizer import PromptTokenizer
from openvla_ros.preprocessing.prompt import build_training_prompt
from openvla_ros.pretraining.small_model import SmallSize, make_small_model, train_tokenizer
from openvla_ros.pretraining.trainer import Pretraining, PretrainingOptions, Progress, Span
from openvla_ros.profile import load_profile
from openvla_ros.sim.labels import THINGS
from openvla_ros.sim.rollout import rollout
from openvla_ros.sim.tasks import Task
from openvla_ros.sim.world import SimulatedRobot
from openvla_ros.training.distributed import Processes, joined_processes
from openvla_ros.values.goal import Goal
from pretrain_checkpoint import ROBOT, load_policy, read_or_compute_statistics, save
from pretrain_frames import BASE_TASKS, SHARD_SNAPSHOTS, Frames, collect

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
