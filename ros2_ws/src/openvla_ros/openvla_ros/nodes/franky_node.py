"""The franky node: drives a Franka arm and its hand through franky, without ros2_control.

Setpoints of the setpoint node in, joint states and the external wrench out. What it does with the arm is in
``franka_driver/``; this node converts messages, and calls the driver 100 to 200 times a second on a thread of
its own. libfranka's loop of 1 kHz runs on another thread of this process, outside Python.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from geometry_msgs.msg import WrenchStamped
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.drivers.franka import RECOVER
from openvla_ros.errors import FatalNodeError, InvalidValueError, ProfileError, describe
from openvla_ros.franka_driver.arm import ArmState
from openvla_ros.franka_driver.arm_driver import ArmDriver
from openvla_ros.franka_driver.franky_arm import arm_connector, hand_connector, import_franky
from openvla_ros.franka_driver.hand_driver import HandDriver
from openvla_ros.franka_driver.host import has_realtime_kernel
from openvla_ros.franka_driver.setpoint_buffer import Setpoint
from openvla_ros.nodes.control.control_loop import ControlLoop
from openvla_ros.profile import load_profile
from openvla_ros.robot.motion.motion_limiter import MotionLimits
from openvla_ros.ros import process, qos
from openvla_ros.ros.diagnostics import DiagnosticsPublisher
from openvla_ros.ros.guard import GuardedNode
from openvla_ros.ros.messages import from_stamp, to_stamp
from openvla_ros.ros.parameters import declare, parameter
from openvla_ros.values.arrays import float_array
from openvla_ros.values.health import Health
from openvla_ros.values.time import NS_PER_S

REFERENCE = "franky/reference"
WATCH_PERIOD_S = 0.2
# The longest that the last stop may take: the slowest joint from full speed, then the end of control.
STOP_S = 5.0


@dataclass(frozen=True)
class FrankyParameters:
    """The node's parameters; everything else comes from the profile."""

    robot: str = parameter("franka_franky", "robot profile: a name or a YAML file", read_only=True)
    address: str = parameter(
        "", "name or IP address of the arm's controller; empty: that of the profile", read_only=True
    )


