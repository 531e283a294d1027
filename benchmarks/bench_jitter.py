"""Period jitter of the 100 Hz control loop on loaded cores, beside loops without work.

One busy process per core runs throughout. Three loops take turns of a few seconds each: a bare loop of
``time.sleep``, the controller node's loop with no work in it, and that loop with the whole controller
executing chunks. Jitter is how far each period is from 10 ms.

    python benchmarks/bench_jitter.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable

import numpy as np
from rclpy.clock import Clock, ClockType

from openvla_ros.nodes.control.control_loop import ControlLoop
from openvla_ros.profile import load_profile
from openvla_ros.robot.controller import ArmController
from openvla_ros.values.action import ActionChunk

PERIOD_S = 0.01
LIMIT_MS = 2.0


def burn(stop: multiprocessing.synchronize.Event) -> None:
    while not stop.is_set():
        sum(i * i for i in range(20_000))


def bare_loop(seconds: float) -> list[int]:
    stamps, deadline = [], time.monotonic()
    end = deadline + seconds
    while deadline < end:
        deadline += PERIOD_S
        time.sleep(max(0.0, deadline - time.monotonic()))
        stamps.append(time.monotonic_ns())
    return stamps


def control_loop(seconds: float, work: Callable[[int], None]) -> list[int]:
    stamps: list[int] = []

    def tick() -> None:
        stamps.append(time.monotonic_ns())
        work(stamps[-1])

    loop = ControlLoop(PERIOD_S, tick, Clock(clock_type=ClockType.STEADY_TIME), simulated=False)
    loop.start()
    time.sleep(seconds)
    loop.stop()
    if loop.failure is not None:
        raise loop.failure
    return stamps


class Work:
    """The controller with an arm that follows perfectly and a policy at 5 Hz."""

    def __init__(self) -> None:
        self.profile = load_profile("sim_widowx")
        self.controller = ArmController(self.profile)
        self.q = np.array(self.profile.arm.neutral)
        self.count = 0

    def step(self, now_ns: int) -> None:
        """Do the controller node's work of one period."""
        self.controller.observe(self.q, None, None, now_ns, now_ns)
        if self.count % 20 == 0:
            sign = 1.0 if (self.count // 200) % 2 == 0 else -1.0
            actions = np.array([[sign * 0.01, 0.005 * sign, 0, 0, 0, 0.02 * sign, 1.0]])
            self.controller.accept(ActionChunk(actions, now_ns, self.profile.space()), "policy", now_ns)
        self.count += 1
        output = self.controller.tick(now_ns)
        if output.joint_positions is not None:
            self.q = output.joint_positions


def jitter_ms(stamps: list[int]) -> np.ndarray:
    return np.abs(np.diff(stamps) * 1e-6 - PERIOD_S * 1e3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    turns, seconds = (1, 4.0) if parser.parse_args().quick else (6, 10.0)
    stop = multiprocessing.Event()
    load = [
        multiprocessing.Process(target=burn, args=(stop,), daemon=True) for _ in range(os.cpu_count() or 1)
    ]
    for process in load:
        process.start()
    work = Work()
    for _ in range(200):  # one-off work such as imports is not measured
        time.sleep(PERIOD_S)
        work.step(time.monotonic_ns())
    found: dict[str, list[np.ndarray]] = {
        "bare sleep": [],
        "control loop, empty": [],
        "control loop, full": [],
    }
    try:
        for _ in range(turns):
            found["bare sleep"].append(jitter_ms(bare_loop(seconds)))
            found["control loop, empty"].append(jitter_ms(control_loop(seconds, lambda _: None)))
            found["control loop, full"].append(jitter_ms(control_loop(seconds, work.step)))
    finally:
        stop.set()
        for process in load:
            process.join(timeout=5.0)
    rows = []
    print(f"{'loop':22} {'periods':>8} {'p50 ms':>8} {'p99 ms':>8} {'max ms':>8}")
    for name, parts in found.items():
        values = np.concatenate(parts)
        p50, p99, worst = (float(np.percentile(values, p)) for p in (50, 99, 100))
        print(f"{name:22} {len(values):8d} {p50:8.3f} {p99:8.3f} {worst:8.3f}")
        rows.append(
            {"loop": name, "p50_ms": round(p50, 3), "p99_ms": round(p99, 3), "max_ms": round(worst, 3)}
        )
    result = {
        "benchmark": "jitter",
        "rows": rows,
        "limit_ms": LIMIT_MS,
        "within_limit": rows[2]["p99_ms"] <= LIMIT_MS,
        "ratio_to_bare": round(rows[2]["p99_ms"] / rows[0]["p99_ms"], 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
