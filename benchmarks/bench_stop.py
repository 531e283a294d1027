"""How long a stop takes with all cores busy and every other input flooded, beside version 0.1.0.

A stand-in arm cruises. The controller is flooded with chunks (some with thousands of names), joint states,
wrenches and parameter requests, each 1000 times a second, and one busy process per core runs throughout.
Measured from the moment of the request: the time until the service's answer arrives, and the time until the
first braking command arrives at the driver. Each command carries the cruise on by one period, up to some
time; the first that does not is the first braking command, and the arm slows down when its motion is due,
``arm_backend.lookahead_s`` after it was sent. Both ends use the middleware's own arrival stamps, so this
program's own delays do not count. It runs at real-time priority where that is permitted.

Three controllers are measured: 0.1.0 from this repository's history, the present one, and the present one
without any permission (real-time priority, niceness, locked memory). A bare service in an idle process is
measured beside them and shows what the middleware and the machine allow. If it misses the limit too, the
machine is busier than this program makes it, and the figures say nothing about the controller.

    python benchmarks/bench_stop.py [--quick]
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import rclpy
import stop_flood
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from first_version import NoHistoryError, unpack
from std_msgs.msg import Bool
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.bringup.dds import dds_environment
from openvla_ros.bringup.supervisor import child_environment
from openvla_ros.nodes.control.realtime import ask_for_niceness, ask_for_realtime
from openvla_ros.profile import RobotProfile, dump_profile, load_profile
from openvla_ros.ros import qos

ANSWER_LIMIT_MS = 20.0  # 99 of 100 answers
BRAKING_LIMIT_MS = 30.0  # one control period more: until the next command is due
WRENCH_TOPIC = "wrench"
SPEED_RAD_S = 0.8  # slow, so that the arm is still cruising when the stop comes
# This many commands of about the same speed count as cruising; motion slower than all of them is braking.
# The cruise itself varies by 0.6%; the first period of braking is 1.7% slower.
CRUISE_COMMANDS, CRUISE_SPREAD, BRAKING_SHARE = 10, 0.01, 0.992
RAMP_S = 0.7  # from the start of the flood to a request
GIVE_UP_S = 30.0
WAYS = ("hold, service", "e_stop, service", "e_stop, topic")
PR_CAPBSET_DROP, CAP_IPC_LOCK, CAP_SYS_NICE = 24, 14, 23


@dataclass
class Row:
    """One controller and one way to stop it: durations in milliseconds."""

    controller: str
    way: str
    measured: str
    values: list[float] = field(default_factory=list)

    def numbers(self) -> dict[str, float | int | str]:
        """Return the values for the table and the JSON line."""
        p50, p99, worst = (float(np.percentile(self.values, p)) for p in (50, 99, 100))
        return {
            "controller": self.controller,
            "way": self.way,
            "measured": self.measured,
            "count": len(self.values),
            "p50_ms": round(p50, 2),
            "p99_ms": round(p99, 2),
            "max_ms": round(worst, 2),
        }


@dataclass(frozen=True)
class Arrived:
    """A command that has arrived: when each of its points is due, and how fast it is."""

    at_ns: int
    due_ns: tuple[int, ...]
    speeds: tuple[float, ...]  # rad/s, of the fastest joint

    @classmethod
    def of(cls, message: JointTrajectory, at_ns: int) -> Arrived:
        """Return what a message says that arrived at ``at_ns``."""
        start_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        times = [point.time_from_start for point in message.points]
        return cls(
            at_ns,
            tuple(start_ns + time.sec * 10**9 + time.nanosec for time in times),
            tuple(float(np.abs(point.velocities).max()) for point in message.points),
        )

    @property
    def speed(self) -> float:
        """Return the speed of the first point, rad/s."""
        return self.speeds[0]

    def until_ns(self, speed: float) -> int:
        """Return when the last point that is at least this fast is due; 0 if there is none."""
        return max(
            (due for due, fast in zip(self.due_ns, self.speeds, strict=True) if fast >= speed), default=0
        )


class Hand:
    """Requests the stops and listens at the driver's end of the command topic."""

    def __init__(self, profile: RobotProfile) -> None:
        self.node = rclpy.create_node("hand")
        names = ("hold", "e_stop", "reset_e_stop", "give_to_policy", "home", "park")
        self.clients = {name: self.node.create_client(Trigger, f"controller/{name}") for name in names}
        self.clients["bare"] = self.node.create_client(Trigger, "bare")
        self.button = self.node.create_publisher(Bool, "e_stop", qos.COMMAND)
        topic = profile.arm_backend.topic
        self.commands = self.node.create_subscription(JointTrajectory, topic, lambda _: None, 100)
        self.diagnostics = self.node.create_subscription(
            DiagnosticArray, "/diagnostics", lambda _: None, qos.DIAGNOSTICS
        )
        self.arrived: list[Arrived] = []

    def wait_until_there(self) -> None:
        """Wait for the controller and the bare service."""

        def there() -> bool:
            services = all(client.service_is_ready() for client in self.clients.values())
            return services and self.button.get_subscription_count() > 0

        wait(there, GIVE_UP_S, "the controller's services")

    def wait_until_gone(self) -> None:
        """Wait until the middleware reports that the controller has ended."""

        def gone() -> bool:
            there = [c.service_is_ready() for name, c in self.clients.items() if name != "bare"]
            return not any(there) and self.button.get_subscription_count() == 0

        wait(gone, GIVE_UP_S, "the controller's end")

    def ask(self, name: str) -> tuple[int, int, Trigger.Response]:
        """Call a service; return the times of the request and of the answer (ns), and the answer."""
        client = self.clients[name].handle
        asked_ns = time.time_ns()
        with client:
            client.send_request(Trigger.Request())
            end = time.monotonic() + GIVE_UP_S
            while time.monotonic() < end:
                info, response = client.take_response(Trigger.Response)
                if response is not None:
                    return asked_ns, info.received_timestamp, response
                time.sleep(0.0003)
        raise TimeoutError(f"{name} did not answer within {GIVE_UP_S:.0f} s")

    def press(self) -> int:
        """Press the button; return the time, ns."""
        asked_ns = time.time_ns()
        self.button.publish(Bool(data=True))
        return asked_ns

    def take_commands(self) -> None:
        """Record every command that has arrived."""
        with self.commands.handle:
            while (taken := self.commands.handle.take_message(JointTrajectory, False)) is not None:
                message, info = taken
                if message.points and len(message.points[0].velocities):
                    self.arrived.append(Arrived.of(message, info["received_timestamp"]))

    def granted(self) -> str:
        """Return what the controller reports about its scheduling."""
        found: dict[str, str] = {}
        with self.diagnostics.handle:  # reports of the previous controller
            while self.diagnostics.handle.take_message(DiagnosticArray, True) is not None:
                pass

        def said() -> bool:
            with self.diagnostics.handle:
                while (taken := self.diagnostics.handle.take_message(DiagnosticArray, False)) is not None:
                    for status in taken[0].status:
                        if status.name.endswith("control period"):
                            found.update({v.key: v.value for v in status.values})
            return bool(found)

        wait(said, GIVE_UP_S, "diagnostics")
        keys = ("scheduling", "niceness", "memory")
        return "; ".join(f"{key} {found[key]}" for key in keys if key in found)


