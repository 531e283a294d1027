"""Several robots at one `openvla serve`: their questions in one pass, beside one question at a time.

Eight processes take the place of robots. Each sends the images of an episode of its own with its own words,
over the loopback, and asks again as soon as it was answered. Servers with the same checkpoint take turns in
the same run: some answer what waits in one pass, the others one question after the other, each with one
thread and with one for every core (OMP_NUM_THREADS). Of each way the better setting counts. Every answer must
be the action that the policy gives in this process for that image alone.

The ratio is the median over short rounds, in which all servers are measured one right after the other: other
work on the machine then affects all of them.

    python benchmarks/bench_serve.py [--quick] [--robots 8] [--asks 20] [--rounds 12]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

GOAL = 2.0  # times the actions a second of one at a time
ROBOT = "sim_widowx"
ALONE, TOGETHER = "one at a time", "together"
WAYS = {ALONE: 1, TOGETHER: 8}  # questions in one pass

SERVER = "from openvla_ros.entry_points import openvla; openvla()"

CLIENT = """
import json, sys, time
import numpy as np
from openvla_ros.policy.remote import RemotePolicy
from openvla_ros.values.observation import Observation

episode = np.load(sys.argv[1])
images, words = episode["images"], str(episode["words"])
remotes = {way: RemotePolicy(address, timeout_s=60.0) for way, address in json.loads(sys.argv[2]).items()}
print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    way, asks = json.loads(line)
    latencies, actions = [], []
    for i in range(asks):
        began = time.perf_counter()
        chunk = remotes[way].infer(Observation(i, {"primary": images[i % len(images)]}, words))
        latencies.append(1e3 * (time.perf_counter() - began))
        actions.append(chunk.actions[0].tolist())
    print(json.dumps({"latencies": latencies, "actions": actions}), flush=True)
"""


def record_episodes(robots: int, folder: Path) -> tuple[list[Path], list[np.ndarray]]:
    """Write what each robot sees and is told; return the files, and the policy's actions (T, D) for them."""
    import torch

    from openvla_ros.model.inference.options import LoadOptions
    from openvla_ros.policy.openvla_policy import load_openvla_policy
    from openvla_ros.profile import load_profile
    from openvla_ros.sim.rollout import rollout
    from openvla_ros.sim.tasks import TASKS, find_task
    from openvla_ros.sim.world import SimulatedRobot
    from openvla_ros.values.goal import Goal

    profile = load_profile(ROBOT)
    policy = load_openvla_policy("small_base", profile, options=LoadOptions(dtype=torch.float32))
    tasks = [task for task in TASKS.values() if task.base]
    files, actions = [], []
    with SimulatedRobot(profile, find_task("reach")) as robot:
        for index in range(robots):
            task = tasks[index % len(tasks)]
            robot.reset(1000 + index)
            goal = Goal(task.verb, robot.goal.object, task.destination)
            robot.pursue(goal)
            steps: list[tuple[Any, Any]] = []
            rollout(
                robot,
                policy,
                instruction=goal.instruction,
                on_step=lambda *step: steps.append(step),  # noqa: B023
            )
            files.append(folder / f"robot{index}.npz")
            images = np.stack([observation.images["primary"] for observation, _ in steps])
            np.savez(files[-1], images=images, words=goal.instruction)
            actions.append(np.stack([chunk.actions[0] for _, chunk in steps]))
    return files, actions


def start(command: list[str], stack: ExitStack, threads: int = 1) -> subprocess.Popen[str]:
    """Start a process that ends with ``stack``; torch may use ``threads`` in it."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen(
        [sys.executable, "-c", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    stack.callback(process.wait, 20)
    stack.callback(process.terminate)
    return process


def told(process: subprocess.Popen[str]) -> str:
    """Return the next line of a process."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit("a process of the benchmark ended before it answered")
    return line


