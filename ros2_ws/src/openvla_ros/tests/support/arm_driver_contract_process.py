"""Puts arm drivers through their contract, one for each JSON line on stdin, in a process of its own."""

import dataclasses
import json
import sys
import time

import numpy as np
import rclpy

from openvla_ros.conformance import check_arm_driver
from openvla_ros.driver_profile import ArmBackend
from openvla_ros.drivers.factory import make_arm_driver
from openvla_ros.drivers.protocol import ArmCommand
from openvla_ros.errors import OpenVLARosError
from openvla_ros.profile import load_profile
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.motion.motion_limiter import JointMotion

PERIOD_S = 0.01


def at_rest(profile, now_ns: int, count: int = 20) -> list[ArmCommand]:
    """The arm where it is, ``count`` times."""
    q = np.array(profile.arm.home)
    pose = KinematicChain.from_profile(profile.arm).forward(q)
    step_ns = round(PERIOD_S * 1e9)
    return [
        ArmCommand(now_ns + i * step_ns, PERIOD_S, JointMotion.at_rest(q), pose, q - 0.01)
        for i in range(count)
    ]


def check(node, robot: str, timeout_s: float = 60.0, **backend) -> None:
    def wait(seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            rclpy.spin_once(node, timeout_sec=left)

    profile = dataclasses.replace(load_profile(robot), arm_backend=ArmBackend(**backend))
    error = None
    try:
        commands = at_rest(profile, node.get_clock().now().nanoseconds)
        check_arm_driver(make_arm_driver(node, profile), commands, wait=wait, timeout_s=timeout_s)
    except OpenVLARosError as broken:
        error = f"{broken}"
    sys.stdout.write(json.dumps({"checked": backend["kind"], "error": error}) + "\n")
    sys.stdout.flush()


def main() -> None:
    rclpy.init()
    node = rclpy.create_node("drivers")
    for line in sys.stdin:
        request = json.loads(line)
        if "quit" in request:
            break
        check(node, **request)
    node.destroy_node()
    rclpy.shutdown()


if __name__ == "__main__":
    main()
