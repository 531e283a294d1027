"""Layouts follow from the seed, keep their distances; detectors say done when it is done, not before."""

from dataclasses import replace

import numpy as np
import pytest

from openvla_ros.errors import InvalidValueError
from openvla_ros.sim.tasks import (
    CUBE_SPACING,
    RECEPTACLE_GAP_M,
    RECEPTACLE_RADIUS_M,
    TASKS,
    SuccessDetector,
    WorkArea,
    find_task,
    sample_layout,
)
from openvla_ros.values.geometry import Pose
from openvla_ros.values.goal import Goal, Verb, parse_goal
from openvla_ros.values.scene import Scene, SceneObject

AREA = WorkArea((0.23, -0.13), (0.39, 0.12), -0.02, 0.03)
SEEDS = range(60)


@pytest.mark.parametrize("name", TASKS)
def test_a_seed_gives_one_layout(name):
    task = find_task(name)
    for seed in SEEDS:
        first, second = sample_layout(task, AREA, seed), sample_layout(task, AREA, seed)
        assert (first.goal, first.instruction, first.light) == (second.goal, second.instruction, second.light)
        for a, b in zip(first.placements, second.placements, strict=True):
            assert a.name == b.name
            assert np.array_equal(a.position, b.position)
            assert np.array_equal(a.colour, b.colour)


@pytest.mark.parametrize("name", TASKS)
def test_layouts_differ_keep_their_distances_and_hold_what_is_asked_for(name):
    task, starts = find_task(name), set()
    for seed in SEEDS:
        layout = sample_layout(task, AREA, seed)
        *cubes, receptacle = layout.placements
        starts.add(tuple(cubes[0].position))
        assert parse_goal(layout.instruction) == layout.goal
        names = [item.name for item in layout.placements]
        assert layout.goal.object in names
        assert layout.goal.destination in (None, *names)
        assert layout.goal.object != layout.goal.destination
        for i, cube in enumerate(cubes):
            assert np.all(cube.position[:2] >= AREA.lower)
            assert np.all(cube.position[:2] <= AREA.upper)
            gap = np.linalg.norm(cube.position[:2] - receptacle.position[:2])
            assert gap >= RECEPTACLE_RADIUS_M + RECEPTACLE_GAP_M
            for other in cubes[:i]:
                distance = np.linalg.norm(cube.position - other.position)
                assert distance >= CUBE_SPACING * AREA.cube_m
    assert len(starts) == len(SEEDS)


def test_four_base_tasks_share_their_scenes_so_that_only_words_tell_them_apart():
    base = [task for task in TASKS.values() if task.base]
    assert len(base) >= 4
    assert len({task.family for task in base}) == 1
    for seed in SEEDS:
        layouts = [sample_layout(task, AREA, seed) for task in base if task.verb is not Verb.PUSH]
        positions = [tuple(p.position[0] for p in layout.placements) for layout in layouts]
        assert len(set(positions)) == 1
        assert len({layout.instruction for layout in layouts}) == len(layouts)


def test_an_unknown_task_is_refused_with_those_there_are():
    with pytest.raises(InvalidValueError, match="no task 'fly'; the tasks are reach, lift, put, push"):
        find_task("fly")


def test_a_work_area_that_is_too_small_is_named():
    with pytest.raises(InvalidValueError, match="no layout of task 'lift' fits"):
        sample_layout(find_task("lift"), replace(AREA, upper=(0.25, -0.1)), 0)


def cube_at(name, position):
    return SceneObject(name, "cube", Pose(np.array(position), np.eye(3)), np.full(3, 0.03), np.full(3, 0.5))


def scene_at(cube=(0.3, 0.0, -0.005), tool=(0.2, 0.0, 0.2), gripper=1.0, stamp_s=0.0):
    plate = Pose(np.array([0.3, 0.1, -0.018]), np.eye(3))
    return Scene(
        stamp_ns=round(stamp_s * 1e9),
        objects=(
            cube_at("red cube", cube),
            cube_at("blue cube", (0.35, -0.1, -0.005)),
            SceneObject("plate", "plate", plate, np.array([0.09, 0.09, 0.004]), np.full(3, 0.9)),
        ),
        tool=Pose(np.array(tool), np.eye(3)),
        gripper=gripper,
        table_m=-0.02,
    )


DONE = {
    "reach": (Goal(Verb.REACH, "red cube"), {"tool": (0.305, 0.01, 0.035)}),
    "lift": (Goal(Verb.LIFT, "red cube"), {"cube": (0.3, 0.0, 0.05), "gripper": 0.5}),
    "push": (Goal(Verb.PUSH, "red cube"), {"cube": (0.36, 0.01, -0.005)}),
    "plate": (Goal(Verb.PUT, "red cube", "plate"), {"cube": (0.31, 0.11, -0.001)}),
    "stack": (Goal(Verb.PUT, "red cube", "blue cube"), {"cube": (0.355, -0.1, 0.025)}),
}
NOT_DONE = {
    "reach, the wrong cube": (Goal(Verb.REACH, "red cube"), {"tool": (0.35, -0.1, 0.03)}),
    "reach, too high": (Goal(Verb.REACH, "red cube"), {"tool": (0.3, 0.0, 0.08)}),
    "lift, not high enough": (Goal(Verb.LIFT, "red cube"), {"cube": (0.3, 0.0, 0.03)}),
    "push, sideways": (Goal(Verb.PUSH, "red cube"), {"cube": (0.36, 0.08, -0.005)}),
    "push, carried": (Goal(Verb.PUSH, "red cube"), {"cube": (0.36, 0.0, 0.03)}),
    "push, pulled": (Goal(Verb.PUSH, "red cube"), {"cube": (0.24, 0.0, -0.005)}),
    "plate, beside it": (Goal(Verb.PUT, "red cube", "plate"), {"cube": (0.3, 0.04, -0.005)}),
    "plate, above it": (Goal(Verb.PUT, "red cube", "plate"), {"cube": (0.3, 0.1, 0.03)}),
    "plate, still held": (Goal(Verb.PUT, "red cube", "plate"), {"cube": (0.3, 0.1, -0.001), "gripper": 0.4}),
    "stack, beside it": (Goal(Verb.PUT, "red cube", "blue cube"), {"cube": (0.35, -0.06, -0.005)}),
}


@pytest.mark.parametrize("case", DONE)
def test_done_is_noticed_once_it_lasts(case):
    goal, state = DONE[case]
    detector = SuccessDetector(goal, scene_at())
    assert not detector.update(scene_at(stamp_s=0.0))
    assert not detector.update(scene_at(stamp_s=0.1, **state))
    assert not detector.update(scene_at(stamp_s=0.4, **state))
    assert detector.update(scene_at(stamp_s=0.6, **state))
    assert detector.update(scene_at(stamp_s=0.7)), "done stays done"


@pytest.mark.parametrize("case", DONE)
def test_an_interrupted_success_does_not_count(case):
    goal, state = DONE[case]
    detector = SuccessDetector(goal, scene_at())
    assert not detector.update(scene_at(stamp_s=0.1, **state))
    assert not detector.update(scene_at(stamp_s=0.3))
    assert not detector.update(scene_at(stamp_s=0.6, **state))


@pytest.mark.parametrize("case", NOT_DONE)
def test_not_done_is_not_done(case):
    goal, state = NOT_DONE[case]
    detector = SuccessDetector(goal, scene_at())
    assert not any(detector.update(scene_at(stamp_s=0.1 * i, **state)) for i in range(20))