def wait(done: Callable[[], bool], timeout_s: float, what: str) -> None:
    end = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(0.001)


def with_ordinary_priority() -> None:
    """Reset in a child, before exec, the priority that it inherits from this program."""
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    os.setpriority(os.PRIO_PROCESS, 0, 0)


def without_permissions() -> None:
    """Remove from a child, before exec, every permission that an ordinary user's process does not have."""
    with_ordinary_priority()
    library = ctypes.CDLL(None)
    for capability in (CAP_IPC_LOCK, CAP_SYS_NICE):
        library.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    for limit in (resource.RLIMIT_RTPRIO, resource.RLIMIT_NICE):
        resource.setrlimit(limit, (0, 0))


class Controller:
    """One controller process, running the sources at ``path``."""

    def __init__(self, path: Path, robot: str, permitted: bool) -> None:
        environment = child_environment(os.environ, dds_environment(os.environ))
        environment["PYTHONPATH"] = str(path)
        command = [sys.executable, "-m", "openvla_ros.nodes.controller_node"]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self.process = subprocess.Popen(
            [*command, "--ros-args", "-p", f"robot:={robot}"],
            env=environment, stdout=self._log, stderr=subprocess.STDOUT,
            preexec_fn=with_ordinary_priority if permitted else without_permissions,
        )  # fmt: skip

    def __enter__(self) -> Controller:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._log.close()


