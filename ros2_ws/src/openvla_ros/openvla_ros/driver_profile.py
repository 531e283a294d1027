"""The drivers in a robot profile: which commands the arm's and the gripper's own software take, and where.

The parts ``arm_backend`` and ``gripper_backend`` of ``RobotProfile``, and what every part of it shares.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
Positive = Annotated[float, Field(gt=0)]
# Upper bounds exclude values that can only be in another unit: degrees, milliseconds, millimetres.
Age = Annotated[float, Field(gt=0, le=10)]  # s
Metres = Annotated[float, Field(gt=0, le=1)]
Radians = Annotated[float, Field(gt=0, le=3.1416)]
Angle = Annotated[float, Field(ge=-6.2832, le=6.2832)]  # rad
# rad, or m for a joint that slides: two turns and more, as wrists make
JointPosition = Annotated[float, Field(ge=-12.57, le=12.57)]
Coordinate = Annotated[float, Field(ge=-10, le=10)]  # m in the base frame
Topic = Annotated[str, Field(pattern=r"^~?/?[A-Za-z_][A-Za-z0-9_/]*$")]
# The default of MoveIt Servo's incoming_command_timeout: without a command for this long it stops the arm.
SERVO_TIMEOUT_S = 0.1


@dataclass(frozen=True, config=STRICT)
class ArmBackend:
    """The arm driver: the kind of its commands, and their topic."""

    kind: Literal["joint_trajectory", "forward_position", "interbotix", "cartesian_target", "servo_twist"]
    topic: Topic
    # How far ahead of their time points are sent, to hide the jitter of the controller and the network.
    # 0 sends them for "now", for a robot with another clock. Not for ``servo_twist``.
    # A robot whose clock is ahead by more than this refuses the trajectories of an arm at rest, whose last
    # point is then in the past, and stops in each of the others before they begin. One whose clock is
    # behind by more than a control period starts each trajectory at the measured joints.
    # ``openvla check`` measures the difference.
    lookahead_s: Annotated[float, Field(ge=0, le=0.2)] = 0.03
    group: str = "arm"  # the joint group's name; only for ``interbotix``
    recovery_action: Topic | None = None  # franka_msgs/action/ErrorRecovery, if the arm has it

    @property
    def brakes_by_itself(self) -> bool:
        """Whether every command contains its own stop; otherwise the arm's software stops in its own way."""
        return self.kind != "servo_twist"

    @property
    def takes_setpoints(self) -> bool:
        """Whether the arm's software takes single setpoints, from the setpoint node."""
        return self.kind in ("forward_position", "interbotix", "cartesian_target")

    @property
    def takes_times(self) -> bool:
        """Whether a command says itself when it is due, so that it may be sent early."""
        return self.brakes_by_itself and self.lookahead_s > 0.0

    @property
    def patience_s(self) -> float:
        """How late a command may be, seconds, before the robot's side continues without it."""
        return self.lookahead_s if self.brakes_by_itself else SERVO_TIMEOUT_S


@dataclass(frozen=True, config=STRICT)
class GripperBackend:
    """The gripper driver: the kind of its commands, and their topic."""

    kind: Literal["joint_trajectory", "gripper_command", "interbotix_pwm", "franka"]
    topic: Topic  # for ``franka`` the namespace of the actions grasp and move
    speed_m_s: Annotated[float, Field(gt=0, le=10)] = 0.1  # of the gripper's joint
    force_n: Positive = 40.0  # maximum grasping force
    pwm_limit: Positive = 350.0  # only for ``interbotix_pwm``, as bridge_data_robot drives it
    motor: str = "gripper"  # the motor's name; only for ``interbotix_pwm``

    @property
    def takes_setpoints(self) -> bool:
        """Whether the setpoint node controls the gripper."""
        return self.kind == "interbotix_pwm"
