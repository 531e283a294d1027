"""The simulated joint trajectory controller against ros2_control's own, release by release."""

import json

import numpy as np
import pytest
from support.shared_data import DATA

from openvla_ros.errors import InvalidValueError
from openvla_ros.robot.motion.joint_path import Waypoint
from openvla_ros.robot.motion.joint_trajectory_controller import RELEASES, JointTrajectoryController

GOLDEN = json.loads((DATA / "joint_trajectory_controller.json").read_text())
STARTS = ("measured", "desired")
START_S = 1.0


def commands(scenario: dict, release: str, start: str) -> np.ndarray:
    """Return what our controller commands, (N, J), for the messages of ``scenario``."""
    cycle_s, measured = GOLDEN["cycle_ms"] / 1e3, GOLDEN["measured"]
    controller = JointTrajectoryController(["a", "b"], measured[0][0], cycle_s, release, start == "desired")
    messages = {message["cycle"]: message for message in scenario["messages"]}
    found = []
    for cycle, (position, velocity) in enumerate(measured):
        now_s = START_S + cycle * cycle_s
        message = messages.get(cycle)
        if message is not None:
            points, stamp_ms = message["points"], message["stamp_ms"]
            controller.receive(
                ["a", "b"],
                [p["ms"] / 1e3 for p in points],
                *([p[key] for p in points] for key in "pva"),
                None if stamp_ms is None else START_S + stamp_ms / 1e3,
                now_s,
            )
        state = Waypoint(now_s, np.array(position), np.array(velocity))
        found.append(controller.update(now_s, state).position)
    return np.array(found)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("scenario", GOLDEN["scenarios"], ids=lambda s: s["name"].replace(" ", "-"))
def test_it_commands_what_the_original_commands(scenario, release, start):
    right = scenario["commands"][f"{release}/{start}"]
    if isinstance(right, str):  # the same numbers as there
        right = scenario["commands"][right]
    np.testing.assert_allclose(commands(scenario, release, start), right, atol=1e-8)


POINTS = {
    "times_s": [0.1, 0.2],
    "positions": [[0.1, 0.1], [0.2, 0.2]],
    "velocities": [[0.5, 0.5], [0.0, 0.0]],
}


def receive(release: str = "kilted", now_s: float = 10.0, **changes) -> JointTrajectoryController:
    controller = JointTrajectoryController(["a", "b"], [0.0, 0.0], 0.01, release)
    values = {"names": ["a", "b"], **POINTS, "accelerations": [[], []], "stamp_s": 10.0, **changes}
    controller.receive(**values, now_s=now_s)
    return controller


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"names": ["a"]}, "this controller moves"),
        ({"names": ["a", "c"]}, "this controller moves"),
        ({"names": ["a", "a"]}, "this controller moves"),
        ({"times_s": [0.2, 0.2]}, "must increase"),
        ({"times_s": [], "positions": [], "velocities": [], "accelerations": []}, "must increase"),
        ({"positions": [[0.1, 0.1], [0.2]]}, "has shape"),
        ({"velocities": [[0.5], [0.0, 0.0]]}, "has shape"),
        ({"positions": [[0.1, 0.1], [np.nan, 0.2]]}, "must be finite"),
        ({"now_s": 10.2001}, "ends in the past"),
        ({"velocities": [[0.5, 0.5], [0.0, 1e-6]]}, "the velocity of the last point is not zero"),
    ],
)
def test_what_the_original_refuses_is_refused_and_changes_nothing(changes, words):
    with pytest.raises(InvalidValueError, match=words):
        receive(**changes)
    controller = receive()
    state = Waypoint(10.0, np.zeros(2), np.zeros(2))
    before = controller.update(10.0, state).position
    with pytest.raises(InvalidValueError):
        controller.receive(["a"], [0.1], [[9.0]], [[]], [[]], None, 10.01)
    assert np.array_equal(controller.update(10.0, state).position, before)


def test_a_last_velocity_is_refused_since_jazzy():
    moving = {"velocities": [[0.5, 0.5], [0.0, 0.3]]}
    receive("humble", **moving)
    for release in ("jazzy", "kilted", "rolling"):
        with pytest.raises(InvalidValueError, match="not zero"):
            receive(release, **moving)
    receive(velocities=[[0.5, 0.5], [0.0, 1e-7]])  # a float's rounding


def test_a_message_without_a_stamp_is_never_over():
    controller = receive(stamp_s=None, now_s=1e6)
    state = Waypoint(1e6, np.zeros(2), np.zeros(2))
    controller.update(1e6, state)
    assert controller.update(1e6 + 0.2, state).position == pytest.approx([0.2, 0.2])


def test_joints_come_in_any_order():
    controller = receive(names=["b", "a"], positions=[[0.1, 0.3], [0.2, 0.4]])
    assert controller.update(11.0, Waypoint(11.0, np.zeros(2))).position == pytest.approx([0.4, 0.2])


def test_times_are_compared_in_whole_nanoseconds():
    # 1.108 s + 0.072 s is a hair more than 1.18 s in floating point; there the last point is reached.
    controller = JointTrajectoryController(["a", "b"], [0.0, 0.0], 0.01, "humble", True)
    state = Waypoint(1.07, np.zeros(2), np.zeros(2))
    controller.receive(
        ["a", "b"], [0.006, 0.072], [[0.1, 0.1], [0.2, 0.2]], [[], []], [[], []], 1.108, now_s=1.07
    )
    commands = [controller.update(1.0 + 0.01 * i, state) for i in range(7, 19)]
    np.testing.assert_array_equal(commands[-1].position, [0.2, 0.2])
    np.testing.assert_array_equal(commands[-1].velocity, [0.0, 0.0])
