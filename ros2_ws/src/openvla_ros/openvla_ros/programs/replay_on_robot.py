"""Plays a recorded episode's actions through the whole chain, and measures how the arm followed.

Takes the place of the policy: publishes the actions in short chunks to the running controller, which
checks, composes and executes them as any others. So the arm stops by itself soon after this process is
gone, and an episode may have any length. The caller gives the stop key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from geometry_msgs.msg import PoseStamped
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.discovery.client import READY_TIMEOUT_S, RobotClient
from openvla_ros.errors import DeviceError, InvalidValueError
from openvla_ros.profile import RobotProfile
from openvla_ros.robot.episode_player import EpisodePlayer, steps_at_once
from openvla_ros.robot.kinematics.delta_actions import delta_between
from openvla_ros.robot.tracking_report import TrackingReport, expected_poses, tracking_report
from openvla_ros.ros import qos
from openvla_ros.ros.messages import from_pose, from_stamp, to_chunk_message
from openvla_ros.ros.verdict_messages import VerdictReport
from openvla_ros.values.action import ActionChunk
from openvla_ros.values.arrays import Float
from openvla_ros.values.episode import Episode
from openvla_ros.values.geometry import Pose
from openvla_ros.values.time import seconds
from openvla_ros.values.verdict import Reason, SafetyVerdict

Start = Literal["here", "neutral", "episode"]
MOVE_TIMEOUT_S = 60.0
REPORT_S = 0.2  # within which the controller publishes what a service changed
APPROACH_STEPS = 200  # at most, on the way to an episode's first pose
APPROACHED_M, APPROACHED_RAD = 2e-3, 0.01
# Reasons that are no sign of trouble in a replay: waiting for it, and its end.
EXPECTED = (Reason.OK, Reason.WAITING, Reason.STARVED, Reason.HELD)


@dataclass(frozen=True)
class ReplayResult:
    """What came of a replay."""

    episode: str
    tracking: TrackingReport
    reasons: dict[str, int]  # verdicts other than the expected ones, by reason
    stopped: bool  # the stop key was pressed


class Replay:
    """One episode on one robot."""

    def __init__(self, profile: RobotProfile, episode: Episode, client: RobotClient) -> None:
        """Bind them; raises ``InvalidValueError`` if the episode is for other actions, or no deltas."""
        profile.space().check_kind("tool_delta", "openvla replay")
        lines = profile.space().differences(episode.space)
        if lines:
            raise InvalidValueError(
                f"episode {episode.id!r} was not recorded for {profile.name!r}: {'; '.join(lines)}"
            )
        self._profile, self._episode, self._client = profile, episode, client
        self._space = profile.space()
        self._poses: list[tuple[float, Pose]] = []
        self._state: VerdictReport | None = None
        self._reasons: Counter[str] = Counter()
        self._refusal: SafetyVerdict | None = None
        self._pressed: Callable[[], bool] = lambda: False
        node = client.node
        self._chunks = node.create_publisher(JointTrajectory, "policy/action_chunk", qos.COMMAND)
        node.create_subscription(PoseStamped, "controller/current_pose", self._pose, qos.EVERY_IN)
        self._player: EpisodePlayer | None = None
        self._targets = node.create_subscription(
            PoseStamped, "controller/target_pose", self._target, qos.EVERY_IN
        )
        client.hear_verdicts(self._verdict, earlier=True)

    def run(self, start: Start, pressed: Callable[[], bool]) -> ReplayResult:
        """Play the episode; ``pressed`` is asked all the time and stops the arm when it says so.

        Raises ``DeviceError`` if there is no controller or it refuses to begin.
        """
        self._pressed = pressed
        self._wait_for_controller()
        self._client.reach("controller/e_stop")
        if start != "here":
            self._client.order("controller/neutral")
            self._client.listen(REPORT_S)  # verdicts from before are past then
            self._state = None
            self._wait(lambda: self._is("holding"), MOVE_TIMEOUT_S, "the arm does not reach neutral")
        self._client.order("controller/give_to_policy")  # at the pose the arm is held
        if start == "episode":
            self._approach()
        self._reasons.clear()
        self._poses.clear()
        self._wait(lambda: bool(self._poses), READY_TIMEOUT_S, "no measured pose")
        expected = expected_poses(self._poses[-1][1], self._episode.actions, self._space)
        times = self._play(self._episode.actions)
        stopped = self._pressed()
        made = len(expected)
        if stopped:
            made = max(2, int(np.searchsorted(times, seconds(self._client.now_ns))))
        recorded = self._episode.poses
        tracking = tracking_report(
            expected[:made],
            times[:made],
            [pose for _, pose in self._poses],
            np.array([t for t, _ in self._poses]),
            None if recorded is None or stopped else recorded,
        )
        return ReplayResult(self._episode.id, tracking, dict(self._reasons), stopped)

    def _wait_for_controller(self) -> None:
        self._client.wait_for_clock()
        self._client.require(
            lambda: self._state is not None and self._chunks.get_subscription_count() > 0,
            READY_TIMEOUT_S,
            lambda: f"no controller answers for robot {self._profile.name!r}: start it first",
        )

    def _approach(self) -> None:
        """Go to the episode's first pose by the same kind of steps as the episode itself."""
        if self._episode.poses is None:
            raise InvalidValueError(
                f"episode {self._episode.id!r} has no poses to start from; use --start neutral"
            )
        goal = Pose.from_matrix(self._episode.poses[0])
        self._wait(lambda: bool(self._poses), READY_TIMEOUT_S, "no measured pose")
        target = self._poses[-1][1]
        most = 0.5 * np.minimum(-self._space.lower[:6], self._space.upper[:6])
        actions = []
        for _ in range(APPROACH_STEPS):
            left = delta_between(target, goal, self._space)
            if np.linalg.norm(left[:3]) < APPROACHED_M and np.linalg.norm(left[3:]) < APPROACHED_RAD:
                break
            share = min(1.0, float(np.min(most / np.maximum(np.abs(left), 1e-9))))
            actions.append(np.append(share * left, self._episode.actions[0, -1]))
            target = expected_poses(target, np.array(actions[-1:]), self._space)[-1]
        if actions:
            self._play(np.array(actions))

    def _play(self, actions: Float) -> Float:
        """Execute ``actions`` (T, D); return when the poses between them were due (T + 1,), robot's clock, s.

        The stop key ends it at once by the emergency stop. Raises ``DeviceError`` if the arm comes to rest
        before the last action, or not at all.
        """
        blocking = self._profile.control.mode == "blocking"
        times = self._play_moves(actions) if blocking else self._play_stream(actions)
        if self._pressed():
            self._client.order("controller/e_stop")
        return times

    def _play_stream(self, actions: Float) -> Float:
        self._player = player = EpisodePlayer(actions, self._profile)
        began_ns = self._client.now_ns

        def send() -> None:
            chunk = None if self._pressed() else player.next_chunk(self._client.now_ns)
            if chunk is not None:
                self._publish(chunk)

        def rests() -> bool:
            send()
            return not self._is("executing") and not self._is_coming_to_rest()

        send()
        self._wait(lambda: self._is("executing"), READY_TIMEOUT_S, "the actions are not executed")
        longest_s = MOVE_TIMEOUT_S + 10.0 * len(actions) * self._space.step_s
        self._wait(rests, longest_s, "the arm does not come to rest")
        self._player = None
        if not player.is_over and not self._pressed() and not self._reasons:
            raise DeviceError(
                f"the arm stopped after {player.sent} of {len(actions)} actions: "
                f"{self._state.verdict if self._state else 'no verdict'}"
            )
        return seconds(began_ns) + self._space.step_s * np.arange(len(actions) + 1, dtype=np.float64)

    def _play_moves(self, actions: Float) -> Float:
        """As ``_play_stream`` for blocking control, which takes a chunk only while the arm rests."""
        length = max(1, steps_at_once(self._profile))
        times = [seconds(self._client.now_ns)]
        for first in range(0, len(actions), length):
            part = actions[first : first + length]
            began_ns = self._client.now_ns
            if self._pressed():
                break
            self._publish(ActionChunk(part, began_ns, self._space))
            self._wait(lambda: self._is("executing"), READY_TIMEOUT_S, "the actions are not executed")
            longest_s = MOVE_TIMEOUT_S + 10.0 * len(part) * self._space.step_s
            self._wait(lambda: self._is("holding"), longest_s, "the arm does not come to rest")
            times += [seconds(began_ns) + self._space.step_s * (k + 1) for k in range(len(part))]
        times += [times[-1]] * (len(actions) + 1 - len(times))
        return np.array(times)

    def _publish(self, chunk: ActionChunk) -> None:
        self._chunks.publish(to_chunk_message(chunk, self._profile.action_frame_id()))

    def _wait(self, done: Callable[[], bool], timeout_s: float, otherwise: str) -> None:
        def problem() -> str:
            verdict = self._state.verdict if self._state else "nothing heard from the controller"
            return f"{otherwise} within {timeout_s:.0f} s; {self._refusal or verdict}"

        self._client.require(lambda: done() or self._pressed(), timeout_s, problem)

    def _is(self, state: str) -> bool:
        report = self._state
        return report is not None and report.state == state and (state != "holding" or report.settled)

    def _is_coming_to_rest(self) -> bool:
        report = self._state
        return report is None or (report.state == "holding" and not report.settled)

    def _target(self, message: PoseStamped) -> None:
        if self._player is not None:
            self._player.see(from_pose(message), from_stamp(message.header.stamp))

    def _pose(self, message: PoseStamped) -> None:
        self._poses.append((seconds(from_stamp(message.header.stamp)), from_pose(message)))

    def _verdict(self, report: VerdictReport) -> None:
        before = self._state
        if report.kind == "state":
            self._state = report
        else:
            self._refusal = report.verdict
        changed = report.kind == "refusal" or before is None or before.verdict != report.verdict
        if changed and report.verdict.reason not in EXPECTED:
            self._reasons[str(report.verdict.reason)] += 1
