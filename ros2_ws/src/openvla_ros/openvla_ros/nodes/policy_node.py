"""The policy as a ROS 2 node: images, joint states and an instruction in, action chunks out.

The executor's thread only notes messages; a worker thread decodes, infers and publishes, always
from the newest moment. Which instruction is current, when it ends and whether a chunk may go out is
decided in ``streams/instruction_run.py``. What may move the robot is decided by the controller, in another
process.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger
from visualization_msgs.msg import MarkerArray

from openvla_ros.data.bags import cdr
from openvla_ros.discovery.sole_watch import SoleWatch, camera_topics
from openvla_ros.errors import MissingDependencyError, OpenVLARosError, PolicyError
from openvla_ros.nodes.instruction_server import InstructionServer
from openvla_ros.nodes.policy_outputs import PolicyOutputs
from openvla_ros.nodes.policy_parameters import PolicyParameters
from openvla_ros.policy.factory import load_policy
from openvla_ros.policy.policy_health import PolicyHealth
from openvla_ros.policy.running_policy import Question, RunningPolicy
from openvla_ros.profile import load_profile
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.ros import process, qos
from openvla_ros.ros.diagnostics import DiagnosticsPublisher
from openvla_ros.ros.guard import GuardedLifecycleNode
from openvla_ros.ros.image_messages import from_serialised
from openvla_ros.ros.messages import LARGEST_INSTRUCTION_BYTES, from_stamp
from openvla_ros.ros.parameters import declare, watch
from openvla_ros.ros.scene_messages import from_markers
from openvla_ros.ros.worker import Worker
from openvla_ros.streams.assignment import Assignment, Outcome
from openvla_ros.streams.buffer import Moment, ObservationBuffer
from openvla_ros.streams.instruction_run import Instant, InstructionRun
from openvla_ros.values.health import Health
from openvla_ros.values.scene import Scene

# How often the limits of an instruction are looked at, and whether images come at all.
TICK_S = 0.1
# How long the last command of a stopping node may take to be answered.
LAST_WORD_S = 0.5


class PolicyNode(GuardedLifecycleNode):
    """Carries out instructions with one policy."""

    def __init__(self) -> None:
        super().__init__("policy")
        self._settings = declare(self, PolicyParameters)
        watch(self, PolicyParameters, self._settings_changed)
        self._profile = load_profile(self._settings.robot)
        self._buffer = ObservationBuffer(self._profile, self._frozen_s(self._settings))
        self._forward = KinematicChain.from_profile(self._profile.arm).forward
        self._policy: RunningPolicy | None = None
        self._worker: Worker[Question] | None = None
        self._server: InstructionServer | None = None
        self._server_problem = ""
        self._scene: Scene | None = None
        self._pacer = self._settings.pacer(self._profile)
        self._paced: Assignment | None = None  # whose images the pacer counts
        self._health = PolicyHealth(self._profile)
        frame_id = self._profile.action_frame_id()
        self._outputs = PolicyOutputs(self, frame_id, self._drop_waiting, self._controller_answered)
        self._run = InstructionRun(
            self._outputs,
            self.get_logger(),
            self._buffer.moment,
            self._health.refusals,
            self._settings.run_limits(self._profile),
        )
        self._sole = SoleWatch(self, camera_topics(self._profile))
        self._diagnostics = DiagnosticsPublisher(self, self._collect_health)

    # Transitions

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the policy, check that it fits the robot, and connect."""
        try:
            policy = load_policy(self._settings.options(), self._profile, self._newest_scene)
        except OpenVLARosError as error:
            return self.fail(str(error))
        self._policy = RunningPolicy(policy, self._run, self._forward, self._now, self.get_logger())
        self.get_logger().info(f"{self._profile.name}: {policy.description}")
        self._worker = Worker("inference", self._infer, lambda error: self._run.broke(error, self._now()))
        self._connect()
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin to act on instructions."""
        self._run.activate()
        self._outputs.announce("")  # whatever a process before this one has latched is over
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop acting on instructions."""
        self._run.deactivate("the policy node was deactivated", self._now())
        return TransitionCallbackReturn.SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let go of the policy and disconnect."""
        self._release()
        for item in self._inputs:
            self.destroy_subscription(item)
        self.destroy_timer(self._timer)
        self.destroy_service(self._reload)
        self._outputs.disconnect()
        if self._server is not None:
            self._server.close()
            self._server = None
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop permanently, from any lifecycle state."""
        self._run.deactivate("the policy node was shut down", self._now())
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def stop(self) -> None:
        """End the work; the controller's hold is the last thing that is said."""
        before = self._outputs.last_hold
        self._run.deactivate("the policy node is shutting down", self._now())
        self._release()
        hold = self._outputs.last_hold
        if hold is not before and self.executor is not None:
            self.executor.spin_until_future_complete(hold, LAST_WORD_S)

    def _release(self) -> None:
        if self._worker is not None and not self._worker.stop():
            self.get_logger().error("the inference in progress did not end in time")
        if self._policy is not None:
            self._policy.close()
        self._worker = self._policy = None

    def _connect(self) -> None:
        self._outputs.connect()
        self._reload = self.create_service(Trigger, "policy/reload_adapter", self._reload_adapter)
        subscribe, longest = self.create_subscription, LARGEST_INSTRUCTION_BYTES
        self._run.listen(self._now())
        hear_latched, hear = partial(self._instruction, True), partial(self._instruction, False)
        self._inputs = [
            subscribe(JointState, "joint_states", self._joint_state, qos.EVERY_IN),
            # The second hears every publisher, but nothing that was said before they met.
            subscribe(String, "instruction", hear_latched, qos.LATCHED, largest_bytes=longest),
            subscribe(String, "instruction", hear, qos.COMMAND, largest_bytes=longest),
            subscribe(DiagnosticStatus, "controller/verdict", self._said, qos.COMMAND),
            subscribe(Bool, "task/success", self._success, qos.COMMAND),
            *map(self._subscribe_to_camera, range(len(self._profile.cameras))),
        ]
        if self._settings.policy == "expert":
            self._inputs.append(subscribe(MarkerArray, "simulation/scene", self._see_scene, qos.NEWEST_IN))
        self._timer = self.create_timer(TICK_S, self._tick)
        self._server_problem = ""
        try:
            self._server = InstructionServer(self, self._begin, self._end, self._goal_limits)
        except MissingDependencyError as error:
            self._server_problem = str(error)
            self.get_logger().warning(self._server_problem)

    def _subscribe_to_camera(self, index: int) -> object:
        """Subscribe to an image topic; the first camera's images are those that are acted on."""
        camera = self._profile.cameras[index]
        # Raw: an image that the policy does not look at is never deserialised.
        kind, type_name = (CompressedImage, cdr.COMPRESSED_IMAGE) if camera.compressed else (Image, cdr.IMAGE)
        receive = partial(self._image, camera.name, index == 0, type_name)
        return self.create_subscription(
            kind, f"camera/{camera.name}/image_raw", receive, qos.NEWEST_IN, raw=True
        )

    # Another adapter: the executor's thread

    def _reload_adapter(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Load the adapter that the parameter names; if anything fails, the previous one stays."""
        began = time.perf_counter()
        try:
            if self._policy is None or self._settings.policy != "openvla":
                raise PolicyError(f"policy {self._settings.policy!r} takes no adapters; openvla does")
            self._policy.reload_adapter(self._settings.options(), self._profile)
        except OpenVLARosError as error:
            response.message = f"{error}; still loaded: {self._description()}"
            self.get_logger().error(f"policy/reload_adapter: {response.message}")
            return response
        response.success = True
        response.message = f"{self._description()} after {time.perf_counter() - began:.2f} s"
        self.get_logger().info(response.message)
        return response

    # Messages: the executor's thread

    def _newest_scene(self) -> Scene:
        """Return the simulator's ground truth; only the scripted expert asks for it."""
        scene = self._scene
        if scene is None:
            raise PolicyError("no simulation/scene yet: the scripted expert works in simulation only")
        return scene

    def _see_scene(self, message: MarkerArray) -> None:
        self._scene = from_markers(message)

    def _joint_state(self, message: JointState) -> None:
        stamp_ns = from_stamp(message.header.stamp)
        if self._buffer.put_joint_state(stamp_ns, message.name, message.position):
            self._health.states.received(stamp_ns, self._now_ns())

    def _instruction(self, latched: bool, message: String, info: Mapping[str, int]) -> None:
        self._run.heard(message.data, int(info["source_timestamp"]), latched, self._now())

    def _said(self, message: DiagnosticStatus) -> None:
        reason = next((v.value for v in message.values if v.key == "reason"), message.message)
        is_state = any(v.key == "kind" and v.value == "state" for v in message.values)
        self._outputs.owner = next((v.value for v in message.values if v.key == "owner"), "")
        self._run.controller_said(reason, message.message, is_state, self._now())

    def _success(self, message: Bool) -> None:
        if message.data:
            self._run.task_succeeded(self._now())

    def _tick(self) -> None:
        self._run.tick(self._now())

    def _begin(self, assignment: Assignment) -> None:
        self._run.begin(assignment, self._now())

    def _end(self, assignment: Assignment, outcome: Outcome, message: str) -> None:
        self._run.end(assignment, outcome, message, self._now())

    def _controller_answered(self, assignment: Assignment, refusal: str | None) -> None:
        self._run.controller_answered(assignment, refusal, self._now())

    # Images: the executor's thread

    def _image(self, camera: str, leads: bool, type_name: str, message: bytes) -> None:
        stamp_ns, now_ns = cdr.header_stamp_ns(message), self._now_ns()
        self._health.cameras[camera].received(stamp_ns, now_ns)
        decode = partial(from_serialised, type_name, message)
        self._buffer.put_image(camera, stamp_ns, decode, message, cdr.STAMP_END)
        assignment = self._run.acting_on(stamp_ns)
        if not leads or assignment is None:
            return
        if assignment is not self._paced:
            self._paced = assignment
            self._pacer.reset()
        if self._pacer.due(stamp_ns):
            self._consider(assignment)
        else:
            self._renew(assignment, stamp_ns)

    def _consider(self, assignment: Assignment) -> None:
        """Offer the newest moment to the worker, unless there is none to act on."""
        assert self._worker is not None
        moment = self._run.look(assignment, self._outputs.listened, self._now())
        if moment is not None:
            self._worker.put(Question(assignment, moment))

    def _renew(self, assignment: Assignment, stamp_ns: int) -> None:
        """Let an image that is not due replace one that was and still waits: the policy is slow."""
        assert self._worker is not None
        if not self._worker.waiting:
            return
        moment = self._buffer.moment(assignment.instruction, self._now_ns())
        if isinstance(moment, Moment) and self._worker.renew(Question(assignment, moment)):
            self._run.looked(self._now())
            self._pacer.passed(stamp_ns)

    def _drop_waiting(self) -> None:
        if self._worker is not None:
            self._worker.clear()

    # Inference: the worker's thread

    def _infer(self, question: Question) -> None:
        assert self._policy is not None
        began = time.perf_counter()
        chunk = self._policy.ask(question)
        if chunk is None:
            return
        inference_s = time.perf_counter() - began
        publish, stamp_ns = self._outputs.publisher_of(chunk), chunk.observation_stamp_ns
        age_s = self._run.send(question.assignment, publish, self._now, stamp_ns, inference_s)
        if age_s is not None:
            self._health.inference.add(inference_s)
            self._health.age.add(age_s)

    # Diagnostics

    def _collect_health(self) -> list[Health]:
        values = {
            "superseded": "" if self._worker is None else str(self._worker.replaced),
            "action_server": self._server_problem or "ready",
            **({} if self._policy is None else self._policy.report()),
        }
        task = self._run.health(self._description(), values)
        return [task, self._sole.health(), *self._health.collect(self._now_ns())]

    def _description(self) -> str:
        return "" if self._policy is None else self._policy.description

    # Settings and clocks

    def _settings_changed(self, settings: PolicyParameters) -> None:
        before, self._settings = self._settings, settings
        self._buffer.frozen_s = self._frozen_s(settings)
        self._run.set_limits(settings.run_limits(self._profile))
        if settings.steps_between_inferences != before.steps_between_inferences:
            self._pacer = settings.pacer(self._profile)

    def _frozen_s(self, settings: PolicyParameters) -> float:
        """Return how long an image may stay the same; for ever where images are drawn without noise."""
        return settings.frozen_image_s if self._profile.simulation is None else 0.0

    def _goal_limits(self) -> tuple[float, float]:
        return self._settings.time_limit_s, self._settings.give_up_s

    def _now(self) -> Instant:
        return Instant(self._now_ns(), time.monotonic(), time.time_ns())

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)


def main() -> None:
    """Run the node as a program."""
    process.main(PolicyNode)


if __name__ == "__main__":
    main()
