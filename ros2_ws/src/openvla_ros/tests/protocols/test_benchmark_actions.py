"""Our actions in vla-eval's benchmarks: units, rotations and grippers of the table, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest

from openvla_ros.errors import InvalidValueError
from openvla_ros.profile import load_profile
from openvla_ros.protocols.benchmark_actions import (
    ActionTranslation,
    benchmark_called,
    benchmark_of_class,
    benchmark_table,
    parse_table,
    served_benchmarks,
)
from openvla_ros.values.geometry import transform_euler_to_matrix, transform_rotvec_to_matrix

WIDOWX = load_profile("sim_widowx").space()
LIBERO = "vla_eval.benchmarks.libero.benchmark:LIBEROBenchmark"
MOTION = np.array([0.02, -0.01, 0.005, 0.2, -0.1, 0.15])


def fitting(name, **changes):
    """The WidowX's action space, with what the benchmark needs."""
    entry = benchmark_called(name)
    rate = entry.rate_hz[0] if entry.rate_hz else 5.0
    return entry, replace(WIDOWX, frame=entry.frame, rate_hz=rate, **changes)


@pytest.mark.parametrize("name", served_benchmarks())
def test_open_and_closed_are_the_benchmarks_own_whatever_the_policys_sign(name):
    for sign in (1.0, 0.0):
        entry, space = fitting(name, gripper_open=sign)
        translation = ActionTranslation(entry, space)
        state = {"states": np.zeros(8)}
        opened = translation.to_benchmark(np.array([*MOTION, sign]), state)[6]
        closed = translation.to_benchmark(np.array([*MOTION, 1.0 - sign]), state)[6]
        assert (opened, closed) == (entry.gripper.open, entry.gripper.closed)


def test_simplers_gripper_is_what_its_code_does_and_not_what_it_declares():
    entry = benchmark_called("simpler")
    assert entry.declares["gripper"] == "binary_close_positive"
    assert entry.gripper.open > 0.5 > entry.gripper.closed


def test_euler_angles_become_the_rotation_vector_of_a_scaled_controller():
    entry, space = fitting("libero")
    sent = ActionTranslation(entry, space).to_benchmark(np.array([*MOTION, 1.0]), {})
    np.testing.assert_allclose(sent[:3] * 0.05, MOTION[:3], atol=1e-12)
    turned = transform_rotvec_to_matrix(sent[3:6] * 0.5)
    np.testing.assert_allclose(turned, transform_euler_to_matrix(MOTION[3:]), atol=1e-12)
    assert np.abs(sent[3:6] * 0.5 - MOTION[3:]).max() > 1e-3  # the numbers themselves would be wrong


def test_a_policy_in_the_benchmarks_own_units_and_convention_is_passed_on_as_it_is():
    units = ("0.05 m",) * 3 + ("0.5 rad",) * 3 + ("1",)
    entry, space = fitting("libero", units=units, rotation="rotation_vector")
    action = np.array([0.3, -1.0, 0.7, 0.123456789, 4.0, -0.5, 0.0])
    sent = ActionTranslation(entry, space).to_benchmark(action, {})
    np.testing.assert_array_equal(sent[:6], action[:6])


def test_added_euler_angles_follow_the_composed_rotation_over_many_steps():
    entry, space = fitting("calvin")
    translation = ActionTranslation(entry, space)
    rng = np.random.default_rng(3)
    angles = np.array([2.9, -0.4, 3.0])
    target, state = transform_euler_to_matrix(angles), np.array([0.1, 0.2, 0.3, *angles, 0.0, 1.0])
    for _ in range(50):
        action = np.array([*rng.uniform(-0.2, 0.2, 6), 1.0])
        sent = translation.to_benchmark(action, {"states": state})
        angles = (angles + sent[3:6] + np.pi) % (2 * np.pi) - np.pi  # as CALVIN does
        target = transform_euler_to_matrix(action[3:6]) @ target
        np.testing.assert_allclose(transform_euler_to_matrix(angles), target, atol=1e-9)
        assert np.abs(sent[3:6]).max() <= np.pi
        state = np.full(8, np.nan)  # only the first one counts
    translation.begin()
    with pytest.raises(InvalidValueError, match=r"calvin did not send 'states'.*send_state: True"):
        translation.to_benchmark(action, {})


@pytest.mark.parametrize(
    ("name", "changes", "wrong"),
    [
        ("libero", {"rate_hz": 5.0}, "libero makes 20 steps in a second; the policy's actions are for 5"),
        ("simpler", {"rate_hz": 15.0}, "makes 5 or 3 steps"),
        (
            "maniskill2",
            {"frame": "base"},
            "moves along the axes of the tool; the policy along those of the base",
        ),
        ("libero", {"units": ("1",) * 7}, "the unit of 'x' is '1', which does not say"),
        ("vlabench", {}, "cannot be served: it adds Euler angles .* those that can are openvla_ros, libero"),
        ("robotwin", {}, "it has two arms"),
    ],
)
def test_a_conversion_that_is_not_defined_is_refused_by_name(name, changes, wrong):
    entry = benchmark_called(name)
    _, space = fitting(name)
    with pytest.raises(InvalidValueError, match=wrong):
        ActionTranslation(entry, replace(space, **changes))


def test_joint_actions_are_refused():
    joints = replace(
        WIDOWX, names=("a", "b", "gripper"), units=("rad", "rad", "1"), rotation="none", kind="joint_delta",
        lower=np.full(3, -1.0), upper=np.ones(3),
    )  # fmt: skip
    with pytest.raises(InvalidValueError, match="libero needs tool_delta actions; these are joint_delta"):
        ActionTranslation(benchmark_called("libero"), joints)


def test_benchmarks_are_found_by_their_class_and_by_name():
    assert benchmark_of_class(LIBERO).name == "libero"
    with pytest.raises(InvalidValueError, match=r"'my\.bench:Robot' mean is not known here; known are"):
        benchmark_of_class("my.bench:Robot")
    with pytest.raises(
        InvalidValueError, match="no benchmark 'liber'; those of vla-eval are openvla_ros, libero"
    ):
        benchmark_called("liber")


def test_every_entry_says_where_it_was_read_and_no_class_stands_twice():
    classes = [kind for entry in benchmark_table().values() for kind in entry.classes]
    assert len(set(classes)) == len(classes)
    assert all(entry.read_in for entry in benchmark_table().values())


@pytest.mark.parametrize(
    ("entry", "wrong"),
    [
        ("{classes: [], read_in: []}", "a.entry: translation is missing, and no reason why it is refused"),
        ("{classes: [], read_in: [], refused: no, colour: red}", "a.colour: unknown key"),
        ("{classes: [], read_in: [], refused: x, rotation: {is: spin, rad: 1}}", r"a\.rotation\.is_: "),
        ("{classes: [], read_in: [], refused: x, turned_from: y}", "belongs to the rotation euler_added"),
    ],
)
def test_a_wrong_entry_is_named(entry, wrong):
    with pytest.raises(InvalidValueError, match=wrong):
        parse_table(f"benchmarks: {{a: {entry}}}", "table.yaml")
