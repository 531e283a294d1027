"""An episode in short chunks: each step is made once, whatever is late; without the sender the arm stops."""

import numpy as np
import pytest
from support.controller_bench import WIDOWX, Bench, centre, with_control

from openvla_ros.errors import InvalidValueError
from openvla_ros.profile import load_profile
from openvla_ros.robot.episode_player import MOTION_S, EpisodePlayer
from openvla_ros.robot.output import ControllerState
from openvla_ros.robot.tracking_report import expected_poses
from openvla_ros.values.verdict import Reason

REPORT_TICKS = 2  # the node publishes targets at half the control rate


def episode(steps: int, seed: int = 0, still: float = 0.0) -> np.ndarray:
    """Actions (steps, 7) that wander around; a fraction ``still`` of them moves nothing."""
    rng = np.random.default_rng(seed)
    actions = np.zeros((steps, 7))
    actions[:, :3] = 0.004 * np.sin(np.arange(steps)[:, None] / 3.0 + rng.uniform(0, 6, 3))
    actions[:, 3:6] = 0.01 * rng.uniform(-1, 1, (steps, 3))
    actions[rng.uniform(size=steps) < still, :6] = 0.0
    actions[:, 6] = 1.0
    return actions


def bench_of(profile) -> Bench:
    """A bench with the tool well inside the workspace: no target is limited."""
    bench = Bench(profile)
    centre(bench)
    return bench


class Link:
    """The topics between the player and the controller: targets and chunks arrive some ticks later."""

    def __init__(self, bench: Bench, actions, delay=lambda: 0) -> None:
        self.bench, self.delay, self.actions = bench, delay, actions
        self.player = EpisodePlayer(actions, bench.profile)
        self.targets, self.chunks, self.lengths, self.count = [], [], [], 0

    def tick(self, sends: bool = True) -> None:
        output = self.bench.tick()
        now_ns, self.count = self.bench.now_ns, self.count + 1
        if output.target is not None and self.count % REPORT_TICKS == 0:
            self.targets.append((self.count + self.delay(), output.target, output.stamp_ns))
        while self.targets and self.targets[0][0] <= self.count:
            _, target, stamp_ns = self.targets.pop(0)
            self.player.see(target, stamp_ns)
        chunk = self.player.next_chunk(now_ns) if sends else None
        if chunk is not None:
            self.lengths.append(len(chunk.actions))
            self.chunks.append((self.count + self.delay(), chunk))
        while self.chunks and self.chunks[0][0] <= self.count:
            verdict = self.bench.controller.accept(self.chunks.pop(0)[1], "policy", now_ns)
            assert verdict.reason is Reason.OK, verdict

    def play(self) -> None:
        for _ in range(10):
            self.tick()
        while self.bench.outputs[-1].state is ControllerState.EXECUTING:
            self.tick()


def check_every_step_was_made_once(bench: Bench, start, actions) -> None:
    expected = expected_poses(start, actions, bench.profile.space())
    targets = [output.target for output in bench.outputs if output.target is not None]
    np.testing.assert_allclose(targets[-1].position, expected[-1].position, atol=1e-9)
    np.testing.assert_allclose(targets[-1].rotation, expected[-1].rotation, atol=1e-9)
    seen = np.array([target.position for target in targets])
    for pose in expected[1:]:
        assert np.abs(seen - pose.position).max(axis=1).min() < 1e-9


@pytest.mark.parametrize("robot", ["sim_widowx", "franka_droid"])
@pytest.mark.parametrize("still", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("late", [0, 3])
def test_every_step_is_made_once(robot, still, late):
    profile = load_profile(robot)
    bench = bench_of(profile)
    start = bench.tool()
    actions = episode(120, still=still)
    rng = np.random.default_rng(late)
    link = Link(bench, actions, lambda: int(rng.integers(0, late + 1)))
    link.play()
    check_every_step_was_made_once(bench, start, actions)
    step_s = profile.space().step_s
    assert max(link.lengths) * step_s <= MOTION_S + 1e-6
    took_s = 0.01 * sum(output.state is ControllerState.EXECUTING for output in bench.outputs)
    assert took_s == pytest.approx(len(actions) * step_s + profile.control.hold_after_s, abs=0.2)


def test_an_episode_longer_than_a_message_may_be_is_played():
    bench = bench_of(WIDOWX)
    start, actions = bench.tool(), episode(400, seed=1)
    Link(bench, actions).play()
    check_every_step_was_made_once(bench, start, actions)


def test_a_control_loop_that_falls_behind_loses_no_step():
    bench = bench_of(WIDOWX)
    start, actions = bench.tool(), episode(60, seed=2)
    link = Link(bench, actions)
    for _ in range(10):
        link.tick()
    while bench.outputs[-1].state is ControllerState.EXECUTING:
        link.tick()
        bench.now_ns += 4_000_000  # each call of the loop comes 4 ms late
    check_every_step_was_made_once(bench, start, actions)


@pytest.mark.parametrize("after_s", [0.3, 1.0, 4.0])
def test_the_arm_stops_by_itself_when_the_player_is_gone(after_s):
    bench = bench_of(WIDOWX)
    link = Link(bench, episode(300))
    for _ in range(round(100 * after_s)):
        link.tick()
    assert bench.outputs[-1].state is ControllerState.EXECUTING
    seconds = 0.0
    while bench.outputs[-1].state is ControllerState.EXECUTING:
        link.tick(sends=False)
        seconds += 0.01
    assert seconds <= MOTION_S + WIDOWX.control.hold_after_s + 0.05
    assert bench.outputs[-1].verdict.reason is Reason.STARVED


def test_a_short_episode_is_one_chunk():
    bench = bench_of(WIDOWX)
    start, actions = bench.tool(), episode(2)
    link = Link(bench, actions)
    link.play()
    assert link.lengths == [2]
    assert link.player.is_over
    check_every_step_was_made_once(bench, start, actions)


def test_a_controller_that_takes_no_two_steps_at_once_is_refused():
    short = with_control(WIDOWX, chunk_horizon_s=0.3)
    with pytest.raises(InvalidValueError, match=r"chunk_horizon_s is 0\.3 s, less than two steps of 0\.2 s"):
        EpisodePlayer(episode(10), short)
