"""Send unusual but legal messages to every node over DDS: each must stay alive, answer, and move nothing.

    make fuzz                                            # 300 messages to each of the eight nodes
    make fuzz ARGS="--messages 40 --node controller"     # one node, fewer

Starts the robot's real processes in a separate ROS domain, asks ROS which topics and services each node
listens to, and sends messages made by ``odd_messages`` to all of them; each topic ends with a flood of 1000
messages a second. Afterwards the node must still run, must have answered every request, must answer another
one and publish its diagnostics in time. Neither the simulated arm nor its commands may have moved. To show
that motion would have been noticed, the arm is sent home at the end. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")

from std_srvs.srv import Trigger

import openvla_ros
from fuzz_attack import MOVED_RAD, START_S, Fuzz, Row
from fuzz_targets import Process, Target, prepare, take_domain, targets
from fuzz_watch import COORDINATES
from odd_messages import OddMessages, Robot
from openvla_ros.profile import RobotProfile


class Run:
    """The processes of one run; attacks one node after the other."""

    def __init__(self, arguments: argparse.Namespace, folder: Path, stack: ExitStack) -> None:
        profile, robot, setpoints = prepare(folder)
        every = targets(robot, setpoints, folder)
        self._folder = folder
        self._source = Path(arguments.source) if arguments.source else Path(openvla_ros.__file__).parents[1]
        # The controller first, while nothing has been asked of it yet.
        wanted = [t for t in every if not arguments.node or t.label in arguments.node]
        self.wanted = sorted(wanted, key=lambda target: target.label != "controller")
        # The simulation and the controller are always watched, whichever node is attacked.
        self._needed = [t for t in every if t in wanted or t.label in ("simulation", "controller")]
        self._processes: dict[str, Process] = {}
        self.fuzz = Fuzz(arguments.messages, arguments.flood_s, arguments.seed, profile, stack)
        for target in self._needed:
            self._processes[target.label] = self._start(target)
            stack.callback(lambda label=target.label: self._processes[label].stop())
        for target in self._needed:
            self._wait_for(target)
        if not self.fuzz.spin(START_S, lambda: bool(self.fuzz.watch.still)):
            raise SystemExit("the simulation publishes no joint states")
        self.fuzz.odd = OddMessages(arguments.seed, self._words(profile))

    def attack(self) -> dict[str, Row]:
        """Attack every selected node; restart one that ended."""
        rows: dict[str, Row] = {}
        ended_beside: Counter[str] = Counter()  # while another node was attacked
        for target in self.wanted:
            row = rows[target.label] = self.fuzz.attack(target, self._processes[target.label])
            row.exits += ended_beside[target.label]
            show(target.label, row)
            for other in self._needed:
                process = self._processes[other.label]
                if process.exit_code is None:
                    continue
                print(f"  {other.label} ended with {process.exit_code}: {process.last_words}")
                if other is not target:
                    ended_beside[other.label] += 1
                    rows.setdefault(other.label, Row()).exits += 1
                self._restart(other)
        return rows

    def sees_motion(self) -> bool:
        """Send the arm home; return whether the watch notices (so it would have noticed earlier motion)."""
        controller = next(target for target in self._needed if target.label == "controller")
        self._restart(controller)
        watch, fuzz = self.fuzz.watch, self.fuzz
        watch.begin(COORDINATES, commands=True)
        home = fuzz.node.create_client(Trigger, "controller/home")
        if not fuzz.spin(START_S, home.service_is_ready):
            return False
        home.call_async(Trigger.Request())
        return fuzz.spin(SEEN_S, lambda: min(watch.moved.values()) > MOVED_RAD)

    def _start(self, target: Target) -> Process:
        return Process(target, self._source, self._folder / f"{target.label.replace(' ', '_')}.log")

    def _restart(self, target: Target) -> None:
        self._processes[target.label].stop()
        self.fuzz.watch.diagnosed_s.pop(target.full_name.lstrip("/"), None)
        self._processes[target.label] = self._start(target)
        self._wait_for(target)

    def _wait_for(self, target: Target) -> None:
        if not self.fuzz.ready(target):
            output = self._processes[target.label].log.read_text(errors="replace")
            raise SystemExit(f"{target.label} did not start:\n{output[-2000:]}")

    def _words(self, profile: RobotProfile) -> Robot:
        names, frame_id = profile.space().names, profile.action_frame_id()
        still = self.fuzz.watch.still
        return Robot(profile.arm.joints, profile.gripper.joint, names, frame_id, still)


# How long it may take until the arm is seen moving home.
SEEN_S = 15.0
HEADER = (
    "node              topics services     sent exits unanswered answer_ms refused  moved_rad commanded_rad"
)


def show(label: str, row: Row) -> None:
    """Print one line of the table."""
    print(
        f"{label:<17} {row.topics:>6} {row.services:>8} {row.sent:>8} {row.exits:>5} {row.unanswered:>10} "
        f"{row.answer_ms:>9.1f} {row.refused:>7} {row.moved_rad:>10.4f} {row.commanded_rad:>13.4f}"
        + ("" if row.passed else "  FAILED"),
        flush=True,
    )


def main() -> int:
    """Run the program; return its exit code: 0 if every node passed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--messages", type=int, default=300, help="unusual messages to each node, besides floods"
    )
    parser.add_argument("--flood-s", type=float, default=1.0, help="length of the flood on each topic")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--node", action="append", default=[], help="only this node; may be given again")
    parser.add_argument("--source", default="", help="folder of the package whose nodes are tested")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        take_domain(stack)
        print(HEADER)
        run = Run(arguments, folder, stack)
        rows, sees_motion = run.attack(), run.sees_motion()
    passed = sees_motion and all(row.passed for row in rows.values())
    result: dict[str, Any] = {"program": "fuzz_nodes", "seed": arguments.seed, "messages": arguments.messages}
    result["sees_motion"] = sees_motion
    result["nodes"] = {label: {**asdict(row), "pass": row.passed} for label, row in rows.items()}
    print(json.dumps({**result, "pass": passed}))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
