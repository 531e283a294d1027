"""A simulated robot and its controller as real processes, and the test's own eyes and hands on them."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool
from std_srvs.srv import Trigger
from support.node_processes import Listener, NodeProcess
from support.waiting import wait_until
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.profile import RobotProfile, dump_profile, load_profile
from openvla_ros.ros import qos
from openvla_ros.ros.messages import from_duration, from_pose, from_stamp, to_joint_trajectory
from openvla_ros.ros.verdict_messages import VerdictReport, from_verdict_message
from openvla_ros.values.geometry import Pose
from openvla_ros.values.verdict import Reason

# Wall seconds that a busy machine may take to import and to discover, and to answer.
START_S, ANSWER_S = 120.0, 30.0
STILL_RAD_S = 0.02
STILL_S = 0.3
# As fast as the machine can, up to twice real time.
CLOCK = {
    "simulation": {"publish_clock": True, "lock_step": True, "real_time_factor": 2.0},
    "controller": {"use_sim_time": True},
}
CONTROLLER_TOPICS = ("controller/verdict", "controller/current_pose", "arm_controller/joint_trajectory")


class Cell:
    """One robot in one namespace. Only what a user of ROS could see and do.

    Time is the simulation's, in lock step with the controller, so that a busy machine only makes a
    test slower. Each namespace has a clock of its own.
    """

    def __init__(
        self,
        robot: str = "sim_widowx",
        namespace: str = "",
        change: Callable[[RobotProfile], RobotProfile] = lambda profile: profile,
    ) -> None:
        self.namespace = namespace
        self._remaps = [f"/clock:=/{namespace}/clock"] if namespace else []
        self._stack = ExitStack()
        # Nobody looks at the images here: few and small ones leave the cores to what is tested.
        profile = change(load_profile(robot))
        cameras = tuple(replace(camera, width=64, height=64, rate_hz=2.0) for camera in profile.cameras)
        # A busy machine delays the controller by more than the few periods that a robot's own does.
        backend = replace(profile.arm_backend, lookahead_s=0.1)
        self.profile = replace(profile, cameras=cameras, arm_backend=backend)
        self.space = self.profile.space()
        folder = self._stack.enter_context(tempfile.TemporaryDirectory())
        self.robot = f"{folder}/{robot}.yaml"
        Path(self.robot).write_text(dump_profile(self.profile), encoding="utf-8")
        self.processes: dict[str, NodeProcess] = {}
        self.parameters: dict[str, dict] = {}

    def __enter__(self) -> Cell:
        self.listener = self._stack.enter_context(Listener("test", self.namespace, self._remaps))
        node, listen = self.listener.node, self.listener.collect
        node.set_parameters([Parameter("use_sim_time", value=True)])
        # Deep enough that a busy machine loses none: differences of consecutive messages are looked at.
        every = QoSProfile(depth=2000, reliability=ReliabilityPolicy.RELIABLE)
        self.states = listen(JointState, "joint_states", every)
        self.commands = listen(JointTrajectory, "arm_controller/joint_trajectory", every)
        self.verdict_messages = listen(DiagnosticStatus, "controller/verdict", qos.VERDICT)
        self.targets = listen(PoseStamped, "controller/target_pose", qos.NEWEST_IN)
        self.poses = listen(PoseStamped, "controller/current_pose", qos.NEWEST_IN)
        self.diagnostics = listen(DiagnosticArray, "/diagnostics", qos.DIAGNOSTICS)
        self._chunks = {
            name: node.create_publisher(JointTrajectory, f"{name}/action_chunk", qos.COMMAND)
            for name in ("policy", "teleop")
        }
        self._e_stop = node.create_publisher(Bool, "e_stop", qos.COMMAND)
        self._clients: dict = {}
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    # Processes

    def start(self, name: str, **parameters: object) -> NodeProcess:
        """Start ``simulation`` or ``controller``, or start it again."""
        remaps = [f"__ns:=/{self.namespace}", *self._remaps] if self.namespace else []
        process = NodeProcess(
            f"openvla_ros.nodes.{name}_node", {"robot": self.robot, **CLOCK[name], **parameters}, remaps
        )
        self.processes[name] = self._stack.enter_context(process)
        self.parameters[name] = parameters
        return process

    def stop_controller(self) -> int:
        """End the controller, listening all the while, and return its exit code once DDS knows it is gone.

        Only then can what is heard, and who is counted, be the next one's.
        """
        controller = self.processes["controller"]
        if controller.process.poll() is None:
            controller.process.send_signal(signal.SIGTERM)
        spin_until, process = self.listener.spin_until, controller.process
        assert spin_until(lambda: process.poll() is not None, ANSWER_S), controller.output
        code = controller.stop()
        assert spin_until(self._controller_is_gone, ANSWER_S), "the controller's topics are still there"
        self.wait(0.1)  # what it said last
        return code

    def _controller_is_gone(self) -> bool:
        return not (
            any(publisher.get_subscription_count() for publisher in (*self._chunks.values(), self._e_stop))
            or any(client.service_is_ready() for client in self._clients.values())
            or any(self.listener.node.count_publishers(topic) for topic in CONTROLLER_TOPICS)
        )

    def restart_controller(self, **parameters: object) -> None:
        """Start the controller anew, with other parameters."""
        self.stop_controller()
        self.start("controller", **parameters)
        self.wait_for_controller()

    def start_robot(self, **controller: object) -> None:
        """Start both, and wait until the controller speaks and hears."""
        self.start("simulation")
        self.start("controller", **controller)
        self.wait_for_controller()

    def wait_for_controller(self) -> None:
        """Wait for a controller that reports poses and that this node's chunks reach."""
        self.verdict_messages.clear()
        self.poses.clear()
        ready = self.listener.spin_until(
            lambda: (
                bool(self.verdict_messages and self.poses)
                and all(p.get_subscription_count() for p in self._chunks.values())
            ),
            START_S,
        )
        logs = "".join(f"--- {n}\n{p.output[-2000:]}" for n, p in self.processes.items())
        assert ready, f"no controller:\n{logs}"
        # A simulation that has just started pauses once, when it draws its first image.
        assert self.listener.spin_until(self._states_flow, START_S), f"no steady joint states:\n{logs}"

    def _states_flow(self) -> bool:
        stamps = self.motion(self.now_ns - 1_000_000_000)[0]
        return len(stamps) > 30 and float(np.diff(stamps).max()) < self.profile.state.max_age_s

    # What is seen

    @property
    def now_ns(self) -> int:
        return self.listener.node.get_clock().now().nanoseconds

    @property
    def seen_ns(self) -> int:
        """The stamp of the newest joint state: what is older has been heard."""
        return from_stamp(self.states[-1].header.stamp) if self.states else 0

    @property
    def tool(self):
        """The newest measured pose of the tool."""
        return from_pose(self.poses[-1])

    @property
    def reports(self) -> list[VerdictReport]:
        return [from_verdict_message(message) for message in self.verdict_messages]

    def motion(self, since_ns: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return stamps (N,) in s, positions (N, J) and velocities (N, J) of the arm since then."""
        states = [m for m in self.states if from_stamp(m.header.stamp) >= since_ns]
        names = list(self.profile.arm.joints)
        index = [states[0].name.index(name) for name in names] if states else []
        stamps = np.array([from_stamp(m.header.stamp) * 1e-9 for m in states])
        positions = np.array([[m.position[i] for i in index] for m in states])
        return stamps, positions, np.array([[m.velocity[i] for i in index] for m in states])

    def check_commands(self, at_least: int = 0) -> None:
        """Check velocity and acceleration between commands that follow each other, none lost between."""
        limits, rate_hz = self.profile.limits, self.profile.control.rate_hz
        # A message may begin with points that are due already: each point has its own time.
        first = np.array([m.points[0].positions for m in self.commands])
        stamps = np.array(
            [
                from_stamp(m.header.stamp) + from_duration(m.points[0].time_from_start) * 1e9
                for m in self.commands
            ]
        )
        spans = np.diff(stamps) * 1e-9
        together = np.abs(spans * rate_hz - 1.0) < 0.2
        assert together.sum() >= at_least
        velocity = np.diff(first, axis=0) / np.where(together, spans, np.inf)[:, None]
        assert np.all(np.abs(velocity[together]) <= np.array(limits.joint_velocity) * (1 + 1e-6))
        # Divided differences: means of the derivative, however long each period is.
        both = together[1:] & together[:-1]
        acceleration = np.diff(velocity, axis=0)[both] / (0.5 * (spans[1:] + spans[:-1]))[both, None]
        share = np.abs(acceleration) / np.array(limits.joint_acceleration)
        worst = int(np.argmax(share.max(axis=1))) if len(share) else 0
        at = int(np.flatnonzero(both)[worst]) if len(share) else 0
        around = slice(max(0, at - 3), at + 6)
        assert np.all(share <= 1 + 1e-6), (share[worst], at, len(stamps), spans[around], velocity[around])

    def wait(self, seconds: float) -> None:
        """Let time pass, as the robot's clock counts it, until the robot's states of that time are here."""
        # One of the two may lag behind where nobody listened for a while.
        end_ns = max(self.now_ns, self.seen_ns) + round(seconds * 1e9)
        arrived = self.listener.spin_until(
            lambda: min(self.now_ns, self.seen_ns) >= end_ns, 30 + 20 * seconds
        )
        assert arrived, f"the clock stands at {self.now_ns * 1e-9} s, the states at {self.seen_ns * 1e-9} s"

    def wait_for_target(self, pose: Pose, timeout_s: float = ANSWER_S) -> None:
        """Spin until the step that leads to ``pose`` has begun."""
        reached = self.listener.spin_until(
            lambda: self.targets and np.allclose(from_pose(self.targets[-1]).matrix, pose.matrix, atol=1e-3),
            timeout_s,
        )
        assert reached, f"the target is {from_pose(self.targets[-1])} instead of {pose}"

    def is_moving(self) -> bool:
        return float(np.abs(self.motion(self.seen_ns - 200_000_000)[2]).max(initial=0.0)) > 5 * STILL_RAD_S

    def seconds_to_rest(self, since_ns: int, limit_s: float) -> float:
        """Spin until the arm has stood still for a while; return when it began to, after ``since_ns``."""
        over = False  # the time may be over before the first look: the states of then are looked at still
        while not over:
            over = (self.now_ns - since_ns) * 1e-9 >= limit_s + 2 * STILL_S
            self.wait(0.1)
            stamps, _, velocities = self.motion(since_ns)
            if not len(stamps):
                continue
            assert np.diff(stamps, prepend=since_ns * 1e-9).max() < STILL_S, "joint states were lost"
            moving = np.flatnonzero(np.abs(velocities).max(axis=1) > STILL_RAD_S)
            rest_s = stamps[moving[-1]] if len(moving) else since_ns * 1e-9
            if stamps[-1] - rest_s > STILL_S:
                return rest_s - since_ns * 1e-9
        raise AssertionError(f"the arm does not come to rest within {limit_s} s")

    # What is done

    def send(self, actions, source: str = "policy", age_s: float = 0.0, **changes) -> None:
        """Publish one chunk of ``actions`` (T, D) computed from an observation ``age_s`` ago."""
        values = np.atleast_2d(np.array(actions, dtype=float))
        step_s = changes.get("step_s", self.space.step_s)
        message = to_joint_trajectory(
            changes.get("names", self.space.names),
            values,
            [(i + 1) * step_s for i in range(len(values))],
            self.now_ns - round(age_s * 1e9),
            changes.get("frame", self.profile.action_frame_id()),
        )
        self.publish_chunk(message, source)

    def publish_chunk(self, message: JointTrajectory, source: str = "policy") -> None:
        """Publish a message as it is where the chunks of ``source`` come from."""
        self._chunks[source].publish(message)

    def begin(self) -> None:
        """Send chunks that keep the arm where it is until it is commanded.

        Simulated time waits for the controller from then on; before, a busy one's may be far behind.
        """
        self.commands.clear()
        stay = np.zeros(self.space.width)
        stay[-1] = self.space.gripper_open

        def keep_still() -> None:
            self.wait(self.space.step_s)
            self.send(stay)

        wait_until(lambda: self.commands, START_S, keep_still, lambda: f"a command: {self.reports[-3:]}")

    def drive(self, action, seconds: float, source: str = "policy") -> None:
        """Publish the same action at the action rate for ``seconds``."""
        for _ in range(round(seconds * self.space.rate_hz)):
            self.send(action, source)
            self.wait(self.space.step_s)

    def call(self, name: str) -> Trigger.Response:
        """Call ``controller/<name>`` and return the answer."""
        client = self._clients.setdefault(
            name, self.listener.node.create_client(Trigger, f"controller/{name}")
        )
        assert self.listener.spin_until(client.service_is_ready, ANSWER_S), f"no service controller/{name}"
        future = client.call_async(Trigger.Request())
        assert self.listener.spin_until(future.done, ANSWER_S), f"controller/{name} does not answer"
        return future.result()

    def say_e_stop(self, value: bool) -> None:
        """Publish on the topic ``e_stop``."""
        assert self.listener.spin_until(lambda: self._e_stop.get_subscription_count() > 0, ANSWER_S)
        self._e_stop.publish(Bool(data=value))

    def expect(self, reason: Reason, kind: str | None = None, timeout_s: float = ANSWER_S) -> VerdictReport:
        """Return the first verdict with that reason from now on (and of that kind)."""
        self.verdict_messages.clear()
        found: list[VerdictReport] = []

        def came() -> bool:
            found[:] = [
                r for r in self.reports if r.verdict.reason is reason and (kind is None or r.kind == kind)
            ]
            return bool(found)

        assert self.listener.spin_until(came, timeout_s), f"no {reason}; the last were {self.reports[-3:]}"
        return found[0]

    def wait_for(self, timeout_s: float = ANSWER_S, **values: object) -> VerdictReport:
        """Spin until the verdict in force has these values (``state``, ``owner``, ``settled``)."""
        self.wait(0.1)  # what is on its way may be from before
        self.verdict_messages.clear()

        def holds() -> bool:
            states = [r for r in self.reports if r.kind == "state"]
            return bool(states) and all(getattr(states[-1], k) == v for k, v in values.items())

        assert self.listener.spin_until(holds, timeout_s), f"{values}: {self.reports[-3:]}"
        return [r for r in self.reports if r.kind == "state"][-1]