def answers(hand: Hand, name: str, count: int, seconds: float, rng: random.Random) -> list[float]:
    """Return how long ``count`` answers took, milliseconds; fewer if ``seconds`` are not enough."""
    values: list[float] = []
    end = time.monotonic() + seconds
    while len(values) < count and time.monotonic() < end:
        time.sleep(rng.uniform(0.01, 0.04))
        asked_ns, answered_ns, _ = hand.ask(name)
        values.append((answered_ns - asked_ns) * 1e-6)
    return values


def braking(
    hand: Hand, way: str, switches: stop_flood.Switches, rng: random.Random, pose: str
) -> float | None:
    """Stop a cruising arm once; return the time to the first braking command, ms.

    None if the arm was not cruising when the stop was due: such a turn does not count.
    """
    hand.button.publish(Bool(data=False))
    time.sleep(0.05)  # or the reset would come first
    hand.ask("reset_e_stop")
    hand.ask("give_to_policy")
    if not hand.ask(pose)[2].success:
        return None
    hand.arrived.clear()

    def cruises() -> bool:
        hand.take_commands()
        newest = [command.speed for command in hand.arrived[-CRUISE_COMMANDS:]]
        return (
            len(newest) == CRUISE_COMMANDS
            and newest[-1] > 0.01
            and np.ptp(newest) < CRUISE_SPREAD * newest[-1]
        )

    wait(cruises, GIVE_UP_S, "the arm to cruise")
    switches.flooding.set()
    time.sleep(RAMP_S + rng.uniform(0.0, 0.02))
    if not cruises():
        switches.flooding.clear()
        return None
    cruise = min(command.speed for command in hand.arrived[-CRUISE_COMMANDS:])
    asked_ns = hand.press() if way.endswith("topic") else hand.ask(way.split(",")[0])[0]

    def rests() -> bool:
        hand.take_commands()
        return hand.arrived[-1].speed == 0.0

    wait(rests, GIVE_UP_S, "the arm to rest")
    switches.flooding.clear()
    pairs = pairwise(hand.arrived)
    brakes = BRAKING_SHARE * cruise
    first = next(
        command for before, command in pairs
        if command.at_ns > asked_ns and command.until_ns(brakes) <= before.until_ns(brakes)
    )  # fmt: skip
    return (first.at_ns - asked_ns) * 1e-6


def measure(hand: Hand, name: str, switches: stop_flood.Switches, quick: bool) -> list[Row]:
    """Return the rows of the running controller."""
    rng = random.Random(0)
    count, turns, seconds = (60, 4, 15.0) if quick else (300, 12, 40.0)
    rows = []
    switches.flooding.set()
    time.sleep(RAMP_S)
    for service in ("bare", "hold", "e_stop"):
        who = "bare service" if service == "bare" else name
        rows.append(Row(who, f"{service}, service", "answer", answers(hand, service, count, seconds, rng)))
    switches.flooding.clear()
    time.sleep(RAMP_S)
    for way in WAYS:
        row = Row(name, way, "first braking command")
        end = time.monotonic() + 2 * seconds
        for turn in range(4 * turns):
            if len(row.values) == turns or time.monotonic() > end:
                break
            took = braking(hand, way, switches, rng, ("home", "park")[turn % 2])
            if took is not None:
                row.values.append(took)
        rows.append(row)
    return rows


