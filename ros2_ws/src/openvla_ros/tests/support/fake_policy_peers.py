"""What stands around a policy node in its tests: a robot's topics, the controller's services, a listener."""

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger
from support.node_processes import DISCOVERY_S, Listener, NodeProcess
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.profile import load_profile
from openvla_ros.ros import qos
from openvla_ros.ros.messages import to_image

MODULE = "openvla_ros.nodes.policy_node"
PROFILE = load_profile("sim_widowx")
IMAGE = np.zeros((48, 64, 3), np.uint8)
JOINTS = [*PROFILE.arm.joints, PROFILE.gripper.joint]


class Robot(Listener):
    """Publishes images and joint states, answers as the controller, and listens to the policy."""

    def __init__(self, namespace="", camera_hz=10.0):
        super().__init__("robot", namespace)
        node = self.node
        self.images = node.create_publisher(Image, "camera/primary/image_raw", qos.STREAM_OUT)
        self.states = node.create_publisher(JointState, "joint_states", qos.STREAM_OUT)
        self.words = node.create_publisher(String, "instruction", qos.LATCHED)
        self.verdicts = node.create_publisher(DiagnosticStatus, "controller/verdict", qos.COMMAND)
        self.successes = node.create_publisher(Bool, "task/success", qos.COMMAND)
        self.chunks = self.collect(JointTrajectory, "policy/action_chunk", qos.COMMAND)
        self.reports = self.collect(DiagnosticArray, "/diagnostics", qos.DIAGNOSTICS)
        self.current = self.collect(String, "policy/instruction", qos.LATCHED)
        self.calls, self.grants = [], True
        node.create_service(Trigger, "controller/hold", self._service("hold"))
        node.create_service(Trigger, "controller/ask_for_policy", self._service("ask_for_policy"))
        self.sees = self.feels = True
        self.image = IMAGE
        self.seen = []  # stamps of the images
        node.create_timer(1.0 / camera_hz, self._see)
        node.create_timer(0.02, self._feel)

    def _service(self, name):
        def answer(request, response):
            self.calls.append(name)
            response.success, response.message = self.grants, "" if self.grants else "the e-stop is latched"
            return response

        return answer

    def now_ns(self):
        return self.node.get_clock().now().nanoseconds

    def _see(self):
        if self.sees:
            self.seen.append(self.now_ns())
            self.images.publish(to_image(self.image, self.seen[-1], "lens"))

    def _feel(self):
        if self.feels:
            state = JointState(name=JOINTS, position=[0.1] * 6 + [0.037])
            state.header.stamp = self.node.get_clock().now().to_msg()
            self.states.publish(state)

    def say(self, words):
        """Say it once the policy listens: with both of its subscriptions."""
        assert self.spin_until(lambda: self.words.get_subscription_count() >= 2)
        self.words.publish(String(data=words))

    def status(self, name):
        """The newest status whose name ends so."""
        found = [s for r in self.reports for s in r.status if s.name.endswith(": " + name)]
        return found[-1] if found else DiagnosticStatus()

    def is_heard(self):
        """Whether the policy hears everything that is published here."""
        publishers = (self.images, self.states, self.words, self.verdicts, self.successes)
        return all(publisher.get_subscription_count() for publisher in publishers)

    def until_task_says(self, words, timeout_s=DISCOVERY_S):
        return self.spin_until(lambda: words in self.status("task").message, timeout_s)


def policy(**parameters):
    return NodeProcess(MODULE, {"policy": "hold", **parameters})
