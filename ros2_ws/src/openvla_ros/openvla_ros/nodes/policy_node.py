"""The policy as a ROS 2 node: images, joint states and an instruction in, action chunks out.

The executor's thread only notes messages; a worker thread decodes, infers and publishes, always
from the newest moment. Without an instruction, or with a stream that is older than the profile
allows, nothing is published and the reason is counted in ``/diagnostics``. What may move the robot
is decided by the controller, in another process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.task import Future
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import MarkerArray

from openvla_ros.data.bags import cdr
from openvla_ros.discovery.sole_watch import SoleWatch, camera_topics
from openvla_ros.errors import MissingDependencyError, OpenVLARosError, PolicyError
from openvla_ros.nodes.instruction_server import InstructionServer
from openvla_ros.nodes.policy_health import PolicyHealth
from openvla_ros.nodes.policy_parameters import PolicyParameters
from openvla_ros.policy.answer_watch import AnswerWatch
from openvla_ros.policy.factory import PolicyOptions, load_policy
from openvla_ros.policy.protocol import Policy, Preparing, Reporting
from openvla_ros.profile import load_profile
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.ros import process, qos
from openvla_ros.ros.diagnostics import DiagnosticsPublisher
from openvla_ros.ros.guard import GuardedLifecycleNode, error_key
from openvla_ros.ros.image_messages import from_serialised
from openvla_ros.ros.messages import LARGEST_INSTRUCTION_BYTES, from_stamp, to_chunk_message
from openvla_ros.ros.parameters import declare, watch
from openvla_ros.ros.scene_messages import from_markers
from openvla_ros.ros.worker import Worker
from openvla_ros.streams.buffer import Moment, ObservationBuffer, Refusal
from openvla_ros.streams.instruction_filter import InstructionFilter
from openvla_ros.streams.instruction_run import Assignment, Outcome, StepReport
from openvla_ros.streams.throttle import Pacer
from openvla_ros.values.action import ActionChunk
from openvla_ros.values.health import Health
from openvla_ros.values.scene import Scene

# How often the limits of an assignment are looked at, and whether images come at all.
TICK_S = 0.1
# What the controller says where it will not take chunks again by itself.
FINAL_REASONS = ("e_stop", "shut_down")
# A controller that says nothing for so long is gone; it repeats its verdict every 0.5 s.
CONTROLLER_SILENT_NS = 1_500_000_000
# How long the last command of a stopping node may take to be answered.
LAST_WORD_S = 0.5


@dataclass(frozen=True, eq=False)
class _Work:
    assignment: Assignment
    moment: Moment


class PolicyNode(GuardedLifecycleNode):
    """Carries out instructions with one policy."""

    def __init__(self) -> None:
        super().__init__("policy")
        self._settings = declare(self, PolicyParameters)
        watch(self, PolicyParameters, self._settings_changed)
        self._profile = load_profile(self._settings.robot)
        self._buffer = ObservationBuffer(self._profile)
        self._forward = KinematicChain.from_profile(self._profile.arm).forward
        self._policy: Policy | None = None
        self._worker: Worker[_Work] | None = None
        self._server: InstructionServer | None = None
        self._server_problem = ""
        self._active = False
        self._assigned = threading.RLock()  # held while a chunk goes out: none goes out after an ending
        self._assignment: Assignment | None = None
        self._asking: Assignment | None = None  # the controller has not yet answered for it
        self._inferring = threading.Lock()  # over the policy: nobody infers while an adapter is swapped
        self._begun_ns = 0  # an image from before the instruction is not acted on
        self._served: Assignment | None = None  # of the worker's thread: whose steps the policy remembers
        self._verdict = ("", "")
        self._waits_for_new = ""  # why the last instruction is over although nobody ended it
        self._filter = InstructionFilter(time.time_ns())
        self._answers = AnswerWatch(self._answer_limit_s())
        self._ticked_ns = 0
        self._controller_ns = 0  # when it last said how it is, since the instruction began
        self._scene: Scene | None = None
        self._considered_s = 0.0
        self._pacer = self._make_pacer()
        self._health = PolicyHealth(self._profile)
        self._sole = SoleWatch(self, camera_topics(self._profile))
        self._diagnostics = DiagnosticsPublisher(self, self._collect_health)

    # Transitions

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the policy, check that it fits the robot, and connect."""
        s = self._settings
        options = PolicyOptions(
            s.policy, s.checkpoint, s.unnorm_key, s.device, s.dtype, s.center_crop, s.offline, s.dataset,
            s.episode, s.adapter, s.address, s.token_file, s.answer_timeout_s, s.decoder, s.quantization,
        )  # fmt: skip
        try:
            self._policy = load_policy(options, self._profile, self._newest_scene)
        except OpenVLARosError as error:
            return self.fail(str(error))
        self.get_logger().info(f"{self._profile.name}: {self._policy.description}")
        self._worker = Worker("inference", self._infer, self._broke)
        self._connect()
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin to act on instructions."""
        self._active = True
        self._current.publish(String(data=""))  # whatever a process before this one has latched is over
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop acting on instructions."""
        self._active = False
        self._end_current(Outcome.ABORTED, "the policy node was deactivated")
        return TransitionCallbackReturn.SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let go of the policy and disconnect."""
        self._release()
        for item in self._inputs:
            self.destroy_subscription(item)
        for publisher in (self._chunks, self._current):
            self.destroy_publisher(publisher)
        self.destroy_timer(self._timer)
        self.destroy_service(self._reload)
        for client in (self._hold, self._take_over):
            self.destroy_client(client)
        if self._server is not None:
            self._server.close()
            self._server = None
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop permanently, from any lifecycle state."""
        self._active = False
        self._end_current(Outcome.ABORTED, "the policy node was shut down")
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def stop(self) -> None:
        """End the work; the controller's hold is the last thing that is said."""
        self._active = False
        acting = self._assignment is not None
        hold = self._end_current(Outcome.ABORTED, "the policy node is shutting down")
        self._release()
        if acting and hold is not None and self.executor is not None:
            self.executor.spin_until_future_complete(hold, LAST_WORD_S)

    def _release(self) -> None:
        if self._worker is not None and not self._worker.stop():
            self.get_logger().error("the inference in progress did not end in time")
        if self._policy is not None:
            self._policy.close()
        self._worker = self._policy = None

    def _connect(self) -> None:
        self._chunks = self.create_publisher(JointTrajectory, "policy/action_chunk", qos.COMMAND)
        self._current = self.create_publisher(String, "policy/instruction", qos.LATCHED)
        self._reload = self.create_service(Trigger, "policy/reload_adapter", self._reload_adapter)
        self._hold = self.create_client(Trigger, "controller/hold")
        self._take_over = self.create_client(Trigger, "controller/give_to_policy")
        subscribe, longest = self.create_subscription, LARGEST_INSTRUCTION_BYTES
        self._filter = InstructionFilter(time.time_ns(), self._settings.resume_instruction)
        hear_latched, hear = partial(self._instruction, True), partial(self._instruction, False)
        self._inputs = [
            subscribe(JointState, "joint_states", self._joint_state, qos.EVERY_IN),
            # The second hears every publisher, but nothing that was said before they met.
            subscribe(String, "instruction", hear_latched, qos.LATCHED, largest_bytes=longest),
            subscribe(String, "instruction", hear, qos.COMMAND, largest_bytes=longest),
            subscribe(DiagnosticStatus, "controller/verdict", self._said, qos.COMMAND),
            subscribe(Bool, "task/success", self._success, qos.COMMAND),
        ]
        if self._settings.policy == "expert":
            self._inputs.append(subscribe(MarkerArray, "simulation/scene", self._see_scene, qos.NEWEST_IN))
        leader = self._profile.cameras[0]
        for camera in self._profile.cameras:
            # Raw: an image that the policy does not look at is never deserialised.
            kind, type_name = (
                (CompressedImage, cdr.COMPRESSED_IMAGE) if camera.compressed else (Image, cdr.IMAGE)
            )
            receive = partial(self._image, camera.name, camera is leader, type_name)
            topic = f"camera/{camera.name}/image_raw"
            self._inputs.append(subscribe(kind, topic, receive, qos.NEWEST_IN, raw=True))
        self._timer = self.create_timer(TICK_S, self._tick)
        self._server_problem = ""
        try:
            self._server = InstructionServer(self, self._begin, self._end, self._limits)
        except MissingDependencyError as error:
            self._server_problem = str(error)
            self.get_logger().warning(self._server_problem)

    # Another adapter: the executor's thread

    def _reload_adapter(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Put the adapter that the parameter names in force; on any failure the one before stays."""
        began = time.perf_counter()
        try:
            self._swap_adapter()
        except OpenVLARosError as error:
            response.message = f"{error}; still in force: {self._description()}"
            self.get_logger().error(f"policy/reload_adapter: {response.message}")
            return response
        response.success = True
        response.message = f"{self._description()} after {time.perf_counter() - began:.2f} s"
        self.get_logger().info(response.message)
        return response

    def _swap_adapter(self) -> None:
        """Swap while nobody acts; raises what ``swap_adapter`` raises, and ``PolicyError``."""
        if self._settings.policy != "openvla" or self._policy is None:
            raise PolicyError(f"policy {self._settings.policy!r} takes no adapters; openvla does")
        # Importing torch takes seconds; with this policy it is there already.
        from openvla_ros.policy.openvla_policy import OpenVLAPolicy, swap_adapter, unload_adapter

        with self._assigned, self._inferring:
            if self._assignment is not None:
                raise PolicyError(
                    f"{self._assignment.instruction!r} is being carried out; an adapter is taken while the "
                    "robot stands or holds"
                )
            before, s = self._policy, self._settings
            assert isinstance(before, OpenVLAPolicy)
            self._policy = after = swap_adapter(
                before,
                s.checkpoint,
                s.adapter or None,
                self._profile,
                unnorm_key=s.unnorm_key or None,
                center_crop=s.center_crop or None,
                offline=s.offline,
            )
            unload_adapter(after, getattr(before.predictor, "adapter", None))

    def _description(self) -> str:
        return "" if self._policy is None else self._policy.description

    # Messages: the executor's thread

    def _newest_scene(self) -> Scene:
        """Return the simulator's ground truth; only the scripted expert asks for it."""
        scene = self._scene
        if scene is None:
            raise PolicyError("no simulation/scene yet: the scripted expert works in simulation only")
        return scene

    def _see_scene(self, message: MarkerArray) -> None:
        self._scene = from_markers(message)

    def _image(self, camera: str, leads: bool, type_name: str, message: bytes) -> None:
        stamp_ns, now_ns = cdr.header_stamp_ns(message), self._now_ns()
        self._health.cameras[camera].received(stamp_ns, now_ns)
        self._buffer.put_image(camera, stamp_ns, partial(from_serialised, type_name, message))
        assignment = self._assignment
        if not leads or stamp_ns < self._begun_ns or assignment is None:
            return
        if self._pacer.due(stamp_ns):
            self._consider(assignment)
        else:
            self._renew(assignment, stamp_ns)

    def _joint_state(self, message: JointState) -> None:
        stamp_ns = from_stamp(message.header.stamp)
        if self._buffer.put_joint_state(stamp_ns, message.name, message.position):
            self._health.states.received(stamp_ns, self._now_ns())

    def _instruction(self, latched: bool, message: String, info: Mapping[str, int]) -> None:
        """Begin what the topic says; an empty instruction means "stop"."""
        published_ns, current = int(info["source_timestamp"]), self._assignment
        if self._filter.is_repeat(published_ns):
            return  # the other subscription has it
        objection = self._filter.objection(published_ns, time.time_ns()) if latched else ""
        self._filter.take(published_ns)
        if not message.data.strip():
            self._end_current(Outcome.ABORTED, "an empty instruction came in by topic")
        elif objection:
            self._wait_for_new(f"instruction {message.data!r} was ignored: {objection}")
        elif not self._active:
            self._wait_for_new(f"instruction {message.data!r} was ignored: the policy node is not active")
        elif current is not None and current.is_goal:
            why = f"the goal {current.instruction!r} is being carried out"
            self.get_logger().warning(f"instruction {message.data!r} was ignored: {why}")
        elif current is None or current.instruction != message.data:
            self._begin(Assignment(message.data, time.monotonic(), give_up_s=self._settings.give_up_s))

    def _wait_for_new(self, why: str) -> None:
        """Say that only a new instruction makes the policy act, now and in ``/diagnostics``."""
        self._waits_for_new = why if self._assignment is None else ""
        self.get_logger().warning(f"{why}; waiting for a new instruction")

    def _said(self, message: DiagnosticStatus) -> None:
        reason = next((v.value for v in message.values if v.key == "reason"), message.message)
        self._verdict = (reason, message.message)
        if any(v.key == "kind" and v.value == "state" for v in message.values):
            self._controller_ns = self._now_ns()
        if reason in FINAL_REASONS:
            self._end_current(Outcome.ABORTED, f"the controller says {reason}: {message.message}")

    def _success(self, message: Bool) -> None:
        current = self._assignment
        if message.data and current is not None and current.is_goal and current.steps:
            self._end(current, Outcome.SUCCEEDED, "task/success says so")

    def _tick(self) -> None:
        away_s, current, now_s = self._away_s(), self._assignment, time.monotonic()
        self._ticked_ns = self._now_ns()
        if current is None:
            return
        if away_s is not None:
            self._give_up(f"the policy node stood still for {away_s:.1f} s")
        silent_s = self._answers.silent_s(self._ticked_ns)
        if silent_s is not None:
            self._give_up_on_silence(silent_s)
        if self._controller_ns and self._ticked_ns - self._controller_ns > CONTROLLER_SILENT_NS:
            self._give_up(f"the controller has said nothing for {CONTROLLER_SILENT_NS * 1e-9:g} s")
        if now_s - self._considered_s > 2.0 / self._profile.action_space.rate_hz + TICK_S:
            # No image came: say why nothing happens.
            self._considered_s = now_s
            moment = self._buffer.moment(current.instruction, self._now_ns())
            if isinstance(moment, Refusal):
                self._refuse(current, moment)
        ending = current.overdue(now_s)
        if ending is not None:
            self._end(current, *ending)
            if ending[0] is not Outcome.TIME_LIMIT:
                self._waits_for_new = ending[1]

    def _away_s(self) -> float | None:
        """Return for how many seconds this process has stood still (suspended) if that is too long."""
        away_s = (self._now_ns() - self._ticked_ns) * 1e-9
        return away_s if self._ticked_ns and away_s > self._settings.give_up_s else None

    def _answer_limit_s(self) -> float:
        """How long the policy may not answer; a remote one no longer than its robot goes on without it."""
        control = self._profile.control
        if self._settings.policy == "remote":
            return max(control.chunk_max_age_s, control.hold_after_s)
        return self._settings.give_up_s

    def _give_up_on_silence(self, silent_s: float) -> None:
        self._give_up(
            f"the policy did not answer for {silent_s:.2f} s; the limit is {self._answers.limit_s:g} s"
        )

    def _give_up(self, why: str) -> None:
        """End the instruction in force: an arm that had to stop does not start again by itself."""
        current = self._assignment
        if current is not None and not self._settings.resume_instruction:
            self._end(current, Outcome.ABORTED, why)
            self._waits_for_new = why

    def _consider(self, assignment: Assignment) -> None:
        """Offer the newest moment to the worker, or note why that cannot be."""
        assert self._worker is not None
        self._considered_s = time.monotonic()
        moment = self._buffer.moment(assignment.instruction, self._now_ns())
        if isinstance(moment, Moment) and not self._chunks.get_subscription_count():
            moment = Refusal("no_controller", "nobody listens to policy/action_chunk")
        elif isinstance(moment, Moment) and assignment is self._asking:
            moment = Refusal("not_granted", "the controller has not given the arm to the policy yet")
        if isinstance(moment, Refusal):
            self._refuse(assignment, moment)
            return
        self._worker.put(_Work(assignment, moment))

    def _renew(self, assignment: Assignment, stamp_ns: int) -> None:
        """Let an image that is not due replace one that was and still waits: the policy is slow."""
        assert self._worker is not None
        if not self._worker.waiting:
            return
        moment = self._buffer.moment(assignment.instruction, self._now_ns())
        if isinstance(moment, Moment) and self._worker.renew(_Work(assignment, moment)):
            self._considered_s = time.monotonic()
            self._pacer.passed(stamp_ns)

    # Assignments

    def _begin(self, assignment: Assignment) -> None:
        """Put ``assignment`` in force; it replaces the one before."""
        now_s = time.monotonic()
        if not self._active:
            assignment.end(Outcome.REFUSED, "the policy node is not active", now_s)
            return
        if not assignment.instruction.strip():
            assignment.end(Outcome.REFUSED, "the instruction is empty", now_s)
            return
        with self._assigned:
            before, self._assignment = self._assignment, assignment
            self._begun_ns, self._considered_s = self._now_ns(), now_s
            self._pacer.reset()
        self._waits_for_new, self._controller_ns = "", 0
        if self._worker is not None:
            self._worker.clear()  # what waits is the one before's
        if before is not None:
            before.end(Outcome.PREEMPTED, f"replaced by {assignment.instruction!r}", now_s)
        self._current.publish(String(data=assignment.instruction))
        self.get_logger().info(f"begins: {assignment.instruction!r}")
        if self._take_over.service_is_ready():
            self._asking = assignment
            future = self._take_over.call_async(Trigger.Request())
            future.add_done_callback(partial(self._taken_over, assignment))

    def _taken_over(self, assignment: Assignment, future: Future) -> None:
        if assignment is self._asking:
            self._asking = None
        answer = future.result()
        if answer is not None and not answer.success:
            self._end(assignment, Outcome.REFUSED, f"the controller refuses: {answer.message}")

    def _end_current(self, outcome: Outcome, message: str) -> Future | None:
        current = self._assignment
        return None if current is None else self._end(current, outcome, message)

    def _end(self, assignment: Assignment, outcome: Outcome, message: str) -> Future | None:
        """End ``assignment`` and, if it is the one in force, hold; return the answer to come."""
        with self._assigned:
            in_force = assignment is self._assignment
            if in_force:
                self._assignment = None
        hold = None
        if in_force:
            if self._worker is not None:
                self._worker.clear()
            self._current.publish(String(data=""))
            self.get_logger().info(f"{outcome}: {assignment.instruction!r}: {message}")
            hold = self._hold.call_async(Trigger.Request()) if self._hold.service_is_ready() else None
        assignment.end(outcome, message, time.monotonic())
        return hold

    def _limits(self) -> tuple[float, float]:
        return self._settings.time_limit_s, self._settings.give_up_s

    # Inference: the worker's thread

    def _infer(self, work: _Work) -> None:
        assert self._policy is not None
        began = time.perf_counter()
        try:
            if work.assignment is not self._served and self._made_ready(work.assignment):
                return  # the image has aged meanwhile: the next one is acted on
            observation = work.moment.observe(self._forward)
            self._answers.asked(self._now_ns())
            with self._inferring:
                chunk = self._policy.infer(observation)
        except OpenVLARosError as error:
            self._answers.failed()
            self._refuse(work.assignment, Refusal(error_key(error), str(error)))
            return
        silent_s = self._answers.answered(self._now_ns())
        if silent_s is not None and work.assignment is self._assignment:
            self._give_up_on_silence(silent_s)
        self._publish(work.assignment, chunk, time.perf_counter() - began)

    def _made_ready(self, assignment: Assignment) -> bool:
        """Begin a new assignment with the policy; tell whether that took its time."""
        policy, began = self._policy, time.perf_counter()
        assert policy is not None
        self._answers.begin()
        self._answers.asked(self._now_ns())
        with self._inferring:
            policy.reset()
            self._served = assignment
            took = isinstance(policy, Preparing) and policy.prepare(assignment.instruction)
        if took:
            self.get_logger().info(
                f"prompts as long as {assignment.instruction!r} are new: stages recorded for them in "
                f"{time.perf_counter() - began:.2f} s"
            )
        return took

    def _publish(self, assignment: Assignment, chunk: ActionChunk, inference_s: float) -> None:
        message = to_chunk_message(chunk, self._profile.action_frame_id())
        with self._assigned:
            if assignment is not self._assignment or self._away_s() is not None:
                return
            self._chunks.publish(message)
            age_s = (self._now_ns() - chunk.observation_stamp_ns) * 1e-9
            assignment.steps += 1
            self._health.inference.add(inference_s)
            self._health.age.add(age_s)
            report = StepReport(assignment.steps, inference_s, age_s, *self._verdict)
            assignment.stepped(time.monotonic(), report)

    def _broke(self, error: Exception) -> None:
        """A policy that raises what it should not: stop, and say what it was."""
        message = f"the policy failed: {type(error).__name__}: {error}"
        self.get_logger().error(message)
        self._health.refusals.add("failure", message)
        self._end_current(Outcome.ABORTED, message)
        self._waits_for_new = message

    def _refuse(self, assignment: Assignment, refusal: Refusal) -> None:
        self._health.refusals.add(refusal.reason, refusal.detail)
        with self._assigned:
            if assignment is self._assignment:
                assignment.refused(refusal)

    # Diagnostics

    def _collect_health(self) -> list[Health]:
        return [self._task_health(), self._sole.health(), *self._health.collect(self._now_ns())]

    def _task_health(self) -> Health:
        current = self._assignment
        values = {
            "policy": self._description(),
            "instruction": "" if current is None else current.instruction,
            "steps": "" if current is None else str(current.steps),
            "superseded": "" if self._worker is None else str(self._worker.replaced),
            "action_server": self._server_problem or "ready",
        }
        values |= _reported(self._policy)
        if not self._active:
            return Health("task", "warn", "not active", values)
        if current is None and self._waits_for_new:
            message = f"does not act: waits for a new instruction; {self._waits_for_new}"
            return Health("task", "warn", message, values)
        if current is None:
            return Health("task", "ok", "does not act: nobody has said what to do", values)
        if current.refusal is not None:
            return Health("task", "error", f"does not act: {current.refusal}", values)
        return Health("task", "ok", f"step {current.steps} of {current.instruction!r}", values)

    def _settings_changed(self, settings: PolicyParameters) -> None:
        before, self._settings = self._settings, settings
        self._answers.limit_s = self._answer_limit_s()
        if settings.steps_between_inferences != before.steps_between_inferences:
            self._pacer = self._make_pacer()

    def _make_pacer(self) -> Pacer:
        rate_hz = self._settings.rate_hz or self._profile.action_space.rate_hz
        period_s = self._settings.steps_between_inferences / rate_hz
        return Pacer(period_s, 1.0 / self._profile.cameras[0].rate_hz)

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)


def _reported(policy: object) -> dict[str, str]:
    """Return what a policy has measured of itself, if it does."""
    return dict(policy.report()) if isinstance(policy, Reporting) else {}


def main() -> None:
    """Run the node as a program."""
    process.main(PolicyNode)


if __name__ == "__main__":
    main()
