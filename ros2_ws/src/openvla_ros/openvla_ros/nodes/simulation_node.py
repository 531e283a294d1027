"""The simulated robot as a ROS 2 node: the topics of a robot under ros2_control with its cameras.

Publishes ``joint_states``, ``/tf``, ``/tf_static``, ``camera/<name>/image_raw`` and ``camera_info``; follows
``arm_controller/joint_trajectory`` and ``gripper_controller/joint_trajectory``. Beyond what a robot
has, it publishes the ground truth (``simulation/scene``) and whether the task is done
(``task/success``), judged by the newest instruction. ``simulation/reset`` sets the table again and
answers with the new instruction; arm and gripper stay where they are, as on a real robot.

One thread runs the physics, draws and publishes; the executor only takes commands.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
from std_msgs.msg import String
from std_srvs.srv import Trigger

from openvla_ros.errors import FatalNodeError, InvalidValueError
from openvla_ros.nodes.simulated_camera_node import simulated_profile
from openvla_ros.nodes.simulation.arm_software import Surroundings, arm_software
from openvla_ros.nodes.simulation.simulation_time import SimulationTime
from openvla_ros.nodes.simulation.simulation_topics import DueTimes, SimulationTopics
from openvla_ros.robot.motion.joint_path import Waypoint
from openvla_ros.robot.motion.joint_trajectory_controller import RELEASES, Release
from openvla_ros.ros import process, qos
from openvla_ros.ros.diagnostics import DiagnosticsPublisher
from openvla_ros.ros.guard import GuardedNode
from openvla_ros.ros.messages import (
    LARGEST_INSTRUCTION_BYTES,
)
from openvla_ros.ros.parameters import declare, parameter, watch
from openvla_ros.sim.real_time_clock import LockStep, RealTimePacer
from openvla_ros.sim.tasks import find_task
from openvla_ros.sim.video import Caption, VideoWriter
from openvla_ros.sim.world import OVERVIEW_SIZE, SimulatedRobot
from openvla_ros.values.goal import parse_goal
from openvla_ros.values.health import Health, LatencyHealth, ReasonCounter

VIDEO_RATE_HZ = 20.0
# Ticks that simulated time may be ahead of the arm's commands in lock step: a lost clock or two.
LOCK_STEP_TICKS = 3
LARGEST_TRAJECTORY_BYTES = 256 << 10  # a planner's: 1500 points of 7 joints
SLOW = 0.95  # share of the wanted speed below which the simulation warns


@dataclass(frozen=True)
class SimulationParameters:
    """What an operator sets; the robot itself comes from its profile."""

    robot: str = parameter("sim_widowx", "robot profile: a name or a YAML file", read_only=True)
    task: str = parameter("", "task from the next reset on; empty: the profile's")
    seed: int = parameter(
        -1, "seed of the next reset, incremented by each; -1: the profile's", low=-1, high=2**31 - 1
    )
    real_time_factor: float = parameter(
        1.0, "simulated seconds per second of wall time", low=0.01, high=100.0
    )
    publish_clock: bool = parameter(
        False, "publish /clock, for nodes with use_sim_time; stamps are simulated time", read_only=True
    )
    lock_step: bool = parameter(
        False, "let the published clock wait for the arm's commands, once there are any", read_only=True
    )
    trajectory_controller: str = parameter(
        "kilted",
        "ROS release whose joint trajectory controller is simulated",
        read_only=True,
        choices=RELEASES,
    )
    interpolate_from_desired_state: bool = parameter(
        False, "its parameter of that name: new trajectories start at the last command", read_only=True
    )
    draw_cameras: bool = parameter(
        True, "draw the cameras here; off where simulated_camera_node does", read_only=True
    )
    record_video: str = parameter("", "MP4 file to write; empty: none", read_only=True)
    video_camera: str = parameter("overview", "camera of the video", read_only=True)


class SimulationNode(GuardedNode):
    """Runs one simulated robot in real time, or at a multiple of it."""

    def __init__(self) -> None:
        super().__init__("simulation")
        self._settings = declare(self, SimulationParameters)
        self._profile = simulated_profile(self._settings.robot)
        self._lock_step = self._make_lock_step()
        self._next_seed = self._first_seed()
        self._robot = SimulatedRobot(self._profile, find_task(self._task_name()), self._take_seed())
        watch(self, SimulationParameters, self._settings_changed)
        self._retired: list[SimulatedRobot] = []  # to be closed by the thread that drew with them
        self._refusals = ReasonCounter("commands")
        self._tick_times = LatencyHealth("physics tick", 1.0 / self._profile.state.rate_hz)
        self._pacer = RealTimePacer()
        self._period_s = 1.0 / self._profile.state.rate_hz  # simulated, of one tick
        self._time = SimulationTime(self, self._period_s, self._settings.publish_clock)
        self._reported = (0.0, time.monotonic())
        self._caption = Caption(self._robot.instruction)
        self._guard = threading.Lock()  # over all of the above
        cameras = self._profile.cameras if self._settings.draw_cameras else ()
        self._topics = SimulationTopics(self, self._profile, cameras)
        around = Surroundings(self, self._profile, self._time, self._guard, self._arm_commanded, self._refuse)
        self._software = arm_software(
            around,
            self._robot.joint_positions,
            cast("Release", self._settings.trajectory_controller),
            self._settings.interpolate_from_desired_state,
        )
        self._create_subscriptions()
        self._diagnostics = DiagnosticsPublisher(self, self._collect_health)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="physics")
        self._thread.start()
        self._announce()

    def stop(self) -> None:
        """End the physics; the image of the arm stays where it is."""
        self._stopping.set()
        self._thread.join()

    # -- set-up

    def _create_subscriptions(self) -> None:
        # What is asked for by topic, what is demonstrated, and what the policy was told through its action.
        for topic in ("instruction", "recorder/instruction", "policy/instruction"):
            self.create_subscription(
                String, topic, self._instruct, qos.LATCHED, largest_bytes=LARGEST_INSTRUCTION_BYTES
            )
        self.create_service(Trigger, "simulation/reset", self._reset)

    def _make_lock_step(self) -> LockStep | None:
        if not self._settings.lock_step:
            return None
        if not self._settings.publish_clock:
            raise InvalidValueError("lock_step holds the published clock back; it needs publish_clock")
        return LockStep(LOCK_STEP_TICKS / self._profile.state.rate_hz)

    def _first_seed(self) -> int:
        assert self._profile.simulation is not None
        return self._settings.seed if self._settings.seed >= 0 else self._profile.simulation.seed

    def _task_name(self) -> str:
        assert self._profile.simulation is not None
        return self._settings.task or self._profile.simulation.task

    def _take_seed(self) -> int:
        seed = self._next_seed
        self._next_seed += 1
        return seed

    def _announce(self) -> None:
        self.get_logger().info(
            f"{self._profile.name}, task {self._robot.task.name!r}, seed {self._robot.layout.seed}: "
            f"{self._robot.instruction}"
        )

    # -- what comes in, on the executor's thread

    def _arm_commanded(self) -> None:
        if self._lock_step is not None:
            self._lock_step.commanded(self._time.elapsed_s)

    def _refuse(self, why: str) -> None:
        with self._guard:
            self._refusals.add("refused", why)

    def _instruct(self, message: String) -> None:
        if not message.data.strip():
            return
        with self._guard:
            words = " ".join(message.data.split())
            try:
                self._robot.pursue(parse_goal(words))
                self._caption = Caption(words)
            except InvalidValueError as error:
                self._caption = Caption(words, understood=False)
                self._refusals.add("instruction", str(error))

    def _reset(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        with self._guard:
            seed, task = self._take_seed(), find_task(self._task_name())
            if task is self._robot.task:
                self._robot.rearrange(seed)
            else:
                self._retired.append(self._robot)
                before, self._robot = self._robot, SimulatedRobot(self._profile, task, seed)
                self._robot.reset(seed, before.joint_positions)
            self._caption = Caption(self._robot.instruction)
            response.success, response.message = True, self._robot.instruction
        self._announce()
        return response

    def _settings_changed(self, settings: SimulationParameters) -> None:
        if settings.task:
            find_task(settings.task)
        with self._guard:
            if settings.seed >= 0 and settings.seed != self._settings.seed:
                self._next_seed = settings.seed
            self._settings = settings

    # -- the physics, on its own thread

    def _run(self) -> None:
        due, video = DueTimes(), self._open_video()
        try:
            while not self._stopping.is_set():
                started = time.monotonic()
                with self._guard:
                    self._tick(due, video)
                    self._tick_times.add(time.monotonic() - started)
                    period_s = self._period_s / self._settings.real_time_factor
                self._pacer.wait(period_s)
                if self._lock_step is not None:
                    self._lock_step.wait(self._time.elapsed_s)
        finally:
            if video is not None:
                video.close()
            for robot in (*self._retired, self._robot):
                robot.close()

    def _open_video(self) -> VideoWriter | None:
        if not self._settings.record_video:
            return None
        return VideoWriter(self._settings.record_video, *OVERVIEW_SIZE, VIDEO_RATE_HZ)

    def _tick(self, due: DueTimes, video: VideoWriter | None) -> None:
        while self._retired:
            self._retired.pop().close()
        self._time.advance(self._settings.real_time_factor)
        elapsed_s = self._time.elapsed_s
        self._robot.command_joints(self._software.sample(elapsed_s, self._measured()))
        finger_m, finger_m_s, _ = self._robot.gripper_joint
        finger = Waypoint(elapsed_s, np.array([finger_m]), np.array([finger_m_s]))
        self._robot.command_gripper_joint(self._software.finger(elapsed_s, finger))
        self._robot.step(self._period_s)
        now_ns = self._time.now_ns()
        self._time.publish(now_ns)
        self._topics.publish(self._robot, elapsed_s, now_ns)
        self._software.publish(self._robot.joint_positions, self._robot.joint_velocities, now_ns)
        if video is not None:
            due.when_due("video", VIDEO_RATE_HZ, elapsed_s, partial(self._write_frame, video))

    def _measured(self) -> Waypoint:
        return Waypoint(self._time.elapsed_s, self._robot.joint_positions, self._robot.joint_velocities)

    def _write_frame(self, video: VideoWriter) -> None:
        image = self._robot.render(self._settings.video_camera, *OVERVIEW_SIZE)
        video.write(image, self._caption.text(success=self._robot.success))

    # -- diagnostics

    def _collect_health(self) -> Iterable[Health]:
        if not self._thread.is_alive():
            raise FatalNodeError("the physics thread has ended; its traceback is above")
        with self._guard:
            return [self._speed_health(), self._tick_times.health(), self._refusals.health()]

    def _speed_health(self) -> Health:
        (simulated_before, before), now = self._reported, time.monotonic()
        self._reported = (self._time.elapsed_s, now)
        factor = (self._time.elapsed_s - simulated_before) / max(now - before, 1e-6)
        wanted = self._settings.real_time_factor
        values: dict[str, Any] = {
            "real_time_factor": f"{factor:.3f}",
            "wanted_real_time_factor": f"{wanted:.3f}",
            "given_up_s": f"{self._pacer.slipped_s:.2f}",
            "task": self._robot.task.name,
            "seed": str(self._robot.layout.seed),
            "instruction": self._caption.words,
            "success": str(self._robot.success).lower(),
            "renderer": self._robot.renderer_in_use or "none yet",
        }
        slow = factor < SLOW * wanted
        return Health("speed", "warn" if slow else "ok", f"{factor:.2f} x real time", values)


def main() -> None:
    """Run the node."""
    process.main(SimulationNode)


if __name__ == "__main__":
    main()
