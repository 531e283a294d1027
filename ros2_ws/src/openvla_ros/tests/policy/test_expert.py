"""The scripted expert solves every task through the actions that a learned policy would send."""

import numpy as np
import pytest

from openvla_ros.errors import InvalidValueError, PolicyError
from openvla_ros.policy.expert import ScriptedExpert
from openvla_ros.policy.protocol import Policy
from openvla_ros.profile import load_profile
from openvla_ros.sim.rollout import BLANK, observe, rollout
from openvla_ros.sim.tasks import TASKS, find_task
from openvla_ros.sim.world import SimulatedRobot
from openvla_ros.values.goal import parse_goal
from openvla_ros.values.observation import Observation


def run(name, task, seeds):
    """Return (successes, all actions (N, 7)) of the expert on ``seeds``."""
    wins, actions = [], []
    with SimulatedRobot(load_profile(name), find_task(task)) as robot:
        expert = ScriptedExpert.for_profile(robot.profile, robot.scene)
        for seed in seeds:
            robot.reset(seed)
            wins.append(
                rollout(
                    robot, expert, images=False, on_step=lambda _, chunk: actions.append(chunk.actions)
                ).success
            )
    return wins, np.concatenate(actions)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("name", "count"), [("sim_widowx", 5), ("sim_franka", 2)])
def test_the_expert_solves_every_task_within_the_action_bounds(name, count, task):
    wins, actions = run(name, task, range(count))
    assert all(wins)
    space = load_profile(name).space()
    assert np.all(actions >= space.lower)
    assert np.all(actions <= space.upper)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", ["sim_widowx", "sim_franka"])
def test_the_expert_solves_95_of_100_seeds(name, task):
    wins, _ = run(name, task, range(1000, 1100))
    assert sum(wins) >= 95


@pytest.fixture
def robot():
    with SimulatedRobot(load_profile("sim_widowx"), find_task("lift"), seed=1) as world:
        yield world


def test_a_task_is_not_solved_by_doing_nothing_or_another_task(robot):
    for task in TASKS:
        with SimulatedRobot(robot.profile, find_task(task), seed=2) as world:
            world.step(3.0)
            assert not world.success, task
    expert = ScriptedExpert.for_profile(robot.profile, robot.scene)
    other = next(item.name for item in robot.scene().objects if item.name != robot.goal.object)
    assert not rollout(robot, expert, instruction=f"lift the {other}", images=False, max_steps=30).success
    assert robot.scene()[other].position[2] > 0.05, "it did lift, but not what counts"


def test_the_words_alone_decide_what_is_done():
    with SimulatedRobot(load_profile("sim_widowx"), find_task("put"), seed=4) as world:
        first, second, third, _ = (item.name for item in world.scene().objects)
        expert = ScriptedExpert.for_profile(world.profile, world.scene)
        for words in (f"move to the {second}", f"lift the {first}", f"put the {third} on the plate"):
            world.reset(4)
            world.pursue(parse_goal(words))
            assert rollout(world, expert, instruction=words, images=False).success, words


@pytest.mark.parametrize("name", ["sim_widowx", "sim_franka"])
def test_what_is_grasped_stays_in_the_hand_while_it_is_shaken(name):
    with SimulatedRobot(load_profile(name), find_task("lift"), seed=6) as world:
        assert rollout(world, ScriptedExpert.for_profile(world.profile, world.scene), images=False).success
        held = world.joint_positions.copy()

        def in_hand():
            return (world.tool.inverse() @ world.scene()[world.goal.object].pose).position

        before = in_hand()
        world.step(2.0)
        assert np.linalg.norm(in_hand() - before) < 0.0005
        for tick in range(500):  # two joints by 0.02 rad at 2 Hz: about 1 m/s² at the hand
            target = held.copy()
            target[:2] += 0.02 * np.sin(4.0 * np.pi * tick / 100.0)
            world.command_joints(target)
            world.step(0.01)
        assert np.linalg.norm(in_hand() - before) < 0.003


def test_the_expert_is_a_policy_and_says_what_it_lacks(robot):
    expert = ScriptedExpert.for_profile(robot.profile, robot.scene)
    assert isinstance(expert, Policy)
    assert "no model" in expert.description
    with pytest.raises(PolicyError, match="is not understood"):
        expert.infer(observe(robot, "sing", images=False))
    with pytest.raises(PolicyError, match="no object 'pink cube' in the scene; it has"):
        expert.infer(observe(robot, "lift the pink cube", images=False))
    with pytest.raises(PolicyError, match="needs the end-effector pose"):
        expert.infer(Observation(0, BLANK, "lift the red cube"))
    expert.close()


def test_a_space_that_the_expert_cannot_act_in_is_refused(robot):
    space = robot.profile.space()
    object.__setattr__(space, "frame", "tool")
    with pytest.raises(InvalidValueError, match="in the tool frame"):
        ScriptedExpert(space, robot.scene)


def test_a_rollout_repeats_itself(robot):
    def states():
        seen = []
        robot.reset(3)
        expert = ScriptedExpert.for_profile(robot.profile, robot.scene)
        rollout(
            robot, expert, images=False, on_step=lambda o, c: seen.append([*o.joint_positions, *c.actions[0]])
        )
        return np.array(seen)

    assert np.array_equal(states(), states())
