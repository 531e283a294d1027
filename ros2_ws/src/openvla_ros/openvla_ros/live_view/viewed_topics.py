"""The topics of a running robot that a viewer looks at, with their types and QoS.

Streams are requested best effort with the newest message only: a viewer that is slow loses some, and no
publisher waits for it. What is said once (verdicts, instructions, chunks) is requested in order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.drivers.factory import ARM_SETPOINTS, GRIPPER_SETPOINTS
from openvla_ros.profile import RobotProfile
from openvla_ros.ros import qos
from openvla_ros.viewing.message_view import ARM_COMMAND, GRIPPER_COMMAND


@dataclass(frozen=True)
class ViewedTopic:
    """One topic to look at."""

    role: str  # as in a recording
    topic: str  # the profile's name, relative to the robot's namespace
    type: Any
    qos: QoSProfile


def viewed_topics(profile: RobotProfile) -> list[ViewedTopic]:
    """Return the topics of ``profile`` of which something is shown."""
    topics = [
        ViewedTopic(
            f"camera/{camera.name}/image_raw",
            camera.topic,
            CompressedImage if camera.compressed else Image,
            qos.NEWEST_IN,
        )
        for camera in profile.cameras
    ]
    topics.append(ViewedTopic("joint_states", profile.state.joint_states_topic, JointState, qos.NEWEST_IN))
    for role, backend, setpoints in (
        (ARM_COMMAND, profile.arm_backend, ARM_SETPOINTS),
        (GRIPPER_COMMAND, profile.gripper_backend, GRIPPER_SETPOINTS),
    ):
        # In front of a driver of single setpoints the controller's trajectories say the same earlier.
        topic = setpoints if backend.takes_setpoints else backend.topic
        if backend.takes_setpoints or backend.kind == "joint_trajectory":
            topics.append(ViewedTopic(role, topic, JointTrajectory, qos.NEWEST_IN))
    own: tuple[tuple[str, Any, QoSProfile], ...] = (
        ("controller/target_pose", PoseStamped, qos.NEWEST_IN),
        ("controller/current_pose", PoseStamped, qos.NEWEST_IN),
        ("controller/verdict", DiagnosticStatus, qos.VERDICT),
        ("policy/action_chunk", JointTrajectory, qos.EVERY_IN),
        ("teleop/action_chunk", JointTrajectory, qos.EVERY_IN),
        ("policy/instruction", String, qos.LATCHED),
        ("instruction", String, qos.COMMAND),
        ("recorder/instruction", String, qos.LATCHED),
        ("/diagnostics", DiagnosticArray, qos.EVERY_IN),
    )
    return topics + [ViewedTopic(role, role, kind, profile_) for role, kind, profile_ in own]
