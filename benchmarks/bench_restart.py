"""How long a killed camera is missing: from SIGKILL to the first image that a policy would see.

The camera runs under the package's own supervisor, as in ``openvla up``. The clock stops at the first image
with a stamp after the kill, received by a subscription with the policy's quality of service. Each kill meets
a camera that has run long enough for its earlier ones to be forgotten: one that keeps exiting is started
again with growing delays.

    python benchmarks/bench_restart.py --kills 10
    python benchmarks/bench_restart.py --source images --kills 10
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import tempfile
import time
from pathlib import Path

from openvla_ros.bringup.supervisor import SETTLED_S, Supervisor

START_S = 60.0
# The longest that a camera may be missing, on a machine with nothing else to do.
LIMIT_S = 3.0


def graph_of(source: str, folder: Path):
    """Return the processes: the simulation and its camera, or the camera node playing a folder."""
    import numpy as np
    from PIL import Image

    from openvla_ros.bringup.graph import GraphOptions, build_graph

    if source == "images":
        for i in range(5):
            Image.fromarray(np.full((224, 224, 3), 40 * i, np.uint8)).save(folder / f"{i}.png")
        played = {"source": "images", "path": str(folder), "loop": True}
        options = GraphOptions(robot="sim_widowx", camera_parameters=played)
    else:
        options = GraphOptions(robot="sim_widowx")
    return build_graph(options, os.environ)


def measure(source: str, kills: int, running_s: float = SETTLED_S) -> list[float]:
    """Return how many seconds were without an image after each of ``kills`` kills at random moments.

    The camera runs for ``running_s`` and up to a second more before each.
    """
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from sensor_msgs.msg import Image as ImageMessage

    from openvla_ros.bringup.graph import Graph, NodeSpec
    from openvla_ros.ros import qos
    from openvla_ros.ros.messages import from_stamp

    with tempfile.TemporaryDirectory() as name:
        whole = graph_of(source, Path(name))
        os.environ.update(whole.environment)
        camera = whole.node("camera_primary")
        nodes = (whole.node("simulation"), camera)
        if source == "images":
            nodes = (NodeSpec(camera.name, "camera_node", camera.parameters, on_exit=camera.on_exit),)
        supervisor = Supervisor(Graph(whole.namespace, nodes, whole.environment), lambda name, line: None)
        rclpy.init()
        node = rclpy.create_node("watches")
        stamps: list[int] = []
        node.create_subscription(
            ImageMessage,
            "camera/primary/image_raw",
            lambda message: stamps.append(from_stamp(message.header.stamp)),
            qos.NEWEST_IN,
        )
        executor = SingleThreadedExecutor()
        executor.add_node(node)

        def image_since(stamp_ns: int) -> float:
            began = time.monotonic()
            while not stamps or stamps[-1] <= stamp_ns:
                if time.monotonic() - began > START_S:
                    raise SystemExit(f"no image within {START_S:.0f} s")
                executor.spin_once(timeout_sec=0.01)
                supervisor.forward(0.0)
                supervisor.check()
            return time.monotonic() - began

        supervisor.start()
        try:
            image_since(0)
            times, chance = [], random.Random(source)
            for _ in range(kills):
                until = time.monotonic() + running_s + chance.uniform(0.0, 1.0)
                while time.monotonic() < until:
                    executor.spin_once(timeout_sec=0.02)
                    supervisor.forward(0.0)
                killed_ns = time.time_ns()
                os.kill(supervisor.pid("camera_primary"), signal.SIGKILL)
                times.append(image_since(killed_ns))
            return times
        finally:
            supervisor.stop()
            executor.shutdown()
            node.destroy_node()
            rclpy.try_shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", choices=("simulated", "images"), default="simulated")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="two kills")
    arguments = parser.parse_args()
    times = measure(arguments.source, 2 if arguments.quick else arguments.kills)
    worst = max(times)
    print(f"camera {arguments.source}, {len(times)} kills: seconds from SIGKILL to the next image")
    print(f"median {statistics.median(times):.2f}, max {worst:.2f}, load {os.getloadavg()[0]:.1f}")
    result = {
        "benchmark": "restart",
        "source": arguments.source,
        "seconds": [round(time_s, 3) for time_s in times],
        "of_limit": round(worst / LIMIT_S, 3),
        "pass": worst <= LIMIT_S,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
