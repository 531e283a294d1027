"""What can be measured of a running robot from outside: rates, ages, interventions, the tool's path."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.discovery.client import RobotClient
from openvla_ros.profile import RobotProfile
from openvla_ros.ros import qos
from openvla_ros.ros.messages import from_stamp
from openvla_ros.ros.verdict_messages import ORDINARY, VerdictReport
from openvla_ros.values.health import LatencyHealth, StreamHealth
from openvla_ros.values.time import seconds

SAFETY = "controller: safety"  # the status that counts the controller's reasons
COUNT = "count/"


class Measurements:
    """What was seen while the robot worked and ``client`` listened."""

    def __init__(self, client: RobotClient, profile: RobotProfile) -> None:
        self._client = client
        self.chunks = StreamHealth("action chunks", profile.action_space.rate_hz, 1.0)
        self.states = StreamHealth("joint states", profile.state.rate_hz, profile.state.max_age_s)
        self.images = {
            c.name: StreamHealth(f"camera {c.name}", c.rate_hz, c.max_age_s) for c in profile.cameras
        }
        self.inference = LatencyHealth("inference", profile.space().step_s)
        self.age = LatencyHealth("camera to chunk", profile.control.chunk_max_age_s)
        self._controller_spoke = False
        self.path: list[tuple[float, ...]] = []  # seconds, tool point in metres
        self.statuses: dict[str, DiagnosticStatus] = {}
        self._subscribe(profile)

    def missing(self) -> list[str]:
        """Return what has not been heard yet of a robot that works; empty when all has."""
        lines = [] if self.states.received_count else ["joint states"]
        lines += [f"images of camera {name}" for name, s in self.images.items() if not s.received_count]
        return lines if self._controller_spoke else [*lines, "the controller"]

    def interventions(self) -> Counter[str]:
        """Return how often the controller has limited or refused a motion since its start, by reason.

        These are the controller's own counts, as in its newest ``/diagnostics``.
        """
        status = self.statuses.get(SAFETY)
        counts = {v.key.removeprefix(COUNT): v.value for v in (status.values if status is not None else ())
                  if v.key.startswith(COUNT)}  # fmt: skip
        ordinary = {str(reason) for reason in ORDINARY}
        return Counter({reason: int(count) for reason, count in counts.items() if reason not in ordinary})

    def wait_for_diagnostics(self, timeout_s: float) -> None:
        """Wait until everybody who has spoken on ``/diagnostics`` has spoken again; old words are kept."""
        before, self.statuses = self.statuses, {}
        self._client.wait(lambda: before.keys() <= self.statuses.keys(), timeout_s)
        self.statuses = {**before, **self.statuses}

    def _subscribe(self, profile: RobotProfile) -> None:
        subscribe = self._client.node.create_subscription
        for camera in profile.cameras:
            arrived = partial(self._arrived, self.images[camera.name])
            subscribe(Image, camera.topic, arrived, qos.NEWEST_IN)
        arrived = partial(self._arrived, self.states)
        subscribe(JointState, profile.state.joint_states_topic, arrived, qos.NEWEST_IN)
        subscribe(JointTrajectory, "policy/action_chunk", self._chunk, qos.COMMAND)
        subscribe(PoseStamped, "controller/current_pose", self._pose, qos.NEWEST_IN)
        subscribe(DiagnosticArray, "/diagnostics", self._diagnostics, qos.DIAGNOSTICS)
        self._client.hear_verdicts(self._verdict, earlier=False)

    def _arrived(self, health: StreamHealth, message: Any) -> None:
        health.received(from_stamp(message.header.stamp), self._client.now_ns)

    def _chunk(self, message: JointTrajectory) -> None:
        now_ns = self._client.now_ns
        self.chunks.received(now_ns, now_ns)
        self.age.add(seconds(now_ns - from_stamp(message.header.stamp)))

    def _verdict(self, _report: VerdictReport) -> None:
        self._controller_spoke = True

    def _pose(self, message: PoseStamped) -> None:
        p = message.pose.position
        self.path.append((seconds(from_stamp(message.header.stamp)), p.x, p.y, p.z))

    def _diagnostics(self, message: DiagnosticArray) -> None:
        self.statuses |= {status.name: status for status in message.status}
