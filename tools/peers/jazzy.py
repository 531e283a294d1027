"""ROS 2 Jazzy and Kilted on one robot: each runs it while the other asks, and both share its nodes.

Jazzy's wheels live in an environment of their own, with this checkout's package. Everything between the two
crosses DDS: images, chunks, joint states, services, parameters and the action.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from openvla_ros.bringup.dds import KILTED_RCLPY, PROFILE_VARIABLES
from openvla_ros.bringup.graph import GraphOptions, build_graph
from openvla_ros.bringup.supervisor import child_environment
from openvla_ros.data.bags.bag_reader import BagReader
from openvla_ros.resources import share_path
from peers.environments import called, with_packages
from peers.piped_simulation import CHECKPOINT, CLIENTS, PROGRAM, ROBOT
from peers.rows import PeerError, Row
from setup_environment import EXTRAS, INTERFACES, PACKAGE, constraints

NAME, PYTHON = "jazzy", "python3.12"
ROOT = Path(__file__).resolve().parents[2]
CLIENT = CLIENTS / "jazzy_programs.py"
DOMAIN = "78"  # of DDS: nobody else's robot is moved
TASK, SEED = "lift", "100"
# Starting MuJoCo, PyTorch and discovery on two busy cores; how often a check is tried until the robot is up.
CALL_S, ATTEMPTS = 180.0, 8
TIME_LIMIT_S, WATCH_S = 40.0, 8.0
MOVED_M, LEAST_IMAGES = 0.05, 20
Result = tuple[str, bool, str]


class Side(NamedTuple):
    """A ROS release and its Python."""

    release: str
    python: Path


def check(build: Path, source: Path | None) -> list[Row]:
    """Return a row for each thing that crosses between the releases; ``source`` is Jazzy's environment."""
    if int(version("rclpy").partition(".")[0]) < KILTED_RCLPY:
        raise PeerError("this environment is not Kilted's: make setup ROS=kilted")
    jazzy, kilted = Side("Jazzy", environment(build / NAME, source)), Side("Kilted", Path(sys.executable))
    found = installed(jazzy)
    if not found.startswith("7."):
        raise PeerError(f"{jazzy.python} has ros-rclpy {found}; Jazzy's is 7")
    work = build / f"{NAME}-results"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    rows = [("the action's types in both", *action_types(jazzy, kilted))]
    for robot, asking in ((jazzy, kilted), (kilted, jazzy)):
        rows += operated(robot, asking, work)
    rows += shared(robot=jazzy, policy=kilted, work=work)
    return [Row(NAME, found, *row) for row in rows]


def environment(folder: Path, source: Path | None) -> Path:
    """Return the Python of an environment with Jazzy's wheels and this package; made if it is not there."""
    if source is not None:
        found = next(
            (p for p in (source / "bin" / "python", source / "venv" / "bin" / "python") if p.exists()), None
        )
        if found is None:
            raise PeerError(f"{source} is no virtual environment")
        return found
    pins = constraints(NAME)
    torch = next(pin for pin in pins if pin.startswith("torch=="))
    # PyTorch first and alone, as tools/setup_environment.py does.
    python = with_packages(folder, PYTHON, (torch, "setuptools", "wheel"))
    done, wanted = folder / "package.txt", "\n".join(pins)
    if not done.is_file() or done.read_text(encoding="utf-8") != wanted:
        merged = folder / "constraints.txt"
        merged.write_text(f"{wanted}\n", encoding="utf-8")
        pip = [str(python), "-m", "pip", "install", "--quiet", "--use-pep517", "--no-build-isolation"]
        called([*pip, "-c", str(merged), "-e", f"{PACKAGE}[{EXTRAS}]"], "the package cannot be installed")
        builder = INTERFACES.parents[2] / "tools" / "build_interfaces.py"
        called([str(python), str(builder), "--install"], "the action's types cannot be built")
        done.write_text(wanted, encoding="utf-8")
    return python


def installed(side: Side) -> str:
    """Return the version of a side's rclpy."""
    ask = "from importlib.metadata import version; print(version('ros-rclpy'))"
    return called([str(side.python), "-c", ask], f"{side.python} does not run").strip()


