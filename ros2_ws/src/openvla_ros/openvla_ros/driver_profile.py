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


Seven = tuple[Positive, Positive, Positive, Positive, Positive, Positive, Positive]
Six = tuple[Positive, Positive, Positive, Positive, Positive, Positive]


@dataclass(frozen=True, config=STRICT)
class FrankySettings:
    """A Franka arm that the franky node drives over libfranka's network protocol, without ros2_control."""

    # Name or IP address of the arm's controller; ``openvla up --robot-address`` replaces it.
    address: str = ""
    # The Python that runs the franky node, if franky-control is installed in an environment of its own.
    python: str = ""
    rate_hz: Annotated[float, Field(ge=100, le=200)] = 200.0  # of the references given to franky
    # Of the joint impedance: N m/rad, and N m s/rad (None: 2 sqrt(stiffness), franky's critical damping).
    stiffness: Seven = (600.0, 600.0, 600.0, 600.0, 250.0, 150.0, 50.0)
    damping: Seven | None = None
    # How far a reference may be from the measured joints: with the stiffness it bounds the torque. From
    # 0.2 rad at 600 N m/rad the torque's rate limit lets the arm run away from its reference.
    leash_rad: Annotated[float, Field(gt=0, le=0.1)] = 0.1
    # Contact and collision thresholds: above the upper ones the arm's own reflex stops it.
    contact_torque_nm: Seven = (20.0, 20.0, 18.0, 18.0, 16.0, 14.0, 12.0)
    collision_torque_nm: Seven = (40.0, 40.0, 36.0, 36.0, 32.0, 28.0, 24.0)
    contact_force: Six = (20.0, 20.0, 20.0, 25.0, 25.0, 25.0)  # N and N m
    collision_force: Six = (40.0, 40.0, 40.0, 50.0, 50.0, 50.0)


@dataclass(frozen=True, config=STRICT)
class ArmBackend:
    """The arm driver: the kind of its commands, and their topic."""

    kind: Literal[
        "joint_trajectory", "forward_position", "interbotix", "cartesian_target", "servo_twist", "franky"
    ]
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
    franky: FrankySettings | None = None  # only for ``franky``, which needs it

    def __post_init__(self) -> None:
        if (self.franky is not None) != (self.kind == "franky"):
            state = "missing" if self.franky is None else "given"
            raise ValueError(f"arm_backend.kind is {self.kind!r} and arm_backend.franky is {state}")

    @property
    def brakes_by_itself(self) -> bool:
        """Whether every command contains its own stop; otherwise the arm's software stops in its own way."""
        return self.kind != "servo_twist"

    @property
    def takes_setpoints(self) -> bool:
        """Whether the arm's software takes single setpoints, from the setpoint node."""
        return self.kind in ("forward_position", "interbotix", "cartesian_target", "franky")

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

    kind: Literal["joint_trajectory", "gripper_command", "interbotix_pwm", "franka", "franky"]
    topic: Topic  # for ``franka`` the namespace of the actions grasp and move
    speed_m_s: Annotated[float, Field(gt=0, le=10)] = 0.1  # of the gripper's joint
    force_n: Positive = 40.0  # maximum grasping force
    pwm_limit: Positive = 350.0  # only for ``interbotix_pwm``, as bridge_data_robot drives it
    motor: str = "gripper"  # the motor's name; only for ``interbotix_pwm``

    @property
    def takes_setpoints(self) -> bool:
        """Whether the setpoint node controls the gripper."""
        return self.kind == "interbotix_pwm"
