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
import json
import os
import random
import tempfile
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import rclpy
import stop_flood
from std_msgs.msg import Bool
from stop_hand import GIVE_UP_S, Hand, wait
from stop_sessions import WRENCH_TOPIC, Controller, sessions, slow_profile

from openvla_ros.bringup.dds import dds_environment
from openvla_ros.nodes.control.realtime import ask_for_niceness, ask_for_realtime

LIMIT_MS = 20.0  # 99 of 100 answers, and 99 of 100 first braking commands
# This many commands of about the same speed count as cruising; motion slower than all of them is braking.
# The cruise itself varies by 0.6%; the first period of braking is 1.7% slower.
CRUISE_COMMANDS, CRUISE_SPREAD, BRAKING_SHARE = 10, 0.01, 0.992
HALF_PERIOD_NS = 5e6
CRUISE_S = 10.0  # from a pose's answer to the cruise, at most
RAMP_S = 0.7  # from the start of the flood to a request
WAYS = ("hold, service", "e_stop, service", "e_stop, topic")


@dataclass
class Row:
    """One controller and one way to stop it: durations in milliseconds."""

    controller: str
    way: str
    measured: str
    values: list[float] = field(default_factory=list)

    def numbers(self) -> dict[str, float | int | str]:
        """Return the values for the table and the JSON line."""
        if not self.values:
            raise RuntimeError(f"{self.controller}: nothing was measured of {self.way!r}")
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

    try:
        wait(cruises, CRUISE_S, "the arm to cruise")
    except TimeoutError:
        return None  # what 0.1.0 has still to read of the flood before may stop it again
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
        if command.at_ns > asked_ns and command.until_ns(brakes) - before.until_ns(brakes) < HALF_PERIOD_NS
    )  # fmt: skip
    return (first.at_ns - asked_ns) * 1e-6


def measure(hand: Hand, name: str, switches: stop_flood.Switches, quick: bool) -> list[Row]:
    """Return the rows of the running controller."""
    rng = random.Random(0)
    count, turns, seconds = (60, 4, 15.0) if quick else (300, 30, 30.0)
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
    result["limit_ms"] = LIMIT_MS
    result["bare_answer_p99_ms"] = pooled("bare service", "answer")
    passed = True
    for key, measured in (("answer", "answer"), ("braking", "first braking command")):
        before, now = pooled("0.1.0", measured), pooled("present", measured)
        plain = pooled("present, no permissions", measured)
        result[f"{key}_p99_ms"] = now
        result[f"{key}_p99_ms_no_permissions"] = plain
        result[f"{key}_ratio"] = round(before / now, 1) if before and now else None
        passed = passed and now is not None and now <= LIMIT_MS
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
        controllers, missing = sessions(Path(folder), robot)
        rclpy.init()
        hand, switches = Hand(profile), stop_flood.Switches.make()
        load = stop_flood.start_all(switches, robot, WRENCH_TOPIC)
        ask_for_niceness()
        ask_for_realtime(30)
        try:
            for session in controllers:
                with Controller(session.sources, session.robot, session.permitted) as controller:
                    hand.wait_until_there(controller)
                    granted[session.name] = hand.granted()
                    rows += measure(hand, session.name, switches, quick)
                hand.wait_until_gone()
        finally:
            switches.end(load)
        hand.node.destroy_node()
        rclpy.shutdown()
    print(json.dumps(report(rows, missing, granted)))


if __name__ == "__main__":
    main()
