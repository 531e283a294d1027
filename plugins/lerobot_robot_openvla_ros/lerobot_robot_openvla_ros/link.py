"""The ROS side: hears a running robot's cameras, joints and verdicts, and sends it action chunks.

The chunks go to the controller as those of a person at a teleoperation device do: it checks every one, and
stops the arm when they end.
"""

from __future__ import annotations

import os
import threading
import time
from functools import partial
from typing import Any

from sensor_msgs.msg import CompressedImage, Image, JointState
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.bringup.dds import dds_environment
from openvla_ros.data.bags import cdr
from openvla_ros.discovery.client import RobotClient
from openvla_ros.errors import DeviceError, OpenVLARosError
from openvla_ros.profile import RobotProfile
from openvla_ros.robot.authority import PERSON
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.ros import qos
from openvla_ros.ros.image_messages import from_serialised
from openvla_ros.ros.messages import from_stamp, to_chunk_message
from openvla_ros.ros.verdict_messages import VerdictReport
from openvla_ros.streams.buffer import Moment, ObservationBuffer
from openvla_ros.values.action import ActionChunk
from openvla_ros.values.arrays import Float
from openvla_ros.values.observation import Observation
from openvla_ros.values.verdict import Reason

TAKE, HOLD = "controller/give_to_teleop", "controller/hold"
STOPS = (Reason.HELD, Reason.E_STOP, Reason.RIVAL)  # which last until the arm is given to somebody
LISTEN_S, POLL_S = 0.05, 0.005
ANY_WORDS = "LeRobot"  # an observation has an instruction; LeRobot keeps its own


class RobotLink:
    """One process's connection to the nodes of a running robot; a thread listens."""

    def __init__(self, profile: RobotProfile, namespace: str, use_sim_time: bool, timeout_s: float) -> None:
        """Join the robot's nodes. Raises ``OpenVLARosError`` if ROS cannot start."""
        os.environ.update(dds_environment(os.environ))  # room for images; ROS is not started yet
        hint = "start the robot first: openvla up --policy hold"
        self._client = RobotClient("lerobot", namespace, use_sim_time, timeout_s, hint)
        self._profile, self._timeout_s = profile, timeout_s
        self._forward = KinematicChain.from_profile(profile.arm).forward
        self._buffer, self._lock = ObservationBuffer(profile), threading.Lock()
        self._state: VerdictReport | None = None
        self._refusal: VerdictReport | None = None
        self._ended, self._problem = threading.Event(), ""
        node = self._client.node
        self._chunks = node.create_publisher(JointTrajectory, "teleop/action_chunk", qos.COMMAND)
        topic = profile.state.joint_states_topic
        self._inputs = [node.create_subscription(JointState, topic, self._joints, qos.EVERY_IN)]
        for camera in profile.cameras:
            kind, name = (CompressedImage, cdr.COMPRESSED_IMAGE) if camera.compressed else (Image, cdr.IMAGE)
            hear = partial(self._image, camera.name, name)
            self._inputs.append(node.create_subscription(kind, camera.topic, hear, qos.NEWEST_IN, raw=True))
        self._client.hear_verdicts(self._verdict, earlier=True)
        self._thread = threading.Thread(target=self._listen, name="openvla_ros", daemon=True)

    def take(self) -> None:
        """Take the arm, and begin to listen.

        Raises ``DeviceError`` if no controller answers, it refuses, or no observation can be made.
        """
        self._client.order(TAKE)
        self._client.require(self._has_arm, self._timeout_s, lambda: f"{TAKE}: the arm was not given")
        self._thread.start()
        self.observe()

    def observe(self) -> Observation:
        """Return the newest moment; raises ``DeviceError`` with the stream that is missing or too old."""
        deadline_s = time.monotonic() + self._timeout_s
        while True:
            self._check_thread()
            with self._lock:
                moment = self._buffer.moment(ANY_WORDS, self._client.now_ns)
            if isinstance(moment, Moment):
                return moment.observe(self._forward)
            if time.monotonic() > deadline_s:
                raise DeviceError(f"robot {self._profile.name}: {moment}")
            time.sleep(POLL_S)

    def send(self, action: Float) -> None:
        """Send one action (D,) of the robot's action space.

        Raises ``DeviceError`` if the controller refused the one before, or no longer takes any from here.
        """
        self._check_thread()
        with self._lock:
            state, refusal, self._refusal = self._state, self._refusal, None
        if refusal is not None:
            raise DeviceError(f"the controller refused an action: {refusal.verdict}")
        if state is None or state.owner != PERSON or state.verdict.reason in STOPS:
            said = "nothing" if state is None else f"owner {state.owner!r}: {state.verdict}"
            raise DeviceError(f"the controller takes no actions from LeRobot: {said}")
        chunk = ActionChunk(action[None], self._client.now_ns, self._profile.space())
        self._chunks.publish(to_chunk_message(chunk, self._profile.action_frame_id()))

    def close(self) -> None:
        """Hold the arm, if it is ours, and leave; raises ``DeviceError`` if the hold is not confirmed."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(self._timeout_s)
        try:
            if self._has_arm():
                self._client.order(HOLD)
        finally:
            self._client.close()

    def _has_arm(self) -> bool:
        state = self._state
        return state is not None and state.owner == PERSON and state.verdict.reason not in STOPS

    def _listen(self) -> None:
        try:
            while not self._ended.is_set():
                self._client.listen(LISTEN_S)
        except (OpenVLARosError, RuntimeError, ValueError) as error:
            self._problem = f"{type(error).__name__}: {error}"

    def _check_thread(self) -> None:
        if self._problem:
            raise DeviceError(f"nothing is heard from robot {self._profile.name} any more: {self._problem}")

    def _joints(self, message: JointState) -> None:
        with self._lock:
            stamp_ns = from_stamp(message.header.stamp)
            self._buffer.put_joint_state(stamp_ns, message.name, message.position)

    def _image(self, camera: str, type_name: str, message: bytes) -> None:
        decode: Any = partial(from_serialised, type_name, message)
        with self._lock:
            self._buffer.put_image(camera, cdr.header_stamp_ns(message), decode)

    def _verdict(self, report: VerdictReport) -> None:
        with self._lock:
            if report.kind == "state":
                self._state = report
            elif report.source == PERSON:
                self._refusal = report
