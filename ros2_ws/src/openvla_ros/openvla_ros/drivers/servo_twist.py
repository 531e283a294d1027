"""Streams tool velocities to MoveIt Servo, after starting it with the services of its version.

Servo stops the arm if no command arrives for ``incoming_command_timeout`` (0.1 s by default), so a twist
is sent every control period while the arm is active; if this process is killed, Servo stops the arm.
Servo must be configured for ``speed_units`` (m/s, rad/s) and the profile's base frame.
"""

from __future__ import annotations

from geometry_msgs.msg import TwistStamped, Vector3
from rclpy.node import Node, NodeNameNonExistentError
from rclpy.topic_endpoint_info import TopicEndpointInfo
from std_msgs.msg import Header
from std_srvs.srv import SetBool, Trigger

from openvla_ros.driver_profile import ArmBackend
from openvla_ros.drivers.protocol import ArmCommand
from openvla_ros.drivers.readiness.optional_messages import interface
from openvla_ros.drivers.readiness.service_sequence import Call, ServiceSequence
from openvla_ros.drivers.readiness.subscribers import Restarts, acknowledged, missing_subscriber
from openvla_ros.profile import RobotProfile
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.motion.motion_limiter import MotionLimits
from openvla_ros.robot.motion.twist_stream import TwistStream
from openvla_ros.ros.messages import to_stamp
from openvla_ros.ros.qos import COMMAND
from openvla_ros.values.arrays import Float


class ServoTwistArm:
    """One twist per period while active; nothing while the arm rests where it should."""

    def __init__(self, node: Node, profile: RobotProfile, backend: ArmBackend) -> None:
        self._node, self._frame_id = node, profile.arm.frame_prefix + profile.arm.base_link
        self._publisher = node.create_publisher(TwistStamped, backend.topic, COMMAND)
        self._folder = self._publisher.topic_name.rpartition("/")[0]
        self._stream = TwistStream(
            KinematicChain.from_profile(profile.arm),
            MotionLimits.from_profile(profile.limits),
            1.0 / profile.control.rate_hz,
            backend.patience_s,
        )
        self._servos = Restarts()
        self._start: ServiceSequence | None = None

    def missing(self) -> str | None:
        """Return ``None`` if Servo's services are there and it subscribes."""
        if not self._calls():
            return f"no MoveIt Servo at {self._folder}: neither start_servo nor switch_command_type"
        return missing_subscriber(self._node, self._publisher, "MoveIt Servo")

    def connect(self) -> str | None:
        """Start Servo once its services are there; return ``None`` when it has started.

        A Servo that was restarted is started again.
        """
        missing = self.missing()
        restarted = self._servos.noticed(self._endpoints())
        if (restarted or missing is not None) and self._start is not None:
            self._start.close()
            self._start = None
        if missing is not None:
            return missing
        if self._start is None:
            self._start = ServiceSequence(self._node, self._calls())
        return self._start.progress()

    def send(self, command: ArmCommand) -> None:
        """Publish the commanded velocity plus the correction; one zero twist when the arm comes to rest."""
        twist = self._stream.next(command.stamp_ns, command.motion, command.pose, command.measured)
        if twist is not None:
            self._publish(twist, command.stamp_ns)

    def delivered(self, timeout_s: float) -> bool:
        """Wait until the robot's side has acknowledged the last command."""
        return acknowledged(self._publisher, timeout_s)

    def _publish(self, twist: Float, stamp_ns: int) -> None:
        message = TwistStamped(header=Header(stamp=to_stamp(stamp_ns), frame_id=self._frame_id))
        x, y, z, rx, ry, rz = map(float, twist)
        message.twist.linear, message.twist.angular = Vector3(x=x, y=y, z=z), Vector3(x=rx, y=ry, z=rz)
        self._publisher.publish(message)

    def _endpoints(self) -> list[TopicEndpointInfo]:
        """Return the subscriptions of nodes that have Servo's services; a recorder's are not among them."""
        wanted = {call.service for call in self._calls()}
        nodes = set(self._node.get_node_names_and_namespaces())

        def is_servo(info: TopicEndpointInfo) -> bool:
            name, namespace = info.node_name, info.node_namespace
            if (name, namespace) not in nodes:
                return False  # its name is not known yet
            try:
                offered = self._node.get_service_names_and_types_by_node(name, namespace)
            except NodeNameNonExistentError:
                return False  # it has just gone
            return any(service in wanted for service, _ in offered)

        infos = self._node.get_subscriptions_info_by_topic(self._publisher.topic_name)
        return [info for info in infos if is_servo(info)]

    def _calls(self) -> list[Call]:
        """Return the calls that start the running Servo: Humble's version, or Jazzy's and later."""
        services = dict(self._node.get_service_names_and_types())
        if f"{self._folder}/start_servo" in services:
            return [Call(f"{self._folder}/start_servo", Trigger, Trigger.Request())]
        if f"{self._folder}/switch_command_type" in services:
            command_type = interface("moveit_msgs/srv/ServoCommandType", "arm_backend 'servo_twist'")
            twist = command_type.Request(command_type=command_type.Request.TWIST)
            return [
                Call(f"{self._folder}/switch_command_type", command_type, twist),
                Call(f"{self._folder}/pause_servo", SetBool, SetBool.Request(data=False)),
            ]
        return []
