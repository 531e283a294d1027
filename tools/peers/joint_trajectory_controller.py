"""ros2_control's own ``trajectory.cpp``, four releases of it, beside the simulated controller.

Each release's file is compiled unchanged against small headers of ours (``shims/``) and fed with the
messages of the golden table and with random ones. The table must come out as it is committed, and the
simulated controller must command the same positions.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np

from openvla_ros.errors import InvalidValueError
from openvla_ros.robot.motion.joint_path import Waypoint
from openvla_ros.robot.motion.joint_trajectory_controller import RELEASES, JointTrajectoryController
from peers.rows import PeerError, Row

NAME = "ros2-controllers"
ADDRESS = "https://github.com/ros-controls/ros2_controllers"
HERE = Path(__file__).parent
TABLE = HERE.parents[1] / "ros2_ws/src/openvla_ros/tests/data/joint_trajectory_controller.json"
STARTS = ("measured", "desired")
START_S = 1.0
TOLERANCE = 1e-8  # the table has nine digits
RANDOM_SCENARIOS = 200


def check(build: Path, source: Path | None) -> list[Row]:
    """Return a row for each release: the table and the simulated controller against the original."""
    table = json.loads(TABLE.read_text())
    rng = np.random.default_rng(0)
    random = [random_messages(rng, len(table["measured"])) for _ in range(RANDOM_SCENARIOS)]
    clone = source or clone_into(build / NAME)
    rows = []
    for release in RELEASES:
        version = table["versions"][release]
        program = compile_release(clone, build / f"{NAME}-{version}", release, version)
        from_table = from_ours = 0.0
        runs = 0
        for start in STARTS:
            for scenario in table["scenarios"]:
                right = original(program, release, start, table, scenario["messages"])
                from_table = max(from_table, worst(right, committed(scenario, f"{release}/{start}")))
                from_ours = max(from_ours, worst(right, ours(release, start, table, scenario["messages"])))
                runs += 1
            for messages in random:
                simulated = ours(release, start, table, messages)
                right = original(program, release, start, table, messages)
                from_ours = max(from_ours, worst(right, simulated))
                runs += 1
        ours_said = f"off by {from_ours:.1e} rad in {runs} runs"
        rows += [
            Row(
                NAME, version, f"{release}: golden table", from_table < TOLERANCE, f"off by {from_table:.1e}"
            ),
            Row(NAME, version, f"{release}: simulated controller", from_ours < TOLERANCE, ours_said),
        ]
    return rows


def clone_into(folder: Path) -> Path:
    """Fetch the repository, without file contents until they are asked for."""
    if not folder.exists():
        done = subprocess.run(
            ["git", "clone", "--quiet", "--bare", "--filter=blob:none", ADDRESS, str(folder)], check=False
        )
        if done.returncode:
            raise PeerError(f"{ADDRESS} could not be cloned; with a clone at hand: --source {NAME}=FOLDER")
    return folder


def compile_release(clone: Path, folder: Path, release: str, version: str) -> Path:
    """Return the program that runs ``trajectory.cpp`` of ``version``."""
    if shutil.which("g++") is None:
        raise PeerError("no g++: sudo apt-get install -y g++")
    package = "joint_trajectory_controller"
    folder.mkdir(parents=True, exist_ok=True)
    archive = subprocess.run(
        ["git", "-C", str(clone), "archive", version, package], check=False, capture_output=True
    )
    if archive.returncode:
        raise PeerError(f"{clone} has no version {version}: {archive.stderr.decode().strip()}")
    subprocess.run(["tar", "x", "-C", str(folder)], input=archive.stdout, check=True)
    program = folder / "commands"
    macro = ["-DHUMBLE"] if release == "humble" else []
    command = [
        "g++", "-std=c++17", "-O1", *macro, f"-I{HERE / 'shims'}", f"-I{folder / package / 'include'}",
        str(HERE / "joint_trajectory_controller.cpp"), str(folder / package / "src" / "trajectory.cpp"),
        "-o", str(program),
    ]  # fmt: skip
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise PeerError(f"trajectory.cpp of {version} does not compile: {done.stderr.strip()[-400:]}")
    return program


def original(program: Path, release: str, start: str, table: dict, messages: list[dict]) -> np.ndarray:
    """Return what the original commands, (N, J)."""
    by_cycle = {message["cycle"]: message for message in messages}
    lines = []
    for cycle, (position, velocity) in enumerate(table["measured"]):
        message = by_cycle.get(cycle)
        points = [] if message is None else message["points"]
        lines.append(f"{values(position)} {values(velocity)} {len(points)}")
        if message is not None:
            lines.append("none" if message["stamp_ms"] is None else str(message["stamp_ms"]))
        for point in points:
            fields = (f"{len(point[key])} {values(point[key])}" for key in "pva")
            lines.append(f"{point['ms']} {' '.join(fields)}")
    done = subprocess.run(
        [str(program), release, start, str(table["cycle_ms"])],
        input="\n".join(lines), check=True, capture_output=True, text=True,
    )  # fmt: skip
    return np.array([[float(value) for value in line.split()] for line in done.stdout.splitlines()])


def values(numbers: list[float]) -> str:
    """Return numbers as the program reads them, to the last bit."""
    return " ".join(repr(float(number)) for number in numbers)


def ours(release: str, start: str, table: dict, messages: list[dict]) -> np.ndarray:
    """Return what the simulated controller commands, (N, J)."""
    cycle_s = table["cycle_ms"] / 1e3
    joints = ["a", "b"]
    first = table["measured"][0][0]
    controller = JointTrajectoryController(joints, first, cycle_s, release, start == "desired")
    by_cycle = {message["cycle"]: message for message in messages}
    commands = []
    for cycle, (position, velocity) in enumerate(table["measured"]):
        now_s = START_S + cycle * cycle_s
        message = by_cycle.get(cycle)
        if message is not None:
            points, stamp_ms = message["points"], message["stamp_ms"]
            times = [point["ms"] / 1e3 for point in points]
            rows = [[point[key] for point in points] for key in "pva"]
            stamp_s = None if stamp_ms is None else START_S + stamp_ms / 1e3
            try:
                controller.receive(joints, times, rows[0], rows[1], rows[2], stamp_s, now_s)
            except InvalidValueError as error:
                raise PeerError(f"a message meant to be valid is refused: {error}") from error
        state = Waypoint(now_s, np.array(position), np.array(velocity))
        commands.append(controller.update(now_s, state).position)
    return np.array(commands)


def committed(scenario: dict, key: str) -> np.ndarray:
    """Return the table's commands; a string there names the row with the same numbers."""
    right = scenario["commands"][key]
    return np.array(scenario["commands"][right] if isinstance(right, str) else right)


