"""The setpoint node, between the controller and a driver that does not take trajectories.

A forward command controller, Interbotix's driver and a Cartesian impedance controller hold their last
setpoint. So the controller sends this node the same messages as a joint trajectory controller, each with
its own stop, and this node plays them to the driver: if the controller is killed or suspended, the arm
brakes to rest within its limits. A gripper driven by PWM is controlled here for the same reason: its
driver would keep pressing with the last PWM forever.

The safety checks are in the controller. The joint limits are enforced here once more, for messages that
arrive late or not at all: each setpoint is reachable within them, in one period, from the last one sent.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass

from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.discovery.rival_watch import RivalWatch, command_topics
from openvla_ros.drivers.factory import ARM_SETPOINTS, GRIPPER_SETPOINTS, make_arm_driver, make_gripper_driver
from openvla_ros.drivers.protocol import ArmCommand, ArmDriver, GripperCommand, GripperDriver
from openvla_ros.errors import FatalNodeError, InvalidValueError, ProfileError, describe
from openvla_ros.nodes.control.control_loop import ControlLoop
from openvla_ros.profile import load_profile
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.motion.motion_limiter import JointMotion, MotionLimits
from openvla_ros.robot.motion.setpoint_player import SetpointPlayer
from openvla_ros.ros import process, qos
from openvla_ros.ros.diagnostics import DiagnosticsPublisher
from openvla_ros.ros.guard import GuardedNode
from openvla_ros.ros.messages import from_duration, from_stamp, joint_position, joint_values
from openvla_ros.ros.parameters import declare, parameter
from openvla_ros.values.health import Health, ReasonCounter, StreamHealth
from openvla_ros.values.time import NS_PER_S, nanoseconds

GRIPPER_PERIOD_S = 0.02  # bridge_data_robot drives its gripper 50 times a second
CONNECT_PERIOD_S = 0.5
# A setpoint that is this late is not sent: the driver holds the last one.
STALE_S = 0.02
# The longest that a stop is played when this node is stopped itself.
STOP_S = 3.0


@dataclass(frozen=True)
class SetpointParameters:
    """The node's parameters; rates and topics come from the profile."""

    robot: str = parameter("widowx", "robot profile: a name or a YAML file", read_only=True)


