"""Image in, command out, between processes: this package's nodes beside openpi-client's websocket.

One process takes the place of camera and controller: it publishes images at 30 Hz and waits for the command
computed from each. The other process is the policy node with a policy that does nothing. In the same run the
same images go through openpi-client 0.1.2 (in a separate environment under ``build/``) to a server that
speaks its protocol. A third row shows ROS 2 without this package's DDS profile.

    python benchmarks/bench_transport.py [--quick] [--count 2000]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
PEER_ENVIRONMENT = HERE.parent / "build" / "openpi_client"
PEER_PACKAGES = ("openpi-client==0.1.2", "typing_extensions")
RATE_HZ = 30.0
WARM_UP = 30
GOAL_P50_MS, GOAL_P99_MS = 1.5, 5.0  # at 640x480
PORT = 18765
# Other work may run on the machine meanwhile; that affects both sides alike.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Case:
    """The images that are sent."""

    width: int
    height: int
    cameras: int = 1

    @property
    def name(self) -> str:
        """The name of the case in the table."""
        many = f"{self.cameras} x " if self.cameras > 1 else ""
        return f"{many}{self.width}x{self.height}"


CASES = (Case(224, 224), Case(640, 480), Case(1280, 720), Case(640, 480, cameras=3))

PEER_SERVER = """
import asyncio, sys
import numpy as np
import websockets.asyncio.server as ws
import websockets.exceptions
from openpi_client import msgpack_numpy

async def serve(connection):
    packer = msgpack_numpy.Packer()
    await connection.send(packer.pack({}))
    while True:
        try:
            observation = msgpack_numpy.unpackb(await connection.recv())
        except websockets.exceptions.ConnectionClosed:
            return
        for name, image in observation["images"].items():
            assert image.dtype == np.uint8 and image.ndim == 3
        await connection.send(packer.pack({"actions": np.zeros((1, 7))}))

async def main():
    async with ws.serve(serve, "127.0.0.1", int(sys.argv[1]), compression=None, max_size=None) as server:
        await server.serve_forever()

asyncio.run(main())
"""

PEER_CLIENT = """
import json, sys, time
import numpy as np
from openpi_client.websocket_client_policy import WebsocketClientPolicy

port, width, height, cameras, count, rate_hz, warm_up = (int(float(a)) for a in sys.argv[1:8])
for attempt in range(100):
    try:
        policy = WebsocketClientPolicy("127.0.0.1", port)
        break
    except OSError:
        time.sleep(0.1)
pixels = np.random.default_rng(0).integers(0, 256, (8, height, width, 3), np.uint8)
latencies, begun, cpu = [], time.perf_counter(), 0.0
for i in range(count + warm_up):
    if i == warm_up:
        latencies.clear()
        print(json.dumps("measuring"), flush=True)
    time.sleep(max(0.0, begun + i / rate_hz - time.perf_counter()))
    start = time.perf_counter()
    images = {str(c): pixels[(i + c) % 8] for c in range(cameras)}
    policy.infer({"images": images, "state": np.zeros(7), "prompt": "go"})
    latencies.append(1e3 * (time.perf_counter() - start))
