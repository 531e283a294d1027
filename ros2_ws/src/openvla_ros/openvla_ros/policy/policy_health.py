"""Health of a policy on a robot: its streams, its latencies, and why it did not act."""

from __future__ import annotations

from openvla_ros.profile import RobotProfile
from openvla_ros.values.health import Health, LatencyHealth, ReasonCounter, StreamHealth


class PolicyHealth:
    """What the policy node measures for ``/diagnostics``, against the limits of the robot's profile."""

    def __init__(self, profile: RobotProfile) -> None:
        self.cameras = {
            camera.name: StreamHealth(f"camera {camera.name}", camera.rate_hz, camera.max_age_s)
            for camera in profile.cameras
        }
        self.states = StreamHealth("joint states", profile.state.rate_hz, profile.state.max_age_s)
        self.inference = LatencyHealth("inference", 1.0 / profile.action_space.rate_hz)
        self.age = LatencyHealth("camera to chunk", profile.control.chunk_max_age_s)
        self.refusals = ReasonCounter("refusals")

    def collect(self, now_ns: int) -> list[Health]:
        """Return every status, in the order in which they are shown."""
        streams = [stream.health(now_ns) for stream in (*self.cameras.values(), self.states)]
        return [*streams, self.inference.health(), self.age.health(), self.refusals.health()]