def action_types(*sides: Side) -> tuple[bool, str]:
    """Return whether both sides tell by the action, not by the topic that stands in for it."""
    ask = "from openvla_interfaces.action import ExecuteInstruction; print('there')"
    without = [side.release for side in sides if run(side, "-c", ask).returncode]
    return not without, f"missing in {', '.join(without)}: no g++?" if without else "ExecuteInstruction"


def operated(robot: Side, asking: Side, work: Path) -> Iterator[Result]:
    """Yield what ``asking`` gets of a robot that ``robot`` runs, from the check to the emergency stop."""
    pair = f"{robot.release} up, {asking.release}"
    log = work / f"{robot.release.lower()}_up.log"
    options = ["--robot", ROBOT, "--policy", "expert", "--task", TASK]
    with started(robot, ["-c", PROGRAM, "up", *options], log) as up:
        yield f"{pair} check", *checked(asking)
        words = program(asking, "lay", TASK, SEED)
        yield f"{pair} sets parameters", isinstance(words, str) and "cube" in words, f"the scene: {words!r}"
        for verb in ("home", "neutral"):
            done = openvla(asking, verb)
            yield f"{pair} {verb}", done.returncode == 0, last_line(done)
        program(asking, "order", "controller/give_to_policy")
        yield from told(asking, pair, str(words), work / f"{asking.release.lower()}_recording")
        yield from stopped(asking, pair)
    yield f"{pair}: how up ends", up.returncode == 0, f"exit code {up.returncode} after an interrupt"


def checked(asking: Side) -> tuple[bool, str]:
    """Return whether ``openvla check`` finds no error; it is asked again until the robot is up."""
    errors = ["not asked"]
    for _ in range(ATTEMPTS):
        done = openvla(asking, "check", ROBOT, "--seconds", "3", "--json")
        findings = answer(done)["findings"]
        errors = [f"{f['subject']}: {f['message']}" for f in findings if f["level"] == "error"]
        if not errors:
            levels = [f["level"] for f in findings]
            return True, ", ".join(f"{levels.count(level)} {level}" for level in dict.fromkeys(levels))
    return False, "; ".join(errors)[:200]


def told(asking: Side, pair: str, words: str, folder: Path) -> Iterator[Result]:
    """Yield how an instruction ends, and what the other side's recorder and subscribers get meanwhile."""
    arguments = ["-r", "__node:=recorder", "-p", f"robot:={ROBOT}", "-p", f"folder:={folder}"]
    nodes = ["-m", "openvla_ros.nodes", "recorder_node", "--ros-args", *arguments]
    with started(asking, nodes, folder.with_suffix(".log")):
        begun = program(asking, "record", words)
        done = openvla(asking, "tell", words, "--time-limit", f"{TIME_LIMIT_S:g}", "--json")
        program(asking, "order", "recorder/stop_success")
    outcome = answer(done)
    said = f"{outcome['outcome']} after {outcome['steps']} steps, {outcome['duration_s']:.1f} s"
    yield f"{pair} tell", outcome["outcome"] == "succeeded", said
    episode = folder / "episode_000000"
    if not episode.is_dir():
        yield f"{pair} records", False, f"nothing was recorded: {begun['said']}"
        return
    with BagReader(episode) as reader:
        stamps = reader.stream("camera/primary/image_raw").stamps_ns
        images = reader.episode().images["primary"]
        plain = sum(images[i].std() < 5.0 for i in range(len(images)))
        lost = reader.metadata.quality.get("camera/primary/image_raw undelivered", "0")
    yield (
        f"{pair} records",
        len(stamps) >= LEAST_IMAGES and not plain and len(images) > 0,
        f"{len(stamps)} images, {lost} undelivered, {len(images)} steps",
    )