print(json.dumps({"latencies": latencies, "sent": count}), flush=True)
sys.stdin.read()
"""


def robot(case: Case) -> str:
    """Return the profile of a robot with the cameras of ``case``."""
    from openvla_ros.profile import dump_profile, load_profile

    sim = load_profile("sim_widowx")
    cameras = tuple(
        replace(
            sim.cameras[0],
            name=f"camera{i}",
            topic=f"camera/camera{i}/image_raw",
            width=case.width,
            height=case.height,
            rate_hz=RATE_HZ,
            max_age_s=5.0,
        )
        for i in range(case.cameras)
    )
    return dump_profile(replace(sim, cameras=cameras, state=replace(sim.state, max_age_s=5.0)))


def ros_client(case: Case, profile_path: str, count: int) -> None:
    """Run the process of camera and controller: print latencies as JSON."""
    import threading

    import numpy as np
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from sensor_msgs.msg import JointState
    from std_msgs.msg import String
    from trajectory_msgs.msg import JointTrajectory

    from openvla_ros.bringup.dds import keep_image_memory
    from openvla_ros.profile import load_profile
    from openvla_ros.ros import qos
    from openvla_ros.ros.image_publisher import ImagePublisher
    from openvla_ros.ros.messages import from_stamp, to_stamp

    profile = load_profile(profile_path)
    keep_image_memory()  # as every node of the package does
    rclpy.init()
    node = rclpy.create_node("bench")
    sent: dict[int, float] = {}
    latencies: list[float] = []

    def receive(message: JointTrajectory) -> None:
        start = sent.pop(from_stamp(message.header.stamp), None)
        if start is not None:
            latencies.append(1e3 * (time.perf_counter() - start))

    node.create_subscription(JointTrajectory, "policy/action_chunk", receive, qos.COMMAND)
    states = node.create_publisher(JointState, "joint_states", qos.STREAM_OUT)
    images = [ImagePublisher(node, f"camera/{camera.name}/image_raw", "lens") for camera in profile.cameras]
    words = node.create_publisher(String, "instruction", qos.LATCHED)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin)
    thread.start()
    pixels = np.random.default_rng(0).integers(0, 256, (8, case.height, case.width, 3), np.uint8)
    names = [*profile.arm.joints, profile.gripper.joint]
    end = time.monotonic() + 60
    while images[0].publisher.get_subscription_count() < 1 or not node.count_publishers(
        "policy/action_chunk"
    ):
        if time.monotonic() > end:
            os._exit(1)  # the parent says so
        time.sleep(0.1)
    time.sleep(1.0)
    words.publish(String(data="go"))
    begun = time.perf_counter()
    for i in range(count + WARM_UP):
        if i == WARM_UP:
            sent.clear()
            latencies.clear()
            print(json.dumps("measuring"), flush=True)
        time.sleep(max(0.0, begun + i / RATE_HZ - time.perf_counter()))
        start = time.perf_counter()
        stamp_ns = node.get_clock().now().nanoseconds
        sent[stamp_ns] = start
        state = JointState(name=names, position=[0.0] * len(names))
        state.header.stamp = to_stamp(stamp_ns)
        states.publish(state)
        for c in reversed(range(case.cameras)):  # the policy acts when the first camera's image is there
            images[c].publish(pixels[(i + c) % 8], stamp_ns)
    time.sleep(0.5)
    print(json.dumps({"latencies": latencies, "sent": count}), flush=True)
    sys.stdin.read()  # until the parent has read the processor time, and ends this process
    os._exit(0)


def cpu_seconds(process: subprocess.Popen) -> float:
    """Return the CPU time that a process has used so far, in all its threads."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(server: list[str], client: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Run both processes and return the measurements."""
    environment = {**environment, **ONE_THREAD, "RCUTILS_LOGGING_USE_STDOUT": "0"}
    with (
        subprocess.Popen(
            server, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as policy,
        subprocess.Popen(
            client, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True,
        ) as camera,
    ):  # fmt: skip
        assert camera.stdout is not None
        try:
            if json.loads(next(camera.stdout)) != "measuring":
                raise SystemExit("the client did not start")
            began, used = time.perf_counter(), [cpu_seconds(p) for p in (policy, camera)]
            result = json.loads(next(camera.stdout))
            wall = time.perf_counter() - began
            used = [cpu_seconds(p) - u for p, u in zip((policy, camera), used, strict=True)]
        except StopIteration:
            raise SystemExit(f"the process did not answer: {' '.join(client)[:200]}") from None
        finally:
            for process in (camera, policy):
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
    ordered = sorted(result["latencies"]) or [float("inf")]  # all images were lost
    return {
        **{f"p{q}_ms": ordered[min(len(ordered) - 1, int(q / 100 * len(ordered)))] for q in (50, 95, 99)},
        "cpu_percent": 100 * sum(used) / wall,
        "dropped": result["sent"] - len(result["latencies"]),
        "sent": result["sent"],
    }


def measure_ours(case: Case, count: int, *, default_dds: bool) -> dict[str, float]:
    """Measure the policy node, with this package's DDS profile or without one."""
    from openvla_ros.bringup.dds import dds_environment
    from openvla_ros.bringup.supervisor import child_environment

    base = {**os.environ, "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    environment = child_environment(base, {} if default_dds else dds_environment(base))
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(robot(case))
        file.flush()
        parameters = [
            a for p in (f"robot:={file.name}", "policy:=hold", "rate_hz:=1000.0") for a in ("-p", p)
        ]
        server = [sys.executable, "-m", "openvla_ros.nodes.policy_node", "--ros-args", *parameters]
        client = [sys.executable, __file__, "--client", file.name, "--count", str(count), "--case", case.name]
        return measure(server, client, environment)


def measure_peer(case: Case, count: int, python: Path) -> dict[str, float]:
    """Measure openpi-client."""
    sizes = [case.width, case.height, case.cameras, count, RATE_HZ, WARM_UP]
    return measure(
        [str(python), "-c", PEER_SERVER, str(PORT)],
        [str(python), "-c", PEER_CLIENT, str(PORT), *map(str, sizes)],
        {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "LD_LIBRARY_PATH")},
    )


def peer_python() -> Path:
    """Return the Python of the peer's environment, which is created on first use."""
    python = PEER_ENVIRONMENT / "bin" / "python"
    if not (PEER_ENVIRONMENT / "ready").is_file():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(PEER_ENVIRONMENT)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *PEER_PACKAGES], check=True)
        (PEER_ENVIRONMENT / "ready").touch()
    return python


