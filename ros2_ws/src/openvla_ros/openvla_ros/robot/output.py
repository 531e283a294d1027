"""The controller's output at each tick: the command, the mode, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property

from openvla_ros.robot.authority import Owner
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.values.arrays import Float
from openvla_ros.values.geometry import Pose
from openvla_ros.values.verdict import Reason, SafetyVerdict


class ControllerState(str, Enum):
    """What the controller is doing."""

    IDLE = "idle"  # has commanded nothing since it started
    EXECUTING = "executing"
    HOMING = "homing"
    HOLDING = "holding"  # at rest, or coming to rest
    STOPPED = "stopped"  # the robot's reported state forbids motion, or the controller was shut down
    E_STOP = "e_stop"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, eq=False)
class ControllerOutput:
    """The output of one tick. Nothing is commanded if ``joint_positions`` is None."""

    stamp_ns: int  # of the command; stamps of commands that follow each other are evenly spaced
    state: ControllerState
    owner: Owner
    verdict: SafetyVerdict
    joint_positions: Float | None  # (J,) rad, in the profile's joint order
    joint_velocities: Float | None  # (J,) rad/s
    joint_accelerations: Float | None  # (J,) rad/s²
    gripper_opening: float | None  # 0 closed .. 1 open
    target: Pose | None  # the composed target that the tool is moving to
    at_rest: bool  # no commanded joint moves
    settled: bool  # at rest, with nothing left to execute: in blocking control, time for the next observation
    observation_ns: int | None  # stamp of the observation whose step is being executed; None if none is
    counters: Mapping[Reason, int]  # events for each reason since the start
    chain: KinematicChain = field(repr=False)  # of the joints

    @cached_property
    def tool(self) -> Pose | None:
        """The tool pose at the commanded joints, for Cartesian drivers; computed when first asked for."""
        return None if self.joint_positions is None else self.chain.forward(self.joint_positions)