class FrankyNode(GuardedNode):
    """One arm with its hand."""

    def __init__(self) -> None:
        super().__init__("franky")
        settings = declare(self, FrankyParameters)
        self._profile = profile = load_profile(settings.robot)
        franky = profile.arm_backend.franky
        if franky is None:
            raise ProfileError(
                f"robot {profile.name!r} has arm_backend.kind {profile.arm_backend.kind!r}; the franky node "
                "drives 'franky'"
            )
        address = settings.address or franky.address
        if not address:
            raise ProfileError(
                f"robot {profile.name!r} has no arm_backend.franky.address: name the arm's, or give "
                "--robot-address (robot_address:= with ros2 launch)"
            )
        self._address = address
        self._say_kernel()
        self._epoch_ns = self._now_ns()  # seconds are counted from here: a float holds them exactly
        self._state_period_ns = round(NS_PER_S / profile.state.rate_hz)
        self._next_state_ns = 0
        period_s = 1.0 / franky.rate_hz
        self._arm = ArmDriver(
            arm_connector(franky, address),
            MotionLimits.from_profile(profile.limits),
            period_s,
            1.0 / profile.control.rate_hz,
            franky.leash_rad,
            # Where the controller may come to rest when the arm does not follow any more.
            profile.limits.tracking_error_rad + franky.leash_rad,
            self._report,
        )
        self._hand: HandDriver | None = None
        self._make_interface()
        self._loop = ControlLoop(period_s, self._tick, self.get_clock(), simulated=False)
        self._loop.start()
        if profile.gripper_backend.kind == "franky":
            self._hand = HandDriver(hand_connector(address), profile, self._report)
            self.create_subscription(JointTrajectory, profile.gripper_backend.topic, self._open, qos.COMMAND)
            self._hand.start()

    def stop(self) -> None:
        """Brake to rest within the limits and end control; then end the threads."""
        if not self._loop.stop():
            self.get_logger().error("the control thread did not end: the arm's own controller stops the arm")
            return
        deadline_s = time.monotonic() + STOP_S
        while not self._arm.shut_down(self._seconds(self._now_ns())) and time.monotonic() < deadline_s:
            time.sleep(self._period_s)
        if self._hand is not None and not self._hand.stop():
            self.get_logger().warning("the hand is still carrying out its last command")

    @property
    def _period_s(self) -> float:
        assert self._profile.arm_backend.franky is not None
        return 1.0 / self._profile.arm_backend.franky.rate_hz

    # Messages in

    def _follow(self, message: JointTrajectory) -> None:
        joints = self._profile.arm.joints
        if tuple(message.joint_names) != joints or len(message.points) != 1:
            raise InvalidValueError(
                f"a setpoint has {len(message.points)} points for {list(message.joint_names)}; expected one "
                f"for {list(joints)}"
            )
        point, now_s = message.points[0], self._seconds(self._now_ns())
        self._arm.take(
            Setpoint(
                self._seconds(from_stamp(message.header.stamp)),
                float_array("setpoint position", point.positions, (len(joints),)),
                float_array("setpoint velocity", point.velocities, (len(joints),)),
            ),
            now_s,
        )

    def _open(self, message: JointTrajectory) -> None:
        joint = self._profile.gripper.joint
        last = list(message.points[-1].positions) if message.points else []
        if list(message.joint_names) != [joint] or len(last) != 1:
            raise InvalidValueError(
                f"the gripper's trajectory ends at {last} for {message.joint_names}; expected one "
                f"position of {joint!r}"
            )
        float_array("gripper position", last, (1,))
        assert self._hand is not None
        self._hand.want(self._profile.gripper.opening(float(last[0])))

    def _recover(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        problem = self._arm.ask_for_recovery()
        response.success = problem is None
        response.message = problem or "recovery begins"
        return response

    # The driver's thread

    def _tick(self) -> None:
        now_ns = self._now_ns()
        state = self._arm.step(self._seconds(now_ns))
        reference = self._arm.reference
        if reference is not None:
            message = JointState(
                name=self._profile.arm.joints,
                position=reference.position.tolist(),
                velocity=reference.velocity.tolist(),
            )
            message.header.stamp = to_stamp(now_ns)
            self._reference.publish(message)
        if state is not None and now_ns >= self._next_state_ns:
            behind = now_ns - self._next_state_ns > self._state_period_ns
            self._next_state_ns = (now_ns if behind else self._next_state_ns) + self._state_period_ns
            self._publish(state, self._now_ns())

    def _publish(self, state: ArmState, now_ns: int) -> None:
        names = list(self._profile.arm.joints)
        position, velocity, effort = state.position.tolist(), state.velocity.tolist(), state.effort.tolist()
        finger_m = self._hand.position_m if self._hand is not None else None
        if finger_m is not None:
            names.append(self._profile.gripper.joint)
            position, velocity, effort = [*position, finger_m], [*velocity, 0.0], [*effort, 0.0]
        message = JointState(name=names, position=position, velocity=velocity, effort=effort)
        message.header.stamp = to_stamp(now_ns)
        self._states.publish(message)
        if self._wrench is not None:
            wrench = WrenchStamped()
            wrench.header.stamp = to_stamp(now_ns)
            wrench.header.frame_id = self._profile.arm.frame_prefix + self._profile.arm.base_link
            force, torque = wrench.wrench.force, wrench.wrench.torque
            force.x, force.y, force.z, torque.x, torque.y, torque.z = state.wrench.tolist()
            self._wrench.publish(wrench)

    # What it is made of

    def _make_interface(self) -> None:
        profile = self._profile
        self._states = self.create_publisher(JointState, "joint_states", qos.STREAM_OUT)
        self._reference = self.create_publisher(JointState, REFERENCE, qos.STREAM_OUT)
        topic = profile.state.wrench_topic
        self._wrench = None if topic is None else self.create_publisher(WrenchStamped, topic, qos.STREAM_OUT)
        self.create_subscription(JointTrajectory, profile.arm_backend.topic, self._follow, qos.COMMAND)
        self.create_service(Trigger, RECOVER, self._recover)
        self.create_timer(WATCH_PERIOD_S, self._watch)
        self._diagnostics = DiagnosticsPublisher(self, self._healths)

    def _watch(self) -> None:
        if self._loop.failure is not None:
            raise FatalNodeError(f"the control thread failed: {describe(self._loop.failure)}")

    def _say_kernel(self) -> None:
        if not has_realtime_kernel():
            self.get_logger().warning(
                "this kernel is not a real-time one: packets to the arm may be late, and the arm then stops "
                "with communication_constraints_violation"
            )

    def _report(self, severity: str, text: str) -> None:
        logger = self.get_logger()
        # One call site per severity: rclpy does not allow changing it.
        match severity:
            case "error":
                logger.error(text)
            case "warn":
                logger.warning(text)
            case _:
                logger.info(text)

    def _healths(self) -> list[Health]:
        hand = [] if self._hand is None else [self._hand.health()]
        return [self._loop.health(), self._arm.health(), *hand]

    def _seconds(self, stamp_ns: int) -> float:
        return (stamp_ns - self._epoch_ns) / NS_PER_S

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)


def start() -> FrankyNode:
    """Return the node; raises ``MissingDependencyError`` before anything else if franky is not installed."""
    import_franky()
    return FrankyNode()


def main() -> None:
    """Run the node."""
    process.main(start)


if __name__ == "__main__":
    main()
