"""The simulated tasks: object layouts, instructions, and success conditions.

The tasks of one ``SceneFamily`` share one kind of scene, so that only the words tell them apart.
Everything random (which colours, where, which words) follows from the seed alone. Knows nothing of
MuJoCo: a ``Layout`` says what to place, a ``SuccessDetector`` reads ``Scene`` values.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from openvla_ros.errors import InvalidValueError
from openvla_ros.values.arrays import Float
from openvla_ros.values.goal import Goal, Verb
from openvla_ros.values.scene import Scene, Shape
from openvla_ros.values.time import NS_PER_S

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.80, 0.10, 0.09),
    "green": (0.10, 0.58, 0.16),
    "blue": (0.10, 0.22, 0.78),
    "yellow": (0.90, 0.76, 0.08),
    "purple": (0.48, 0.16, 0.62),
    "orange": (0.93, 0.45, 0.06),
}
RECEPTACLE_COLOUR = (0.88, 0.88, 0.90)
COLOUR_JITTER = 0.05  # at most, of each channel
YAW_JITTER_RAD = 0.3  # a parallel gripper turns a cube straight from up to there
MAX_STEPS = 60  # of the policy; the limit of the OpenVLA evaluation on BridgeData V2


@dataclass(frozen=True)
class SceneFamily:
    """One kind of scene: the number and colours of cubes, and the receptacle."""

    name: str
    colours: tuple[str, ...]
    cubes: int = 3
    receptacle: Shape = "plate"


TABLETOP = SceneFamily("tabletop", ("red", "green", "blue", "yellow"))
NEW_COLOURS = SceneFamily("new_colours", ("purple", "orange", "red", "blue"))
BOWL = SceneFamily("bowl", ("red", "green", "blue", "yellow"), receptacle="bowl")


@dataclass(frozen=True)
class Task:
    """One thing that the robot can be told to do, in one family of scenes."""

    name: str
    verb: Verb
    family: SceneFamily
    objects: tuple[str, ...]  # colours that may be asked for
    destination: Shape | None = None  # of what to put it on: the receptacle, or another cube
    base: bool = True  # among those that the base model is trained on; the others are new to it


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("reach", Verb.REACH, TABLETOP, TABLETOP.colours),
        Task("lift", Verb.LIFT, TABLETOP, TABLETOP.colours),
        Task("put", Verb.PUT, TABLETOP, TABLETOP.colours, destination="plate"),
        Task("push", Verb.PUSH, TABLETOP, TABLETOP.colours),
        Task("stack", Verb.PUT, TABLETOP, TABLETOP.colours, destination="cube", base=False),
        Task("bowl", Verb.PUT, BOWL, BOWL.colours, destination="bowl", base=False),
        Task("lift_purple", Verb.LIFT, NEW_COLOURS, ("purple",), base=False),
    )
}


def find_task(name: str) -> Task:
    """Return a task.

    Args:
        name: Its name, such as ``reach``, ``lift`` or ``put``.

    Raises:
        InvalidValueError: There is no such task; lists the existing names.
    """
    if name not in TASKS:
        raise InvalidValueError(f"no task {name!r}; the tasks are {', '.join(TASKS)}")
    return TASKS[name]


@dataclass(frozen=True)
class WorkArea:
    """Where objects may be placed, and the size of the cubes; metres, base frame."""

    lower: tuple[float, float]
    upper: tuple[float, float]
    table_m: float
    cube_m: float


@dataclass(frozen=True, eq=False)
class Placement:
    """The initial placement of one object."""

    name: str
    shape: Shape
    position: Float  # (3,) centre, metres, base frame
    yaw: float
    colour: Float  # (3,) 0..1


@dataclass(frozen=True, eq=False)
class Layout:
    """The start of one episode: objects, goal and instruction."""

    seed: int
    goal: Goal
    instruction: str
    placements: tuple[Placement, ...]
    table_colour: Float  # (3,)
    light: float  # brightness of the lamp, 1 is usual


# Clear distances around a cube of edge 1: open fingers beside it, closed fingers behind it.
CUBE_SPACING = 2.7  # between centres of cubes, in edges
RECEPTACLE_GAP_M = 0.050  # from a receptacle's edge to a cube's centre: half the open gripper
RECEPTACLE_RADIUS_M = 0.05
PUSH_CORRIDOR = (5.0, 2.4)  # free of the receptacle ahead of a cube to push: length, half width, in edges
ATTEMPTS = 2000


def sample_layout(task: Task, area: WorkArea, seed: int) -> Layout:
    """Return the start of episode ``seed``; the same seed gives the same layout in all its details."""
    # The scene is sampled before the task is considered, so that tasks of one family look alike.
    random = np.random.default_rng([seed, 20406])
    for _ in range(ATTEMPTS):
        spots = random.uniform(area.lower, area.upper, (task.family.cubes + 1, 2))
        if not _has_room(spots, area):
            continue
        names = tuple(str(c) for c in random.permutation(task.family.colours)[: task.family.cubes])
        candidates = [
            i for i, name in enumerate(names) if name in task.objects and _is_feasible(task, i, spots, area)
        ]
        if candidates:
            break
    else:
        raise InvalidValueError(f"no layout of task {task.name!r} fits the work area {area} (seed {seed})")
    yaws = random.uniform(-YAW_JITTER_RAD, YAW_JITTER_RAD, task.family.cubes)
    jitter = random.uniform(-COLOUR_JITTER, COLOUR_JITTER, (task.family.cubes + 2, 3))
    light = float(random.uniform(0.8, 1.15))
    cubes = tuple(
        Placement(
            f"{name} cube", "cube",
            np.array([*spots[i + 1], area.table_m + area.cube_m / 2.0]), float(yaws[i]),
            np.clip(np.array(COLOURS[name]) + jitter[i], 0.0, 1.0),
        )
        for i, name in enumerate(names)
    )  # fmt: skip
    receptacle = Placement(
        task.family.receptacle, task.family.receptacle, np.array([*spots[0], area.table_m]), 0.0,
        np.clip(np.array(RECEPTACLE_COLOUR) + jitter[-2], 0.0, 1.0),
    )  # fmt: skip
    chosen = candidates[int(random.integers(len(candidates)))]
    goal = _make_goal(task, cubes, chosen, random)
    return Layout(
        seed=seed,
        goal=goal,
        instruction=goal.phrasings[int(random.integers(len(goal.phrasings)))],
        placements=(*cubes, receptacle),
        table_colour=np.array([0.72, 0.62, 0.49]) + jitter[-1],
        light=light,
    )


def _make_goal(task: Task, cubes: tuple[Placement, ...], chosen: int, random: np.random.Generator) -> Goal:
    match task.destination:
        case None:
            return Goal(task.verb, cubes[chosen].name)
        case "cube":
            others = [cube.name for i, cube in enumerate(cubes) if i != chosen]
            return Goal(task.verb, cubes[chosen].name, others[int(random.integers(len(others)))])
        case receptacle:
            return Goal(task.verb, cubes[chosen].name, receptacle)


def _has_room(spots: Float, area: WorkArea) -> bool:
    """Return whether the centres (N, 2), the receptacle's first, are far enough apart."""
    distance = np.linalg.norm(spots[:, None] - spots[None], axis=-1)
    between_cubes = distance[1:, 1:][np.triu_indices(len(spots) - 1, 1)]
    return bool(
        between_cubes.min() >= CUBE_SPACING * area.cube_m
        and distance[0, 1:].min() >= RECEPTACLE_RADIUS_M + RECEPTACLE_GAP_M
    )