def stopped(asking: Side, pair: str) -> Iterator[Result]:
    """Yield whether hold and the emergency stop stop the arm for the other side, until they are undone."""
    done = openvla(asking, "hold")
    yield f"{pair} hold", done.returncode == 0, last_line(done)
    started_s = time.monotonic()
    done = openvla(asking, "estop")
    took_s = time.monotonic() - started_s
    given = program(asking, "order", "controller/give_to_policy")
    refused = not given["done"] and "e_stop" in given["said"]
    yield (
        f"{pair} estop",
        done.returncode == 0 and refused,
        f"{took_s:.1f} s with the program's start; {given['said']}",
    )
    done = openvla(asking, "reset-estop")
    yield f"{pair} reset-estop", done.returncode == 0, last_line(done)


def shared(robot: Side, policy: Side, work: Path) -> Iterator[Result]:
    """Yield how a policy of one release drives the simulation and controller of the other, on its images."""
    pair = f"{robot.release} robot, {policy.release} policy"
    options = GraphOptions(ROBOT, policy="openvla", policy_parameters={"checkpoint": CHECKPOINT})
    graph = build_graph(options, os.environ)
    with ExitStack() as stack:
        for node in sorted(graph.nodes, key=lambda node: -node.stop_order):
            side = policy if node.name == "policy" else robot
            arguments = ["-m", *node.program, "--ros-args", *node.ros_arguments("")]
            log = work / f"shared_{node.name}.log"
            stack.enter_context(started(side, arguments, log, graph.environment))
        yield f"{pair}: check", *checked(policy)
        words = str(program(robot, "lay", TASK, SEED))
        openvla(robot, "neutral")
        program(robot, "order", "controller/give_to_policy")
        with subprocess.Popen(
            [str(robot.python), "-P", str(CLIENT), "watch", f"{WATCH_S:g}"],
            stdout=subprocess.PIPE, text=True, env=surroundings(),
        ) as watching:  # fmt: skip
            done = openvla(policy, "tell", words, "--time-limit", f"{TIME_LIMIT_S:g}", "--json")
            seen = json.loads(watching.communicate(timeout=CALL_S)[0].splitlines()[-1])
        outcome = answer(done)
        said = f"{outcome['outcome']} after {outcome['steps']} steps, {outcome['duration_s']:.1f} s"
        yield f"{pair}: {CHECKPOINT}", outcome["outcome"] == "succeeded", said
        said = f"{seen['chunks']} chunks, the tool went {seen['moved_m']:.2f} m, refused {seen['refused']}"
        yield f"{pair}: chunks", seen["chunks"] > 5 and seen["moved_m"] > MOVED_M, said


@contextmanager
def started(
    side: Side, arguments: Sequence[str], log: Path, extra: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program of a side; it is interrupted at the end."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            [str(side.python), "-P", *arguments],
            stdout=file, stderr=subprocess.STDOUT, env=surroundings(extra),
        )  # fmt: skip
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(60.0)
            if process.poll() is None:
                process.kill()
                process.wait()


def run(side: Side, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program of a side to its end."""
    command = [str(side.python), "-P", *arguments]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, env=surroundings(), timeout=CALL_S
    )


def openvla(side: Side, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program ``openvla`` of a side."""
    return run(side, "-c", PROGRAM, *arguments)


def program(side: Side, *arguments: str) -> Any:
    """Return what ``clients/jazzy_programs.py`` of a side prints last."""
    return answer(run(side, str(CLIENT), *arguments))


def answer(done: subprocess.CompletedProcess[str]) -> Any:
    """Return the JSON that a program printed last."""
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise PeerError(f"{' '.join(done.args[2:])[:80]}: {done.stderr.strip()[-400:]}") from error


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return what a program said last."""
    return ((done.stdout.strip() or done.stderr.strip()).splitlines() or ["nothing"])[-1][:150]


def surroundings(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of both sides' programs: a ROS domain apart, this package, room for images."""
    # Fast DDS 2 reads the older of the two names alone.
    profiles = dict.fromkeys(PROFILE_VARIABLES, str(share_path() / "config" / "dds" / "fastdds.xml"))
    mine = {"PYTHONPATH": str(PACKAGE), "ROS_DOMAIN_ID": DOMAIN, "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    return child_environment(os.environ, {**(extra or {}), **mine, **profiles, "CUDA_VISIBLE_DEVICES": ""})