def slow_profile(folder: Path) -> tuple[RobotProfile, str]:
    """Return the simulated WidowX with a wrench, slow, and with limits that tolerate a starved controller."""
    profile = load_profile("sim_widowx")
    speeds = tuple(SPEED_RAD_S for _ in profile.limits.joint_velocity)
    profile = replace(
        profile,
        limits=replace(
            profile.limits, joint_velocity=speeds, wrench_n=100.0, wrench_nm=100.0, tracking_error_rad=3.0
        ),
        state=replace(profile.state, wrench_topic=WRENCH_TOPIC, max_age_s=10.0),  # the longest allowed
        arm_backend=replace(profile.arm_backend, lookahead_s=0.2),
    )
    path = folder / "slow.yaml"
    values = yaml.safe_load(dump_profile(profile))
    for camera in values["cameras"]:
        camera.pop("source", None)  # 0.1.0 does not know the key; nothing here opens a camera
    values["control"].pop("chunk_horizon_s")  # nor this one; it sends chunks of one step
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return profile, str(path)


def sessions(folder: Path) -> tuple[list[tuple[str, Path, bool]], str | None]:
    """Return (name, sources, permitted) of the controllers to measure, and why 0.1.0 is not among them."""
    present = Path(stop_flood.__file__).resolve().parent.parent / "ros2_ws/src/openvla_ros"
    found = [("present", present, True), ("present, no permissions", present, False)]
    try:
        return [("0.1.0", unpack(folder), True), *found], None
    except NoHistoryError as error:
        return found, str(error)


def report(rows: list[Row], missing: str | None, granted: dict[str, str]) -> dict[str, object]:
    """Print the table; return the values of the JSON line."""
    print(f"{'controller':24} {'way':16} {'until':22} {'n':>4} {'p50 ms':>9} {'p99 ms':>9} {'max ms':>9}")
    for row in rows:
        n = row.numbers()
        print(
            f"{row.controller:24} {row.way:16} {row.measured:22} {n['count']:4} "
            f"{n['p50_ms']:9.2f} {n['p99_ms']:9.2f} {n['max_ms']:9.2f}"
        )
    for name, text in granted.items():
        print(f"{name}: {text}")

    def pooled(controller: str, measured: str) -> float | None:
        values = [v for r in rows if (r.controller, r.measured) == (controller, measured) for v in r.values]
        return round(float(np.percentile(values, 99)), 2) if values else None

    result: dict[str, object] = {"benchmark": "stop", "rows": [row.numbers() for row in rows]}
    result["bare_answer_p99_ms"] = pooled("bare service", "answer")
    passed = True
    for key, measured, limit_ms in (
        ("answer", "answer", ANSWER_LIMIT_MS),
        ("braking", "first braking command", BRAKING_LIMIT_MS),
    ):
        before, now = pooled("0.1.0", measured), pooled("present", measured)
        plain = pooled("present, no permissions", measured)
        result[f"{key}_p99_ms"] = now
        result[f"{key}_p99_ms_no_permissions"] = plain
        result[f"{key}_limit_ms"] = limit_ms
        result[f"{key}_ratio"] = round(before / now, 1) if before and now else None
        passed = passed and now is not None and now <= limit_ms
    if missing:
        print(f"0.1.0 was not measured: {missing}")
        result["baseline"] = f"not measured: {missing}"
    return {**result, "granted": granted, "pass": passed}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    os.environ.setdefault("ROS_DOMAIN_ID", "75")
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.update(dds_environment(os.environ))
    rows: list[Row] = []
    granted: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        profile, robot = slow_profile(Path(folder))
        controllers, missing = sessions(Path(folder))
        rclpy.init()
        hand, switches = Hand(profile), stop_flood.Switches.make()
        load = stop_flood.start_all(switches, robot, WRENCH_TOPIC)
        ask_for_niceness()
        ask_for_realtime(30)
        try:
            for name, path, permitted in controllers:
                with Controller(path, robot, permitted):
                    hand.wait_until_there()
                    granted[name] = hand.granted()
                    rows += measure(hand, name, switches, quick)
                hand.wait_until_gone()
        finally:
            switches.end(load)
        hand.node.destroy_node()
        rclpy.shutdown()
    print(json.dumps(report(rows, missing, granted)))


if __name__ == "__main__":
    main()