def _is_feasible(task: Task, index: int, spots: Float, area: WorkArea) -> bool:
    if task.verb is not Verb.PUSH:
        return True
    ahead, aside = spots[0] - spots[index + 1]
    length, width = (edges * area.cube_m for edges in PUSH_CORRIDOR)
    return not (-RECEPTACLE_RADIUS_M < ahead < length + RECEPTACLE_RADIUS_M and abs(aside) < width)


# Success thresholds: metres, and seconds for which the state must hold.
REACH_HEIGHT_M, REACH_TOLERANCE_M = 0.035, 0.025  # above the object's centre
LIFT_HEIGHT_M = 0.05
PUSH_DISTANCE_M = 0.05
RELEASED_OPENING = 0.6
HOLD_S = 0.4


@dataclass
class SuccessDetector:
    """Detects that an episode's goal has been reached and has held for ``HOLD_S``."""

    goal: Goal
    start: Scene
    _since_ns: int | None = field(default=None, init=False)
    _done: bool = field(default=False, init=False)

    def update(self, scene: Scene) -> bool:
        """Return whether the goal has been reached by ``scene``; once true it stays true."""
        if not self._holds(scene):
            self._since_ns = None
        elif self._since_ns is None:
            self._since_ns = scene.stamp_ns
        elif scene.stamp_ns - self._since_ns >= HOLD_S * NS_PER_S:
            self._done = True
        return self._done

    def _holds(self, scene: Scene) -> bool:
        match self.goal.verb:
            case Verb.REACH:
                return self._reached(scene)
            case Verb.LIFT:
                raised = scene[self.goal.object].position[2] - self.start[self.goal.object].position[2]
                return bool(raised >= LIFT_HEIGHT_M)
            case Verb.PUT:
                assert self.goal.destination is not None
                released = scene.gripper > RELEASED_OPENING
                return released and scene.stands_on(self.goal.object, self.goal.destination)
            case Verb.PUSH:
                return self._pushed(scene)

    def _reached(self, scene: Scene) -> bool:
        wanted = scene[self.goal.object].position + np.array([0.0, 0.0, REACH_HEIGHT_M])
        return bool(np.linalg.norm(scene.tool.position - wanted) <= REACH_TOLERANCE_M)

    def _pushed(self, scene: Scene) -> bool:
        moved = scene[self.goal.object].position - self.start[self.goal.object].position
        return bool(moved[0] >= PUSH_DISTANCE_M and abs(moved[1]) < moved[0] and abs(moved[2]) < 0.01)
