"""Whatever is sent, from whomever and whenever, no command ever leaves the limits.

Random and adversarial chunks against the whole core: NaN, infinities, huge values, wrong widths,
other spaces, time going backwards or standing still, duplicates, bursts, hand-overs, emergency stops,
homing, broken joint states. The full count of a million runs under the ``slow`` marker.
"""

from dataclasses import replace

import numpy as np
import pytest
from support.action_spaces import NEW_SPACES, in_space
from support.adversary import adversary_of

from openvla_ros.profile import RobotProfile, load_profile
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.kinematics.collision import SelfCollision, TableClearance
from openvla_ros.robot.safety.motion import TABLE_TOLERANCE_M
from openvla_ros.values.verdict import Reason


class Limits:
    """What every command is held to, computed apart from the controller."""

    def __init__(self, profile: RobotProfile) -> None:
        limits = profile.limits
        self.profile = profile
        self.lower, self.upper = np.array(limits.joint_lower), np.array(limits.joint_upper)
        self.rates = [
            np.array(x) for x in (limits.joint_velocity, limits.joint_acceleration, limits.joint_jerk)
        ]
        self.chain = KinematicChain.from_profile(profile.arm)
        fingers = {profile.gripper.joint: profile.gripper.open_m}
        known = (profile.arm.home, profile.arm.neutral, profile.arm.park)
        self.collision = SelfCollision(self.chain, fingers, known)
        self.table = TableClearance(self.chain, fingers, limits.table_height_m)

    def check(self, runs: list[list[tuple[int, np.ndarray]]]) -> None:
        """Hold runs of commands, stamp and (J,) each, to the limits."""
        for run in runs:
            if run:
                self._check(np.array([stamp for stamp, _ in run]) * 1e-9, np.array([q for _, q in run]))

    def _check(self, times: np.ndarray, commands: np.ndarray) -> None:
        assert np.isfinite(commands).all()
        assert np.all((commands >= self.lower) & (commands <= self.upper))
        rate = commands
        for order, limit in enumerate(self.rates[: len(commands) - 1], start=1):
            # Divided differences: means of the derivative, however long each period is.
            rate = order * np.diff(rate, axis=0) / (times[order:] - times[:-order])[:, None]
            # Rounding of positions near 3 rad, magnified by the third difference, stays below 1e-6.
            assert np.all(np.abs(rate) <= limit * (1 + 1e-6)), (order, np.abs(rate).max(axis=0) / limit)
        frames = self.chain.frames(commands)
        assert self.collision.margins(frames).min() > -1e-3
        assert self.table.margins(frames).min() > -TABLE_TOLERANCE_M - 1e-3


def profiles() -> list[RobotProfile]:
    found = []
    for name in ("sim_widowx", "sim_franka"):
        base = load_profile(name)
        for mode in ("streaming", "blocking"):
            found.append(
                replace(
                    base,
                    name=f"{name}_{mode}",
                    state=replace(base.state, wrench_topic="wrench"),
                    limits=replace(base.limits, wrench_n=80.0, wrench_nm=80.0),
                    control=replace(base.control, mode=mode),
                )
            )
    return found


def other_spaces() -> list[RobotProfile]:
    """Every other kind of action in streaming control, and one of each in blocking control."""
    found = []
    for base in profiles():
        for kind, rotation in NEW_SPACES:
            if base.control.mode == "streaming" or rotation in ("none", "rotation_6d"):
                found.append(replace(in_space(base, kind, rotation), name=f"{base.name}_{kind}_{rotation}"))
    return found


def attack(profile: RobotProfile, chunks: int, seed: int) -> None:
    limits = Limits(profile)
    total, accepted, round_ = 0, 0, 0
    reasons: set[Reason] = set()
    while total < chunks:
        adversary = adversary_of(profile, seed + 1000 * round_)
        while adversary.sent < min(5000, chunks):
            adversary.tick()
        limits.check(adversary.runs)
        total, accepted, round_ = total + adversary.sent, accepted + adversary.accepted, round_ + 1
        reasons |= set(adversary.controller.tick(adversary.now_ns).counters)
    # The attack is one only if the arm moved and everything was tried.
    assert accepted >= (2 if profile.control.mode == "blocking" else total / 200)
    assert np.ptp([q for run in adversary.runs for _, q in run], axis=0).max() > 0.05
    assert reasons >= {
        Reason.NOT_FINITE, Reason.STEP_BOUNDS, Reason.WIDTH, Reason.SPACE, Reason.TIMING, Reason.FUTURE,
        Reason.STALE, Reason.OWNER, Reason.OVERRUN,
    }  # fmt: skip


@pytest.mark.parametrize("profile", profiles(), ids=lambda p: p.name)
def test_twenty_thousand_adversarial_chunks_never_leave_the_limits(profile):
    attack(profile, 5_000, seed=1)


@pytest.mark.parametrize("profile", other_spaces(), ids=lambda p: p.name)
def test_five_thousand_adversarial_chunks_of_each_other_space_never_leave_the_limits(profile):
    attack(profile, 5_000, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("profile", profiles(), ids=lambda p: p.name)
def test_a_million_adversarial_chunks_never_leave_the_limits(profile):
    attack(profile, 250_000, seed=10_000)
