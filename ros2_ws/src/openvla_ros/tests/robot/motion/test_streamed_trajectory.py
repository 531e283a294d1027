"""The trajectory of each period, in the hands of ros2_control's joint trajectory controller."""

import numpy as np
import pytest

from openvla_ros.errors import InvalidValueError
from openvla_ros.profile import load_profile
from openvla_ros.robot.motion.joint_path import Waypoint
from openvla_ros.robot.motion.joint_trajectory_controller import RELEASES, JointTrajectoryController
from openvla_ros.robot.motion.motion_limiter import JointMotion, MotionLimiter, MotionLimits
from openvla_ros.robot.motion.stop_trajectory import trailing_stop
from openvla_ros.robot.motion.streamed_trajectory import StreamedTrajectory, TrajectoryStream

PROFILE = load_profile("sim_widowx")
LIMITS = MotionLimits.from_profile(PROFILE.limits)
JOINTS, START = PROFILE.arm.joints, np.array(PROFILE.arm.neutral)
AWAY = START + np.array([1.2, 1.2, 0.8, 1.2, -1.2, 1.2])
PERIOD_S, CYCLE_S, LOOKAHEAD_S = 0.01, 0.001, 0.03
LATENCY_S = 0.0013


def without_the_past(stream: TrajectoryStream, stamp_ns: int, motion: JointMotion) -> StreamedTrajectory:
    """What was sent before there were points that are due already."""
    stop = trailing_stop(motion, LIMITS)
    return StreamedTrajectory(stamp_ns, stop.times_s + LOOKAHEAD_S, stop.positions, stop.velocities)


def stream_to(
    release="kilted", from_desired=False, servo_s=0.05, message=None, pause=(9.0, 9.0), clock_behind_s=0.0
):
    """Stream a fast motion to an arm that follows its commands with the time constant ``servo_s``.

    Returns the commands of each cycle (N, J), and how far the arm was behind the motion due, (N,).
    """
    limiter, stream = MotionLimiter(LIMITS, PERIOD_S, 0.1), TrajectoryStream(LIMITS, LOOKAHEAD_S)
    controller = JointTrajectoryController(JOINTS, START, CYCLE_S, release, from_desired)
    motion, q, velocity = JointMotion.at_rest(START), START, np.zeros(len(START))
    waiting: list[tuple[float, StreamedTrajectory]] = []
    due: dict[int, np.ndarray] = {}
    commands, behind = [], []
    for cycle in range(1500):
        now_s = 10.0 + cycle * CYCLE_S
        if cycle % 10 == 0:
            motion = limiter.follow(motion, JointMotion.at_rest(AWAY))
            stamp_ns = round(now_s * 1e9)
            sent = (
                stream.next(stamp_ns, PERIOD_S, motion)
                if message is None
                else message(stream, stamp_ns, motion)
            )
            waiting.append((now_s + LATENCY_S, sent))
            due[cycle + 30] = motion.position
        if not pause[0] <= now_s - 10.0 < pause[1]:
            for _, sent in (m for m in waiting if m[0] <= now_s):
                controller.receive(
                    JOINTS, list(sent.times_s), list(sent.positions), list(sent.velocities),
                    [[]] * len(sent.times_s), sent.stamp_ns * 1e-9 + clock_behind_s, now_s,
                )  # fmt: skip
            waiting = [m for m in waiting if m[0] > now_s]
        command = controller.update(now_s, Waypoint(now_s, q, velocity)).position
        commands.append(command)
        before, q = q, q + (command - q) * CYCLE_S / servo_s
        velocity = (q - before) / CYCLE_S
        if cycle in due:
            behind.append(np.abs(q - due[cycle]).max())
    return np.array(commands), np.array(behind)


def fastest(commands: np.ndarray) -> float:
    """Return the largest step between two cycles, as a share of the velocity limit."""
    return float((np.abs(np.diff(commands, axis=0)) / CYCLE_S / LIMITS.velocity).max())


@pytest.mark.parametrize("from_desired", [False, True])
@pytest.mark.parametrize("release", RELEASES)
def test_the_command_does_not_fall_back_to_the_measured_state(release, from_desired):
    commands, behind = stream_to(release, from_desired)
    assert fastest(commands) < 1.03  # the first message blends from where the arm is
    speed = np.diff(commands[60:], axis=0) / CYCLE_S
    assert np.abs(np.diff(speed[::10], axis=0) / PERIOD_S / LIMITS.acceleration).max() < 1.02
    assert behind.max() < 1.1 * 0.05 * LIMITS.velocity.max()  # speed times the time constant: the servo's lag


def test_without_points_that_are_due_it_does():
    commands, behind = stream_to(message=without_the_past)
    assert fastest(commands) > 5.0
    assert behind.max() > 1.3 * stream_to()[1].max()


def test_a_clock_that_is_a_little_behind_makes_no_difference():
    assert fastest(stream_to(clock_behind_s=0.008)[0]) < 1.03


@pytest.mark.parametrize("pause_s", [0.01, 0.018])
def test_a_pause_within_the_lookahead_is_not_seen(pause_s):
    whole, broken = stream_to()[0], stream_to(pause=(0.4, 0.4 + pause_s))[0]
    np.testing.assert_allclose(broken, whole, atol=1e-6)


@pytest.mark.parametrize("pause_s", [0.1, 0.3])
def test_after_a_longer_one_the_robots_own_controller_jumps_by_what_it_has_missed(pause_s):
    """What software on this side cannot prevent; the bound stands in docs/safety.md."""
    commands, _ = stream_to(pause=(0.4, 0.4 + pause_s))
    jump = np.abs(np.diff(commands, axis=0)).max()
    missed_s = pause_s + LATENCY_S + PERIOD_S
    assert 1e-3 < jump < LIMITS.velocity.max() * missed_s


def test_a_motion_that_the_last_stop_does_not_lead_to_begins_afresh():
    stream = TrajectoryStream(LIMITS, LOOKAHEAD_S)
    stream.next(10**9, PERIOD_S, JointMotion.at_rest(START))
    elsewhere = stream.next(2 * 10**9, PERIOD_S, JointMotion(START + 0.05, LIMITS.velocity / 2, 0.0 * START))
    assert elsewhere.times_s[0] == LOOKAHEAD_S
    assert np.abs(elsewhere.positions - START).min() > 0.02


def test_with_a_clock_behind_by_more_than_a_period_the_newest_release_stands_still():
    commands, _ = stream_to("rolling", clock_behind_s=0.05)
    assert np.ptp(commands[200:], axis=0).max() < 1e-3
    assert np.ptp(stream_to("rolling")[0][200:], axis=0).max() > 0.5


def test_with_a_clock_ahead_by_more_than_the_lookahead_an_arm_at_rest_is_not_heard():
    stream = TrajectoryStream(LIMITS, LOOKAHEAD_S)
    sent = stream.next(10**10, PERIOD_S, JointMotion.at_rest(START))
    controller = JointTrajectoryController(JOINTS, START, CYCLE_S)
    with pytest.raises(InvalidValueError, match="ends in the past"):
        controller.receive(
            JOINTS, list(sent.times_s), list(sent.positions), list(sent.velocities),
            [[]] * len(sent.times_s), sent.stamp_ns * 1e-9, 10.0 + LOOKAHEAD_S + 0.002,
        )  # fmt: skip
