"""Which chunks the controller accepts, and how it says what is wrong with the others."""

from dataclasses import replace

import numpy as np
import pytest
from support.controller_bench import ROBOTS, START_NS, WIDOWX, Bench, action, centre, with_control

from openvla_ros.robot.output import ControllerState
from openvla_ros.robot.safety.chunk import ReceivedChunk
from openvla_ros.values.verdict import Reason


def received(bench: Bench, **changes) -> ReceivedChunk:
    good = ReceivedChunk.from_chunk(bench.chunk(action(x=0.01)), bench.profile)
    return replace(good, **changes)


NAN = np.array([[0, 0, np.nan, 0, 0, 0, 1.0]])

INF = np.array([[0, 0, 0, 0, -np.inf, 0, 1.0]])

HUGE = np.array([[0.08, 0, 0, 0, 0, 0, 1.0]])


@ROBOTS
@pytest.mark.parametrize(
    ("changes", "reason", "detail"),
    [
        ({"values": NAN}, Reason.NOT_FINITE, "z of step 0 is nan"),
        ({"values": INF}, Reason.NOT_FINITE, "pitch of step 0 is -inf"),
        ({"values": HUGE}, Reason.STEP_BOUNDS, "x of step 0 is 0.08; its limits are -0.05 .. 0.05 m"),
        ({"values": np.zeros((1, 6))}, Reason.WIDTH, "(1, 6)"),
        ({"values": np.zeros((0, 7))}, Reason.WIDTH, "(0, 7)"),
        ({"values": np.zeros(7)}, Reason.WIDTH, "(7,)"),
        ({"frame_id": "camera"}, Reason.SPACE, "'camera'"),
        ({"names": ("a",) * 7}, Reason.SPACE, "'a'"),
        ({"step_s": 0.5}, Reason.TIMING, "0.5 s; the robot expects 0.2 s"),
        ({"step_s": float("nan")}, Reason.TIMING, "nan"),
        ({"stamp_ns": START_NS - 10**9}, Reason.STALE, "the limit is 0.6 s"),
        ({"stamp_ns": START_NS + 10**9}, Reason.FUTURE, "ahead of the controller's clock"),
    ],
)
def test_a_wrong_chunk_is_refused_by_name(profile, changes, reason, detail):
    bench = Bench(profile)
    verdict = bench.controller.accept(received(bench, **changes), "policy", bench.now_ns)
    assert verdict.outcome == "hold"
    assert verdict.reason is reason
    assert detail in verdict.detail
    output = bench.tick(20)
    assert output.joint_positions is None
    assert output.counters[reason] == 1


def test_a_value_just_beyond_its_bound_is_limited_and_said_so():
    bench = Bench(WIDOWX)
    centre(bench)
    before = bench.tool().position
    values = np.array([[0.052, 0, 0, 0, 0, 0, 1.0]])
    verdict = bench.controller.accept(received(bench, values=values), "policy", bench.now_ns)
    assert verdict.commands
    assert verdict.reason is Reason.STEP_BOUNDS
    assert "0.052; its limits are -0.05 .. 0.05 m" in verdict.detail
    assert bench.tick(100).counters[Reason.STEP_BOUNDS] == 1
    np.testing.assert_allclose(bench.tool().position - before, [0.05, 0, 0], atol=5e-4)


def test_duplicates_and_older_observations_are_refused():
    bench = Bench(WIDOWX)
    assert bench.send(action(x=0.01)).commands
    assert bench.send(action(x=0.01)).reason is Reason.DUPLICATE
    assert bench.send(action(x=0.01), age_s=0.1).reason is Reason.OUT_OF_ORDER


@pytest.mark.parametrize("steps", [11, 300])
def test_one_chunk_carries_no_more_motion_than_the_profile_allows(steps):
    bench = Bench(WIDOWX)
    refused = bench.send(*[action(x=0.01)] * steps)
    assert refused.reason is Reason.TIMING
    assert f"{steps} steps are {0.2 * steps:g} s of motion; the limit for one chunk is 2 s" in refused.detail
    assert bench.send(*[action(x=0.005)] * 10).commands
    rests = next(n for n in range(1000) if n and bench.tick().state is not ControllerState.EXECUTING)
    assert rests * 0.01 < 2.0 + WIDOWX.control.hold_after_s + 0.1


def test_blocking_control_moves_then_looks():
    bench = Bench(with_control(WIDOWX, mode="blocking"))
    assert bench.send(action(x=0.02), age_s=0.5).commands
    bench.tick(5)
    assert bench.send(action(x=0.02)).reason is Reason.BUSY
    while not bench.tick().settled:
        assert len(bench.outputs) < 300
    seen_before_rest = bench.chunk(action(x=0.02), age_s=0.2)
    assert bench.controller.accept(seen_before_rest, "policy", bench.now_ns).reason is Reason.BUSY
    bench.tick(5)
    assert bench.send(action(x=0.02)).commands
