"""The controller's side of a back end alone: makes adapters and sends through them as told on stdin."""

import dataclasses
import json
import queue
import sys
import threading
import time

import numpy as np
import rclpy

from openvla_ros.errors import OpenVLARosError
from openvla_ros.geometry import Pose
from openvla_ros.nodes.backends.choice import make_arm, make_gripper, make_recovery
from openvla_ros.nodes.backends.command import ArmCommand, GripperCommand
from openvla_ros.profile import ArmBackend, GripperBackend, load_profile

PERIOD_S = 0.01


def say(**event) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


class Driver:
    def __init__(self, node) -> None:
        self.node, self.adapter = node, None

    def make(self, robot, part, backend=None) -> None:
        profile = load_profile(robot)
        if part == "arm":
            profile = dataclasses.replace(profile, arm_backend=ArmBackend(**backend))
            self.adapter = make_arm(self.node, profile)
        elif part == "gripper":
            profile = dataclasses.replace(profile, gripper_backend=GripperBackend(**backend))
            self.adapter = make_gripper(self.node, profile)
        else:
            self.adapter = make_recovery(self.node, profile)
        say(made=type(self.adapter).__name__)

    def connect(self, timeout_s=15.0) -> None:
        deadline = time.monotonic() + timeout_s
        while (missing := self.adapter.connect()) is not None and time.monotonic() < deadline:
            self.spin(0.1)
        say(missing=missing)

    def arm(self, count=1, active=True, **state) -> None:
        twist = np.array(state.get("twist", np.zeros(6)))
        pose = Pose.from_euler(state.get("position", [0.3, 0.0, 0.2]), [0.0, 1.0, 0.0])
        measured = Pose.from_euler(
            state.get("measured", state.get("position", [0.3, 0.0, 0.2])), [0.0, 1.0, 0.0]
        )
        for _ in range(count):
            q = np.array(state["q"])
            command = ArmCommand(
                stamp_ns=self.node.get_clock().now().nanoseconds, period_s=PERIOD_S, positions=q,
                velocities=np.array(state.get("v", 0 * q)), accelerations=np.array(state.get("a", 0 * q)),
                pose=pose, twist=twist, measured_pose=measured, active=active,
            )  # fmt: skip
            self.adapter.send(command)
            self.spin(PERIOD_S)

    def gripper(self, opening, measured=None, count=1) -> None:
        for _ in range(count):
            now = self.node.get_clock().now().nanoseconds
            self.adapter.send(GripperCommand(now, opening, measured))
            self.spin(PERIOD_S)

    def recover(self) -> None:
        deadline = time.monotonic() + 15
        while (problem := self.adapter.recover()) is not None and time.monotonic() < deadline:
            self.spin(0.1)
        say(problem=problem)

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
