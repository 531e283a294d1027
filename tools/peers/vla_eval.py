"""vla-eval's real program beside this package: its benchmarks' code, its runner, its servers.

Its runner on our simulated robots with ``openvla serve``, and with a model server of its own kind, must end
every scene as ``openvla evaluate`` does. What the code of each of its benchmarks makes of our actions is
compared with the table of ``openvla_ros.protocols.benchmark_actions``. No torch is installed beside it;
``clients/vla_eval_programs.py`` runs there.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import yaml

from openvla_ros.policy.hold import HoldPolicy
from openvla_ros.policy.protocol import Policy
from openvla_ros.profile import load_profile
from openvla_ros.protocols.benchmark_actions import benchmark_table, served_benchmarks
from openvla_ros.protocols.vla_eval_codec import PATH
from openvla_ros.serving.server import PolicyServer
from openvla_ros.values.action import ActionChunk
from openvla_ros.values.observation import Observation
from peers.environments import called, with_packages
from peers.piped_simulation import CLIENTS, ROBOT, TASK, Outcome, Outcomes, evaluated, running, same, served
from peers.rows import PeerError, Row
from peers.vla_eval_actions import Ask, grippers_and_motions, rotations, space_for

NAME, VERSION = "vla-eval", "0.8.0"
PYTHON = "python3.12"
ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    f"vla-eval=={VERSION}", "scipy", "mujoco", "pydantic>=2", "PyYAML", "pillow", "opencv-python-headless",
)  # fmt: skip
OURS = ("-e", str(ROOT / "ros2_ws" / "src" / "openvla_ros"), "-e", str(ROOT / "plugins" / "vla_eval_openvla"))
PROGRAM = "vla_eval_programs.py"
BENCHMARK = "vla_eval_openvla.benchmark:SimulatedRobotBenchmark"
SEEDS = tuple(range(100, 104))
REFUSALS = {
    "an unknown benchmark": "is not known here",
    "no benchmark": "does not name its benchmark",
    "another rate": "20 steps in a second",
    "tool axes": "along the axes of the tool",
    "two arms": "it has two arms",
    "no instruction": "'task_description' is None",
    "another camera": "images lacks 'primary'",
}
MISTAKES = {
    "no such robot": "no robot profile",
    "no such task": "no task 'dance'",
    "tasks as text": "must be a list of names",
    "six numbers": "actions has shape (6,)",
    "not a number": "it must be finite",
    "no actions": "an answer without 'actions'",
}


def check(build: Path, source: Path | None) -> list[Row]:
    """Return a row for each comparison; ``source`` has vla-eval's environment."""
    python = with_packages(source or build / NAME, PYTHON, PACKAGES, OURS)
    ask = partial(asked, python)
    work = build / f"{NAME}-results"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    rows = [*grippers_and_motions(ask), *rotations(ask, work), *specifications(ask), *answers_in_time(ask)]
    right = evaluated(SEEDS)
    with served() as port:
        url = f"ws://127.0.0.1:{port}{PATH}"
        rows += said(ask("refused", url), REFUSALS)
        rows.append(("its runner, our server: scenes", *same(ran(python, work / "ours", url), right)))
        with running(python, PROGRAM, "serve", f"http://127.0.0.1:{port}/act") as own:
            theirs = ran(python, work / "theirs", f"ws://127.0.0.1:{own}")
        rows.append(("its runner, its server: scenes", *same(theirs, right)))
    rows += said(ask("wrong"), MISTAKES)
    return [Row(NAME, VERSION, *row) for row in rows]


def asked(python: Path, *arguments: str) -> Any:
    """Return the last line that the program prints in vla-eval's environment, from JSON."""
    command = [str(python), "-P", str(CLIENTS / PROGRAM), *arguments]
    return json.loads(called(command, f"{PROGRAM} {arguments[0]} failed").splitlines()[-1])


def ran(python: Path, folder: Path, url: str) -> Outcomes:
    """Return what ``vla-eval run --no-docker`` makes of the seeds with the model server at ``url``."""
    folder.mkdir()
    configuration = {
        "server": {"url": url, "timeout": 120},
        "output_dir": str(folder),
        "benchmarks": [
            {
                "benchmark": BENCHMARK,
                "name": "openvla_ros",
                "episodes_per_task": len(SEEDS),
                "params": {"robot": ROBOT, "tasks": [TASK], "first_seed": SEEDS[0]},
            }
        ],
    }
    path = folder / "evaluation.yaml"
    path.write_text(yaml.safe_dump(configuration), encoding="utf-8")
    program = str(python.with_name("vla-eval"))
    called([program, "run", "--no-docker", "--config", str(path)], "vla-eval run failed")
    outcomes = {}
    for results in folder.glob("*.json"):
        for task in json.loads(results.read_text(encoding="utf-8"))["tasks"]:
            for episode in task["episodes"]:
                success = bool(episode["metrics"]["success"])
                outcomes[SEEDS[0] + episode["episode_id"]] = Outcome(success, int(episode["steps"]))
    if not outcomes:
        raise PeerError(f"vla-eval wrote no results below {folder}")
    return outcomes


def specifications(ask: Ask) -> Iterator[tuple[str, bool, str]]:
    """Yield what vla-eval's own check says of a policy that fits, for each benchmark that can be served."""
    with ExitStack() as stack:
        asked_of = {}
        for name in served_benchmarks():
            entry = benchmark_table()[name]
            server = stack.enter_context(listening(HoldPolicy(space_for(entry))))
            asked_of |= dict.fromkeys(entry.classes, f"ws://127.0.0.1:{server.port}{PATH}")
        found = ask("checked", json.dumps(asked_of))
    for kind, warnings in found.items():
        label = kind.rsplit(":", 1)[1].removesuffix("Benchmark")
        yield f"its check: {label}", not warnings, "; ".join(warnings) or "compatible"


@contextmanager
def listening(policy: Policy) -> Iterator[PolicyServer]:
    """Serve ``policy`` in this process."""
    server = PolicyServer(policy, "127.0.0.1", 0)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join()


def said(found: dict[str, str], wanted: dict[str, str]) -> Iterator[tuple[str, bool, str]]:
    """Yield what wrong set-ups and wrong messages are told."""
    for name, part in wanted.items():
        yield f"refused: {name}", part in found[name], found[name].replace("\n", " ")[-150:]


class LatePolicy(HoldPolicy):
    """Answers with the number that the image shows; the first answer takes longer than the client waits."""

    def __init__(self) -> None:
        super().__init__(load_profile(ROBOT).space())
        self._asked = 0

    def infer(self, observation: Observation) -> ActionChunk:
        """Return one action."""
        self._asked += 1
        time.sleep(1.5 if self._asked == 1 else 0.0)
        number = float(observation.images["primary"][0, 0, 0])
        return ActionChunk(np.array([[number] * 6 + [1.0]]), observation.stamp_ns, self.space)


def answers_in_time(ask: Ask) -> Iterator[tuple[str, bool, str]]:
    """Yield the answers to questions 11, 12, 13 of vla-eval's client, which gives up on the first."""
    with listening(LatePolicy()) as server:
        found = ask("late", f"ws://127.0.0.1:{server.port}{PATH}")
    right = found["ours"] == [-1.0, 12.0, 13.0]
    sentence = f"after a time-out: {found['ours'][1:]}; vla-eval's own server: {found['its own'][1:]}"
    yield "answers to questions 12, 13", right, sentence