def cpu_seconds(process: subprocess.Popen[str]) -> float:
    """Return the CPU time that a process has used so far, in all its threads."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ask(
    clients: list[subprocess.Popen[str]], server: subprocess.Popen[str], way: str, asks: int
) -> dict[str, Any]:
    """Let all robots ask ``asks`` times; return the time, the latencies and the actions."""
    began, used = time.perf_counter(), cpu_seconds(server)
    for client in clients:
        assert client.stdin is not None
        client.stdin.write(json.dumps([way, asks]) + "\n")
        client.stdin.flush()
    results = [json.loads(told(client)) for client in clients]
    return {
        "seconds": time.perf_counter() - began,
        "server_cpu": cpu_seconds(server) - used,
        "latencies": [ms for result in results for ms in result["latencies"]],
        "actions": [np.array(result["actions"]) for result in results],
    }


def summary(rounds: list[dict[str, Any]]) -> dict[str, float]:
    """Return the figures of several rounds together."""
    latencies = np.concatenate([found["latencies"] for found in rounds])
    seconds, count = sum(found["seconds"] for found in rounds), len(latencies)
    return {
        "actions_per_s": count / seconds,
        **{f"p{q}_ms": float(np.percentile(latencies, q)) for q in (50, 99)},
        "server_cpu_ms_per_action": 1e3 * sum(found["server_cpu"] for found in rounds) / count,
    }


@dataclass(frozen=True)
class Setting:
    """One way of serving, and the threads that torch may use for it."""

    way: str
    threads: int

    def __str__(self) -> str:
        return f"{self.way}, {self.threads} thread{'s' * (self.threads > 1)}"


Rounds = dict[Setting, list[dict[str, Any]]]


def measure(robots: int, asks: int, rounds: int) -> tuple[Rounds, int]:
    """Return what was found with each setting, and how many actions differ from the policy's own."""
    cores = len(os.sched_getaffinity(0))
    settings = [Setting(way, threads) for way in WAYS for threads in sorted({1, cores})]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        files, wanted = record_episodes(robots, Path(folder))
        servers, addresses = {}, {}
        for setting in settings:
            options = f"serve small_base --robot {ROBOT} --dtype fp32 --port 0 --robots {robots}"
            batch = ["--batch", str(WAYS[setting.way])]
            servers[setting] = start([SERVER, *options.split(), *batch], stack, setting.threads)
            addresses[str(setting)] = told(servers[setting]).split()[-1]
        clients = [start([CLIENT, str(file), json.dumps(addresses)], stack) for file in files]
        for client in clients:
            told(client)
        found: Rounds = {setting: [] for setting in settings}
        for setting in settings:
            ask(clients, servers[setting], str(setting), 10)  # warm up
        for index in range(rounds):
            for setting in settings[:: 1 if index % 2 else -1]:
                found[setting].append(ask(clients, servers[setting], str(setting), asks))
    different = sum(
        int((action != own[step % len(own)]).any())
        for several in found.values()
        for one in several
        for actions, own in zip(one["actions"], wanted, strict=True)
        for step, action in enumerate(actions)
    )
    return found, different


def best(found: Rounds, way: str) -> Setting:
    """Return the setting of ``way`` with the most actions a second over all rounds."""
    settings = [setting for setting in found if setting.way == way]
    return max(settings, key=lambda setting: summary(found[setting])["actions_per_s"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="three rounds")
    parser.add_argument("--robots", type=int, default=8)
    parser.add_argument("--asks", type=int, default=20, help="questions of each robot in a round")
    parser.add_argument("--rounds", type=int, default=12)
    arguments = parser.parse_args()
    asks, rounds = arguments.asks, 3 if arguments.quick else arguments.rounds
    print(f"{arguments.robots} robots, {rounds} rounds of {asks} questions each, in turns")
    found, different = measure(arguments.robots, asks, rounds)
    results = {setting: summary(several) for setting, several in found.items()}
    print(f"{'server':<26}{'actions/s':>12}{'p50 ms':>10}{'p99 ms':>10}{'CPU ms/action':>16}")
    for setting, row in results.items():
        print(
            f"{setting!s:<26}{row['actions_per_s']:12.1f}{row['p50_ms']:10.1f}{row['p99_ms']:10.1f}"
            f"{row['server_cpu_ms_per_action']:16.2f}"
        )
    chosen = {way: best(found, way) for way in WAYS}
    alone, together = (results[chosen[way]] for way in WAYS)
    seconds = ([one["seconds"] for one in found[chosen[way]]] for way in WAYS)
    ratios = [slow / fast for slow, fast in zip(*seconds, strict=True)]
    ratio, spread = float(np.median(ratios)), f"{min(ratios):.2f} .. {max(ratios):.2f}"
    cpu = alone["server_cpu_ms_per_action"] / together["server_cpu_ms_per_action"]
    print(f"compared: {chosen[TOGETHER]}; {chosen[ALONE]}")
    print(f"together: {ratio:.2f} x the actions ({spread}); goal {GOAL:g} x, and a p99 that is no higher")
    print(f"one at a time takes {cpu:.2f} x the server's CPU time")
    print(f"actions that differ from the policy's own for the image alone: {different}")
    ok = ratio >= GOAL and together["p99_ms"] <= alone["p99_ms"] and different == 0
    print(
        json.dumps(
            {
                "benchmark": "serve",
                "robots": arguments.robots,
                "ratio": round(ratio, 3),
                "ratio_of_cpu": round(cpu, 3),
                "goal": GOAL,
                "different_actions": different,
                "pass": bool(ok),
                "compared": [str(setting) for setting in chosen.values()],
                "results": {str(setting): row for setting, row in results.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