def row(case: Case, name: str, m: dict[str, float]) -> None:
    print(
        f"{case.name:<14} {name:<24} {m['p50_ms']:8.2f} {m['p95_ms']:8.2f} {m['p99_ms']:8.2f} "
        f"{m['cpu_percent']:7.1f} {m['dropped']:7.0f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="150 images instead of 2,000")
    parser.add_argument("--count", type=int)
    parser.add_argument("--only", help="one case, such as 640x480")
    parser.add_argument("--no-peer", action="store_true", help="leave openpi-client out")
    parser.add_argument("--client", help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    count = arguments.count or (150 if arguments.quick else 2000)
    if arguments.client:
        ros_client(next(c for c in CASES if c.name == arguments.case), arguments.client, count)
        return
    os.environ.setdefault("ROS_DOMAIN_ID", "77")
    print(f"image in, command out, between processes; {count} images at {RATE_HZ:g} Hz")
    print(
        f"{'images':<14} {'path':<24} {'p50 ms':>8} {'p95 ms':>8} {'p99 ms':>8} {'cpu %':>7} {'dropped':>7}"
    )
    results: dict[str, dict[str, dict[str, float]]] = {}
    for case in CASES:
        if arguments.only not in (None, case.name):
            continue
        found = results[case.name] = {}
        found["ours"] = measure_ours(case, count, default_dds=False)
        row(case, "policy node", found["ours"])
        if not arguments.no_peer:
            found["openpi_client"] = measure_peer(case, count, peer_python())
            row(case, "openpi-client", found["openpi_client"])
            ratio = found["ours"]["p50_ms"] / found["openpi_client"]["p50_ms"]
            print(f"{'':<14} {'ratio of p50':<24} {ratio:8.2f}")
        if case == CASES[1]:
            found["default_dds"] = measure_ours(case, min(count, 150), default_dds=True)
            row(case, "without the DDS profile", found["default_dds"])
    table = json.dumps({"benchmark": "transport", "count": count, "rate_hz": RATE_HZ, "results": results})
    print(table.replace("Infinity", "null"))


if __name__ == "__main__":
    main()
