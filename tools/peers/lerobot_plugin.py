"""Our checkpoints under LeRobot: the plug-in ``plugins/lerobot_policy_openvla`` in LeRobot's own programs.

LeRobot's factory must find and make it, its actions must be ours for the same images and words, and
``lerobot-eval`` on our simulated arm must end each scene as ``openvla evaluate`` does. LeRobot lives in an
environment of its own; ``clients/lerobot_plugin_programs.py`` runs there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from openvla_ros.api import load_policy
from openvla_ros.profile import load_profile
from openvla_ros.sim.rollout import observe
from openvla_ros.sim.tasks import find_task
from openvla_ros.sim.world import SimulatedRobot
from openvla_ros.values.observation import Observation
from peers import lerobot
from peers.environments import called, on_top_of
from peers.piped_simulation import CHECKPOINT, CLIENTS, ROBOT, TASK, Outcome, evaluated, same
from peers.rows import Row

NAME, VERSION = "lerobot-plugin", lerobot.VERSION
ROOT = Path(__file__).resolve().parents[2]
PLUGIN = ROOT / "plugins" / "lerobot_policy_openvla"
PACKAGES = ("-e", f"{ROOT / 'ros2_ws' / 'src' / 'openvla_ros'}[sim]", "-e", str(PLUGIN))
PROGRAM = CLIENTS / "lerobot_plugin_programs.py"
SEEDS = tuple(range(100, 104))
WORDS = ("lift the red block", "put the green block on the plate", "reach the blue block")
REFUSALS = {
    "no checkpoint": "policy.checkpoint is empty; give it, such as --policy.checkpoint=small_base",
    "another robot": "action_space.gripper_open: checkpoint 1.0, robot franka_droid 0.0",
    "no weights": "not an argument of policy 'hold'",
    "another width": "LeRobot's actions have the shape (6,)",
    "no words": "OpenVLA needs an instruction",
    "a normalised image": "is not an image of whole steps of 1/255",
    "training": "use openvla finetune",
}


def check(build: Path, source: Path | None) -> list[Row]:
    """Return a row for the actions, the evaluation, and each wrong set-up; ``source`` has LeRobot."""
    python = on_top_of(lerobot.environment(source or build / lerobot.NAME), build / NAME, PACKAGES)
    work = build / f"{NAME}-results"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    rows = [*actions(python, work), evaluation(python, work), *refusals(python)]
    return [Row(NAME, VERSION, *row) for row in rows]


def run(python: Path, *arguments: str) -> str:
    """Return the last line that the program prints in LeRobot's environment."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    return called([str(python), "-P", str(PROGRAM), *arguments], f"{PROGRAM.name} failed").splitlines()[-1]


def seen() -> list[Observation]:
    """Return what the camera shows in some scenes, with other words in each."""
    with SimulatedRobot(load_profile(ROBOT), find_task(TASK)) as robot:
        found = []
        for number in range(6):
            robot.reset(number)
            found.append(observe(robot, WORDS[number % len(WORDS)]))
        return found


def actions(python: Path, work: Path) -> Iterator[tuple[str, bool, str]]:
    """Yield whether LeRobot computes our actions, from a new policy and from a saved one."""
    observations = seen()
    given, got = work / "seen.npz", work / "actions.npz"
    images = np.stack([observation.images["primary"] for observation in observations])
    np.savez(given, images=images, words=[observation.instruction for observation in observations])
    run(python, "actions", str(given), str(got))
    policy = load_policy(CHECKPOINT, robot=ROBOT, device="cpu")
    right = np.stack([policy.infer(observation).actions[0] for observation in observations])
    policy.close()
    spread = float(np.ptp(right, axis=0).max())
    for name, found in np.load(got).items():
        same_numbers = np.array_equal(found, right.astype(np.float32))
        most = float(np.abs(found - right.astype(np.float32)).max())
        said = f"{len(found)} actions, largest difference {most:g}; they vary by {spread:.2g}"
        yield f"actions of the policy {name}", same_numbers and spread > 0.0, said


def evaluation(python: Path, work: Path) -> tuple[str, bool, str]:
    """Return whether ``lerobot-eval`` ends each scene as ``openvla evaluate``, after as many steps."""
    said = json.loads(run(python, "evaluate", str(work / "eval"), str(SEEDS[0]), str(len(SEEDS))))
    outcomes = {int(seed): Outcome(bool(done), steps) for seed, (done, steps) in said["outcomes"].items()}
    alike, sentence = same(outcomes, evaluated(SEEDS))
    scored = said["successes"] == [outcomes[seed].success for seed in SEEDS]
    return (
        "lerobot-eval on our arm",
        alike and scored,
        sentence if scored else f"its scores {said['successes']}",
    )


def refusals(python: Path) -> Iterator[tuple[str, bool, str]]:
    """Yield what wrong set-ups are told."""
    said = json.loads(run(python, "refused"))
    for name, part in REFUSALS.items():
        yield f"refused: {name}", part in said[name], said[name].replace("\n", " ")[:200]
