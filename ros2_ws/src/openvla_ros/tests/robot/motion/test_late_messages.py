"""Late is never fast: whatever stands still or is lost on the way, no setpoint is beyond the limits.

Each process of the chain from the controller to the driver pauses at random, up to two seconds, and the
messages between them are lost, doubled, late and out of order. Looked at is what arrives at the driver,
by an eye of its own (``setpoint_check``, which says how it counts time).
"""

import numpy as np
import pytest
from support.late_chain import PERIOD_NS, SetpointChain, TrajectoryChain, TwistChain
from support.setpoint_checker import SetpointCheck

from openvla_ros.driver_profile import ArmBackend
from openvla_ros.profile import load_profile

PROFILE = load_profile("sim_widowx")
KINDS = ("forward_position", "interbotix", "cartesian_target", "servo_twist", "joint_trajectory")
FULL, QUICK = 100_000, 2_000
BUSY_S = 0.1  # between two pauses of one process, on average


def make(kind: str, seed: int, **options):
    backend = ArmBackend(kind=kind, topic="commands")
    chains = {"joint_trajectory": TrajectoryChain, "servo_twist": TwistChain}
    return chains.get(kind, SetpointChain)(PROFILE, backend, seed, gap_s=BUSY_S, **options)


def check(kind: str, pauses: int, seed: int, **options) -> None:
    chain = make(kind, seed, **options)
    start = chain.q
    farthest = 0.0
    while chain.pauses < pauses:
        chain.period()
        farthest = max(farthest, float(np.abs(chain.q - start).max()))
    assert chain.violations() == []
    # It is a test only if the arm moved fast, and if what must be refused or blended came.
    assert farthest > 0.5
    assert chain.worst_velocity() > 0.4
    assert chain.events["early"] > 0
    if kind != "servo_twist":
        assert chain.events["refused"] > pauses / 50
    if kind in ("forward_position", "interbotix", "cartesian_target"):
        assert min(chain.events[reason] for reason in ("held", "blended", "out of reach")) > pauses / 200


@pytest.mark.parametrize("kind", KINDS)
def test_no_setpoint_is_beyond_the_limits_after_two_thousand_pauses(kind):
    check(kind, QUICK, seed=4)


@pytest.mark.parametrize("release", ["humble", "rolling"])
def test_nor_where_a_new_trajectory_starts_at_the_last_command(release):
    check("joint_trajectory", QUICK // 4, seed=2, release=release, from_desired=True)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("from_desired", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_nor_after_a_hundred_thousand(kind, from_desired):
    options = {"from_desired": from_desired} if kind == "joint_trajectory" else {}
    if from_desired and not options:
        pytest.skip("a setting of joint trajectory controllers only")
    for seed in range(FULL // 5000):
        check(kind, 5000, seed=100 + seed, **options)


def test_the_check_sees_each_kind_of_violation():
    limits = PROFILE.limits
    q, period_s = np.array(PROFILE.arm.neutral), PERIOD_NS * 1e-9
    slow = np.zeros(100)
    slow[20:] = 1.0

    def violations(offsets: np.ndarray, times: np.ndarray | None = None) -> str:
        check = SetpointCheck.of(PROFILE)
        times = np.arange(len(offsets)) * period_s if times is None else times
        for time_s, offset in zip(times, offsets, strict=True):
            check.arrive(time_s, q + offset)
        return "; ".join(check.violations())

    assert violations(0.0 * slow) == ""
    assert "jerk" in violations(slow * 1.2 * limits.joint_jerk[0] * period_s**3)
    assert "acceleration" in violations(slow * 1.2 * limits.joint_acceleration[0] * period_s**2)
    assert "velocity" in violations(slow * 1.2 * limits.joint_velocity[0] * period_s)
    assert "position" in violations(slow * 10.0)
    assert "not finite" in violations(slow * np.nan)
    # A driver that was not fed has stopped the arm: going on at speed is a jump.
    ramp = np.arange(100) * 0.01
    late = np.where(np.arange(100) < 50, 0.0, 0.5) + np.arange(100) * period_s
    going = [v for v in (violations(ramp, late),) if "acceleration" in v]
    assert going
