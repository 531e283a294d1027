"""The checkpoint that comes with the package: found by its name, and it does what it is told."""

import numpy as np
import pytest
import torch

from openvla_ros.errors import CheckpointError
from openvla_ros.manifest import read_manifest
from openvla_ros.model.checkpoints.safetensors import resolve
from openvla_ros.model.inference.options import LoadOptions
from openvla_ros.policy.openvla_policy import load_openvla_policy
from openvla_ros.profile import load_profile
from openvla_ros.resources import SMALL_BASE, shipped_checkpoints
from openvla_ros.sim.rollout import observe, rollout
from openvla_ros.sim.tasks import TASKS, find_task
from openvla_ros.sim.world import SimulatedRobot
from openvla_ros.values.goal import Goal

PROFILE = load_profile("sim_widowx")


@pytest.fixture(scope="module")
def policy():
    torch.set_num_threads(1)
    return load_openvla_policy(SMALL_BASE, PROFILE, options=LoadOptions(dtype=torch.float32))


def test_it_is_found_by_its_name_and_is_small():
    folder = resolve(SMALL_BASE)
    assert folder == shipped_checkpoints()[SMALL_BASE]
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 20e6
    read_manifest(folder).check(PROFILE)


def test_a_name_that_there_is_not_lists_those_that_there_are():
    with pytest.raises(CheckpointError, match=SMALL_BASE):
        resolve("small_bass")


def test_it_reaches_what_it_is_told_to(policy):
    with SimulatedRobot(PROFILE, find_task("reach")) as robot:
        wins = 0
        for seed in range(200, 208):
            robot.reset(seed)
            wins += rollout(robot, policy).success
    assert wins >= 6


def test_the_named_cube_decides_where_it_goes(policy):
    """One image, three instructions: each first step leads to the cube that was named."""
    with SimulatedRobot(PROFILE, find_task("reach")) as robot:
        for seed in (300, 301):
            robot.reset(seed)
            scene = robot.scene()
            ways = {
                o.name: (o.position - scene.tool.position)[:2] for o in scene.objects if o.shape == "cube"
            }
            for name in ways:
                step = policy.infer(observe(robot, f"move to the {name}")).actions[0, :2]
                assert max(ways, key=lambda other: _cosine(step, ways[other])) == name, (seed, name, step)


def test_the_verb_decides_what_it_does(policy):
    """One scene, told each of the base's verbs: judged by each verb, what was told is what was done."""
    tasks = [task for task in TASKS.values() if task.base]
    assert len(tasks) >= 4
    done = 0
    with SimulatedRobot(PROFILE, find_task("reach")) as robot:
        for task in tasks:
            robot.reset(302)
            goal = Goal(task.verb, robot.goal.object, task.destination)
            robot.pursue(goal)
            done += rollout(robot, policy, instruction=goal.instruction).success
    assert done >= 3


def _cosine(a, b):
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-9))