class SetpointNode(GuardedNode):
    """Plays one controller's trajectories to the driver of one arm, and of its gripper."""

    def __init__(self) -> None:
        super().__init__("setpoints")
        self._profile = profile = load_profile(declare(self, SetpointParameters).robot)
        if not profile.takes_setpoints:
            raise ProfileError(
                f"robot {profile.name!r} needs no setpoint node: its arm_backend is "
                f"{profile.arm_backend.kind!r} and its gripper_backend {profile.gripper_backend.kind!r}"
            )
        self._chain = KinematicChain.from_profile(profile.arm)
        self._epoch_ns = self._now_ns()  # the player counts seconds from here: a float holds them exactly
        self._refusals = ReasonCounter("trajectories refused")
        self._period_s = 1.0 / profile.control.rate_hz
        limits = MotionLimits.from_profile(profile.limits)
        self._player = SetpointPlayer(
            profile.arm.joints, limits, self._period_s, profile.limits.tracking_error_rad, self._refusals.add
        )
        self._guard = threading.Lock()  # over the player
        self._opening: float | None = None
        self._finger_m: float | None = None
        self._trajectories = StreamHealth("trajectories", profile.control.rate_hz, max_age_s=1.0)
        self._problems: dict[str, str | None] = {}
        simulated = bool(self.get_parameter("use_sim_time").value)
        self._loop = ControlLoop(self._period_s, self._tick, self.get_clock(), simulated)
        self._rivals = RivalWatch(self, command_topics(self, profile), self._heed_rivals)
        self._drivers: list[tuple[str, ArmDriver | GripperDriver]] = []
        if profile.arm_backend.takes_setpoints:
            self._arm = make_arm_driver(self, profile)
            self._drivers.append(("arm", self._arm))
            self.create_subscription(JointTrajectory, ARM_SETPOINTS, self._follow, qos.COMMAND)
            self._loop.start()
        if profile.gripper_backend.takes_setpoints:
            self._gripper = make_gripper_driver(self, profile)
            self._drivers.append(("gripper", self._gripper))
            self.create_subscription(JointTrajectory, GRIPPER_SETPOINTS, self._open, qos.COMMAND)
            self.create_timer(GRIPPER_PERIOD_S, self._drive_gripper)
        self.create_subscription(JointState, "joint_states", self._joint_state, qos.NEWEST_IN)
        self.create_timer(CONNECT_PERIOD_S, self._connect)
        self._diagnostics = DiagnosticsPublisher(self, self._healths)

    def stop(self) -> None:
        """Play the current trajectory to its end, at rest; then stop the thread.

        The controller may be stopped at the same moment: its last message ends in a stop.
        """
        with self._guard:
            remaining_s = self._player.remaining_s(self._seconds(self._now_ns()))
        time.sleep(min(remaining_s, STOP_S))
        if not self._loop.stop():
            self.get_logger().error("the control thread did not stop")

    def _follow(self, message: JointTrajectory) -> None:
        now_ns, stamp_ns = self._now_ns(), from_stamp(message.header.stamp)
        self._trajectories.received(stamp_ns or now_ns, now_ns)
        try:
            with self._guard:
                self._player.follow(
                    list(message.joint_names),
                    [from_duration(point.time_from_start) for point in message.points],
                    [list(point.positions) for point in message.points],
                    [list(point.velocities) for point in message.points],
                    self._seconds(stamp_ns or now_ns),
                    self._seconds(now_ns),
                )
        except (InvalidValueError, ValueError) as error:
            self._refusals.add("refused", str(error))

    def _heed_rivals(self, rivals: str | None) -> None:
        if rivals is not None:
            self._opening = None
            self.get_logger().error(f"sending nothing once the arm is at rest: {rivals}")

    def _tick(self) -> None:
        """Send the driver the setpoint that is due now. Runs on the control thread."""
        now_ns = self._now_ns()
        with self._guard:
            seconds = self._seconds(now_ns)
            # The controller lets the arm come to rest; a setpoint that is repeated then would pull at it.
            if self._rivals.found and not self._player.remaining_s(seconds):
                self._player.forget()
            setpoint, motion = self._player.sample(seconds), self._player.motion
            due_ns = self._epoch_ns + nanoseconds(self._player.due_s)
        if setpoint is None or motion is None:
            return
        pose = self._chain.forward(setpoint)
        if (
            self._now_ns() - now_ns > STALE_S * NS_PER_S
        ):  # this thread stalled right here, but the driver did not
            with self._guard:
                setpoint = self._player.withdraw()
            motion = JointMotion.at_rest(setpoint)
            pose = self._chain.forward(setpoint)
        self._arm.send(ArmCommand(due_ns, self._period_s, motion, pose, setpoint))

    def _open(self, message: JointTrajectory) -> None:
        joint = self._profile.gripper.joint
        last: list[float] = list(message.points[-1].positions) if message.points else []
        if list(message.joint_names) != [joint] or len(last) != 1 or not math.isfinite(last[0]):
            raise InvalidValueError(
                f"the gripper's trajectory ends at {last} for {message.joint_names}; "
                f"expected one finite position of {joint!r}"
            )
        self._opening = self._profile.gripper.opening(float(last[0]))

    def _joint_state(self, message: JointState) -> None:
        joints = self._profile.arm.joints
        if set(joints) <= set(message.name):
            with self._guard:
                self._player.observe(joint_values(message, joints), self._seconds(self._now_ns()))
        finger_m = joint_position(message, self._profile.gripper.joint)
        if finger_m is not None:
            self._finger_m = finger_m

    def _drive_gripper(self) -> None:
        if self._opening is not None and self._rivals.found is None:
            self._gripper.send(GripperCommand(self._now_ns(), self._opening, self._finger_m))

    def _connect(self) -> None:
        if self._loop.failure is not None:
            raise FatalNodeError(f"the control loop failed: {describe(self._loop.failure)}")
        for part, driver in self._drivers:
            problem = driver.connect()
            if problem != self._problems.get(part, ""):
                self._problems[part] = problem
                self.get_logger().info(f"{part}: {problem or 'connected'}")

    def _healths(self) -> list[Health]:
        healths = [self._loop.health(), self._refusals.health()]
        if self._profile.arm_backend.takes_setpoints:
            healths.append(self._trajectories.health(self._now_ns()))
        healths += [
            Health(f"{part} driver", "error" if problem else "ok", problem or "connected", {})
            for part, problem in self._problems.items()
        ]
        return healths

    def _seconds(self, stamp_ns: int) -> float:
        return (stamp_ns - self._epoch_ns) / NS_PER_S

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)


def main() -> None:
    """Run the node."""
    process.main(SetpointNode)


if __name__ == "__main__":
    main()
