"""What comes in, what is decided, and how old a view the commands act on: the controller's diagnostics."""

from __future__ import annotations

from openvla_ros.profile import RobotProfile
from openvla_ros.robot.authority import Owner
from openvla_ros.robot.command_age import CommandAge
from openvla_ros.robot.output import ControllerOutput
from openvla_ros.ros.verdict_messages import ORDINARY
from openvla_ros.values.health import Health, Level, StreamHealth

CHUNK_OWNERS: tuple[Owner, ...] = ("policy", "teleoperation")


class ControllerHealth:
    """Watches the streams into one controller and the age of its commands."""

    def __init__(self, profile: RobotProfile) -> None:
        state, control, rate_hz = profile.state, profile.control, profile.action_space.rate_hz
        limit_s = control.chunk_max_age_s
        self.joint_states = StreamHealth("joint states", state.rate_hz, state.max_age_s)
        self.chunks: dict[Owner, StreamHealth] = {
            owner: StreamHealth(f"chunks of {owner}", rate_hz, control.hold_after_s) for owner in CHUNK_OWNERS
        }
        self._ages: dict[Owner, CommandAge] = {
            "policy": CommandAge("camera to command", limit_s),
            "teleoperation": CommandAge("hand to command", limit_s),
        }

    def sent(self, output: ControllerOutput, now_ns: int) -> None:
        """Note that the command of ``output`` was published at ``now_ns``."""
        for owner, age in self._ages.items():
            age.sent(output.observation_ns if owner == output.owner else None, now_ns)

    def ages(self) -> list[Health]:
        """Return how old the observations behind each owner's commands were."""
        return [age.health() for age in self._ages.values()]

    def safety(self, output: ControllerOutput) -> Health:
        """Return the verdict of ``output``, with the count of every reason so far."""
        verdict = output.verdict
        level: Level = "ok" if verdict.reason in ORDINARY else "warn" if verdict.commands else "error"
        values = {"state": str(output.state), "owner": output.owner, "reason": str(verdict.reason)}
        values |= {f"count/{reason}": str(count) for reason, count in sorted(output.counters.items())}
        values |= {stream.name: str(stream.received_count) for stream in self.chunks.values()}
        return Health("safety", level, str(verdict), values)
