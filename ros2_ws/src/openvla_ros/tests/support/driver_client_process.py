"""The controller's side of a back end alone: makes adapters and sends through them as told on stdin."""

import dataclasses
import json
import queue
import sys
import threading
import time

import numpy as np
import rclpy

from openvla_ros.driver_profile import ArmBackend, GripperBackend
from openvla_ros.drivers.factory import make_arm_driver, make_gripper_driver, make_recovery
from openvla_ros.drivers.protocol import ArmCommand, GripperCommand
from openvla_ros.errors import OpenVLARosError
from openvla_ros.profile import load_profile
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.motion.motion_limiter import JointMotion

PERIOD_S = 0.01
WAIT_S = 60.0  # wall seconds that a busy machine may take to discover and to answer


def say(**event) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def _is(missing: str | None, problem: str | None) -> bool:
    return missing is None if problem is None else missing is not None and problem in missing


class Driver:
    def __init__(self, node) -> None:
        self.node, self.adapter = node, None

    def make(self, robot, part, backend=None) -> None:
        profile = load_profile(robot)
        self.chain = KinematicChain.from_profile(profile.arm)
        if part == "arm":
            profile = dataclasses.replace(profile, arm_backend=ArmBackend(**backend))
            self.adapter = make_arm_driver(self.node, profile)
        elif part == "gripper":
            profile = dataclasses.replace(profile, gripper_backend=GripperBackend(**backend))
            self.adapter = make_gripper_driver(self.node, profile)
        else:
            self.adapter = make_recovery(self.node, profile)
        say(made=type(self.adapter).__name__)

    def connect(self, problem=None) -> None:
        """Connect until nothing is missing, or until what is missing contains ``problem``."""
        deadline = time.monotonic() + WAIT_S
        while not _is(missing := self.adapter.connect(), problem) and time.monotonic() < deadline:
            self.spin(0.1)
        say(missing=missing)

    def insist(self, opening, seconds) -> None:
        """Command ``opening`` as the controller does: 50 times a second, connecting once a second."""
        for _ in range(int(seconds)):
            self.adapter.connect()
            for _ in range(50):
                self.adapter.send(GripperCommand(self.node.get_clock().now().nanoseconds, opening, None))
                self.spin(0.02)
        say(insisted=opening)

    def keep_connecting(self, seconds) -> None:
        for _ in range(int(seconds)):
            self.adapter.connect()
            self.spin(1.0)
        say(kept=seconds)

    def deliver(self, timeout_s) -> None:
        """Wait for what was sent to the arm to be acknowledged."""
        say(delivered=self.adapter.delivered(timeout_s))

    def arm(self, q, v=None, a=None, off=0.0, count=1) -> None:
        """Send the same motion ``count`` times; the measured joints are ``off`` rad from it."""
        q = np.array(q)
        motion = JointMotion(q, np.array(v or 0 * q), np.array(a or 0 * q))
        pose = self.chain.forward(q)
        for _ in range(count):
            now = self.node.get_clock().now().nanoseconds
            self.adapter.send(ArmCommand(now, PERIOD_S, motion, pose, q - off))
            self.spin(PERIOD_S)
        say(sent=count, pose=[*pose.position.tolist(), *pose.quaternion.tolist()])

    def gripper(self, opening, measured=None, count=1) -> None:
        for _ in range(count):
            now = self.node.get_clock().now().nanoseconds
            self.adapter.send(GripperCommand(now, opening, measured))
            self.spin(PERIOD_S)

    def recover(self) -> None:
        deadline = time.monotonic() + WAIT_S
        while (problem := self.adapter.recover()) is not None and time.monotonic() < deadline:
            self.spin(0.1)
        say(problem=problem)

    def keep_recovering(self, seconds) -> None:
        """Request recovery every second, as a person would who sees no effect."""
        for _ in range(int(seconds)):
            self.adapter.recover()
            self.spin(1.0)
        say(kept=seconds)

    def await_recovery_problem(self, seconds) -> None:
        deadline = time.monotonic() + seconds
        while self.adapter.problem is None and time.monotonic() < deadline:
            self.spin(0.1)
        say(recovery=self.adapter.problem)

    def spin(self, seconds) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            rclpy.spin_once(self.node, timeout_sec=left)


def main() -> None:
    rclpy.init()
    node = rclpy.create_node("driver")
    driver = Driver(node)
    requests: queue.Queue = queue.Queue()
    threading.Thread(target=lambda: [requests.put(line) for line in sys.stdin], daemon=True).start()
    say(ready=True)
    while True:
        driver.spin(0.02)
        if requests.empty():
            continue
        request = json.loads(requests.get())
        name = request.pop("do")
        if name == "quit":
            break
        try:
            getattr(driver, name)(**request)
        except OpenVLARosError as error:
            say(error=str(error), kind=type(error).__name__)
    node.destroy_node()
    rclpy.shutdown()


if __name__ == "__main__":
    main()
