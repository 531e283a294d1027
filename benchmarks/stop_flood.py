"""The processes of ``bench_stop``: a stand-in driver, and the load on the controller.

Each is a separate process that runs until ``over`` is set; it floods while ``flooding`` is set.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rclpy.node import Node

FLOOD_HZ = 1000.0
BIG_NAMES, BIG_EVERY = 10_000, 500  # every n-th chunk has this many names


@dataclass(frozen=True)
class Switches:
    """The switches shared by the processes of one session."""

    flooding: Event
    over: Event

    @classmethod
    def make(cls) -> Switches:
        """Return switches, both off, that fresh interpreters can share."""
        context = multiprocessing.get_context("spawn")
        return cls(context.Event(), context.Event())

    def end(self, processes: list[multiprocessing.Process]) -> None:
        """End the processes and wait for them."""
        self.over.set()
        self.flooding.set()
        for process in processes:
            process.join(timeout=10.0)
            process.kill()


def start(target: Callable[..., None], *arguments: object) -> multiprocessing.Process:
    """Run ``target`` in a fresh interpreter."""
    process = multiprocessing.get_context("spawn").Process(target=target, args=arguments, daemon=True)
    process.start()  # type: ignore[attr-defined]
    return process  # type: ignore[return-value]


def burn(switches: Switches) -> None:
    while not switches.over.is_set():
        sum(i * i for i in range(20_000))


def bare_service(switches: Switches) -> None:
    """A service in an otherwise idle process: what the middleware and the machine allow."""
    import rclpy
    from std_srvs.srv import Trigger

    rclpy.init()
    node = rclpy.create_node("bare")

    def answer(_request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return response

    node.create_service(Trigger, "bare", answer)
    while not switches.over.is_set():
        rclpy.spin_once(node, timeout_sec=0.1)
    node.destroy_node()
    rclpy.shutdown()


def drive(switches: Switches, robot: str) -> None:
    """An arm that follows perfectly: 100 joint states a second, 1000 in a flood."""
    import rclpy
    from rclpy.qos import QoSProfile
    from sensor_msgs.msg import JointState
    from trajectory_msgs.msg import JointTrajectory

    from openvla_ros.profile import load_profile

    profile = load_profile(robot)
    names, at = [*profile.arm.joints, profile.gripper.joint], list(profile.arm.neutral)
    rclpy.init()
    node = rclpy.create_node("driver")

    def follow(message: JointTrajectory) -> None:
        at[:] = list(message.points[0].positions)

    node.create_subscription(JointTrajectory, profile.arm_backend.topic, follow, 10)
    node.create_subscription(JointTrajectory, profile.gripper_backend.topic, lambda _: None, 10)
    states = node.create_publisher(JointState, "joint_states", QoSProfile(depth=10))

    def publish() -> None:
        message = JointState(name=names, position=[*at, 0.03], velocity=[0.0] * len(names))
        message.header.stamp = node.get_clock().now().to_msg()
        states.publish(message)

    def ordinary() -> bool:
        rclpy.spin_once(node, timeout_sec=0)
        return True

    paced(switches, publish, ordinary, idle_hz=100.0)
    node.destroy_node()
    rclpy.shutdown()


def paced(
    switches: Switches, publish: Callable[[], None], serve: Callable[[], bool], idle_hz: float = 0.0
) -> None:
    """Call ``publish`` at the flood's rate, or at ``idle_hz`` outside it; call ``serve`` in between."""
    due = time.monotonic()
    while not switches.over.is_set():
        serve()
        hz = FLOOD_HZ if switches.flooding.is_set() else idle_hz
        if hz == 0.0:
            switches.flooding.wait(0.05)
            due = time.monotonic()
            continue
        due = max(due + 1.0 / hz, time.monotonic() - 0.05)
        time.sleep(max(0.0, due - time.monotonic()))
        publish()


def flood_chunks(switches: Switches, robot: str) -> None:
    """Chunks from the policy and from teleoperation; now and then one with thousands of names."""
    import numpy as np
    import rclpy
    from trajectory_msgs.msg import JointTrajectory

    from openvla_ros.profile import load_profile
    from openvla_ros.ros.messages import to_joint_trajectory

    profile = load_profile(robot)
    space = profile.space()
    rclpy.init()
    node = rclpy.create_node("flood_of_chunks")
    publishers = [
        node.create_publisher(JointTrajectory, f"{folder}/action_chunk", 10)
        for folder in ("policy", "teleop")
    ]
    steps = np.tile([0.001, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0], (8, 1))
    times = [(i + 1) * space.step_s for i in range(8)]
    ordinary = to_joint_trajectory(space.names, steps, times, 0, profile.action_frame_id())
    names = [f"name_{i}" for i in range(BIG_NAMES)]
    big = to_joint_trajectory(names, np.zeros((1, BIG_NAMES)), times[:1], 0, profile.action_frame_id())
    count = 0

    def publish() -> None:
        nonlocal count
        count += 1
        message = big if count % BIG_EVERY == 0 else ordinary
        message.header.stamp = node.get_clock().now().to_msg()
        publishers[count % 2].publish(message)

    paced(switches, publish, lambda: True)
    node.destroy_node()
    rclpy.shutdown()


def flood_wrenches(switches: Switches, topic: str) -> None:
    """Messages of a force sensor."""
    import rclpy
    from geometry_msgs.msg import WrenchStamped

    rclpy.init()
    node = rclpy.create_node("flood_of_wrenches")
    publisher = node.create_publisher(WrenchStamped, topic, 10)

    def publish() -> None:
        message = WrenchStamped()
        message.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(message)

    paced(switches, publish, lambda: True, idle_hz=100.0)
    node.destroy_node()
    rclpy.shutdown()


def flood_parameters(switches: Switches) -> None:
    """A client that requests parameters all the time."""
    import rclpy
    from rcl_interfaces.srv import GetParameters

    rclpy.init()
    node: Node = rclpy.create_node("flood_of_parameter_requests")
    client = node.create_client(GetParameters, "controller/get_parameters")
    request = GetParameters.Request(names=["robot", "mode", "use_sim_time"])

    def publish() -> None:
        with client.handle:
            client.handle.send_request(request)
            while client.handle.take_response(GetParameters.Response)[0] is not None:
                pass

    paced(switches, publish, lambda: True)
    node.destroy_node()
    rclpy.shutdown()


def start_all(switches: Switches, robot: str, wrench_topic: str) -> list[multiprocessing.Process]:
    """Start the driver, the floods, the bare service, and one busy process per core."""
    return [
        start(drive, switches, robot),
        start(flood_chunks, switches, robot),
        start(flood_wrenches, switches, wrench_topic),
        start(flood_parameters, switches),
        start(bare_service, switches),
        *(start(burn, switches) for _ in range(os.cpu_count() or 1)),
    ]