def worst(a: np.ndarray, b: np.ndarray) -> float:
    """Return the largest difference; infinite where the shapes differ."""
    return float(np.abs(a - b).max()) if a.shape == b.shape else float("inf")


def random_messages(rng: np.random.Generator, cycles: int) -> list[dict]:
    """Return messages at random cycles: late, early, without a stamp, of one to four points."""
    messages = []
    for cycle in sorted(rng.choice(cycles, rng.integers(1, 8), replace=False).tolist()):
        times = np.cumsum(rng.integers(1, 60, rng.integers(1, 5))).tolist()
        kind = rng.choice(["p", "pv", "pva"])
        points = []
        for index, time in enumerate(times):
            last = index == len(times) - 1
            velocity = [0.0, 0.0] if last else rng.normal(0.0, 0.5, 2).round(6).tolist()
            points.append({
                "ms": int(time) - (1 if index == 0 and rng.random() < 0.3 else 0),
                "p": rng.normal(0.0, 0.3, 2).round(6).tolist(),
                "v": velocity if "v" in kind else [],
                "a": rng.normal(0.0, 1.0, 2).round(6).tolist() if "a" in kind else [],
            })  # fmt: skip
        # Neither over nor, in effect, without a stamp: both are the controller's own rules, tested apart.
        earliest = max(-500, cycle * 10 - int(times[-1]) + 2)
        stamp = None if rng.random() < 0.2 else int(rng.integers(earliest, cycle * 10 + 40))
        messages.append({"cycle": cycle, "stamp_ms": stamp, "points": points})
    return messages
