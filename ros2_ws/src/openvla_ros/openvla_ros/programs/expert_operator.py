"""The scripted expert in the place of a person at a teleoperation device: it takes over and corrects.

Listens to the simulator's ground truth and publishes on ``teleop/action_chunk``, so that the
recording shows a correction exactly as it would a person's.
"""

from __future__ import annotations

from rclpy.node import Node
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import MarkerArray

from openvla_ros.errors import PolicyError
from openvla_ros.policy.expert import ScriptedExpert
from openvla_ros.profile import RobotProfile
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.ros import qos
from openvla_ros.ros.messages import from_stamp, to_chunk_message
from openvla_ros.ros.scene_messages import from_markers
from openvla_ros.sim.rollout import BLANK
from openvla_ros.streams.sampling import JointSample, arm_sample, proprioception
from openvla_ros.values.observation import Observation
from openvla_ros.values.scene import Scene


class ExpertOperator:
    """Acts through the topics of teleoperation; the caller spins ``node`` and keeps the rate."""

    def __init__(self, node: Node, profile: RobotProfile) -> None:
        self._profile = profile
        self._scene: Scene | None = None
        self._state: tuple[int, JointSample] | None = None
        self._forward = KinematicChain.from_profile(profile.arm).forward
        self._expert = ScriptedExpert.for_profile(profile, self._newest_scene)
        self._chunks = node.create_publisher(JointTrajectory, "teleop/action_chunk", qos.COMMAND)
        node.create_subscription(MarkerArray, "simulation/scene", self._see, qos.NEWEST_IN)
        node.create_subscription(JointState, profile.state.joint_states_topic, self._feel, qos.NEWEST_IN)

    @property
    def ready(self) -> bool:
        """Whether scene and joint states have been heard."""
        return self._scene is not None and self._state is not None

    def begin(self) -> None:
        """Forget the episode before."""
        self._expert.reset()

    def act(self, instruction: str) -> None:
        """Publish the next step towards the goal of ``instruction``; raises ``PolicyError``."""
        if self._state is None:
            raise PolicyError("no joint states yet: the expert does not know where the arm is")
        stamp_ns, sample = self._state
        positions, opening = proprioception(self._profile, sample)
        chunk = self._expert.infer(
            Observation(stamp_ns, BLANK, instruction, positions, self._forward(positions), opening)
        )
        self._chunks.publish(to_chunk_message(chunk, self._profile.action_frame_id()))

    def _newest_scene(self) -> Scene:
        if self._scene is None:
            raise PolicyError("no simulation/scene yet: the scripted expert works in simulation only")
        return self._scene

    def _see(self, message: MarkerArray) -> None:
        self._scene = from_markers(message)

    def _feel(self, message: JointState) -> None:
        sample = arm_sample(self._profile, message.name, message.position)
        if sample is not None:
            self._state = (from_stamp(message.header.stamp), sample)
