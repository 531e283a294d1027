"""franky-control and franky-sim: our nodes drive an FR3 over libfranka's own protocol, without ros2_control.

Every figure of a motion is looked at where the arm is: in the simulator, at each of its milliseconds and at
each command that reaches it. In the environment, ``FRANKY_KILLS`` is how often each process of
``FRANKY_KILLED`` (default: all) is killed in the middle of a motion, ``FRANKY_MINUTES`` how long the long
motion takes, and ``FRANKY_PARTS`` names the functions below to run, if not all.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from openvla_ros.api import open_dataset
from openvla_ros.errors import OpenVLARosError
from openvla_ros.programs.operator import tell_robot
from openvla_ros.programs.replay_on_robot import Replay, ReplayResult
from openvla_ros.values.episode import Episode
from peers.environments import called, with_packages
from peers.franky_cell import ADDRESS, Cell
from peers.rows import PeerError, Row
from setup_environment import constraints

NAME = "franky"
FRANKY, SIMULATOR = "2.0.0", "1.0.4"
KILLS, MINUTES = int(os.environ.get("FRANKY_KILLS", "3")), float(os.environ.get("FRANKY_MINUTES", "1"))
KILLED = os.environ.get("FRANKY_KILLED", "franky setpoints controller policy arm").split()
# An arm whose commands end stands after its own stop: from 0.4 rad/s within its acceleration.
STOP_S, STILL_S = 3.0, 1.0
ASKED_S = 6.0  # with a person's order before it
STILL_RAD = 0.01  # what an arm that is left alone may sag
NEAR_RAD = 0.025  # and how far it goes to setpoints that it counts as being where it is
GRIPPER_M = 0.001
TRACKED_RAD = 0.2
REACHED_M = 0.03
ATTEMPTS = 4
PERIOD_S, GAP_S = 0.005, 0.05
Result = tuple[str, bool, str]


def check(build: Path, source: Path | None) -> list[Row]:
    """Return a row for each thing that the arm was asked; ``source`` is the environment at hand."""
    python = source / "venv" / "bin" / "python" if source else environment(build / NAME)
    work = build / f"{NAME}-results"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    rows: list[Result] = []
    with Cell(python, work) as cell:
        rows.append(versions(python))
        cell.up()
        wanted = os.environ.get("FRANKY_PARTS", "").split()
        for part in (part for part in PARTS if not wanted or part.__name__ in wanted):
            try:
                for row in part(cell):
                    rows.append(row)
                    print(*row, file=sys.stderr, flush=True)  # a run takes minutes
            except (PeerError, OpenVLARosError) as error:
                rows.append((part.__name__.replace("_", " "), False, str(error)[:300]))
                print(*rows[-1], file=sys.stderr, flush=True)
                if not cell.is_up:
                    cell.down()
                    cell.up()
                recover(cell)
    return [Row(NAME, FRANKY, *row) for row in rows]


def environment(folder: Path) -> Path:
    """Return the Python of an environment with franky, its simulator and ROS; made if it is not there."""
    ros = tuple(pin for pin in constraints("kilted") if pin.startswith("ros-"))
    rclpy = next(pin for pin in ros if pin.startswith("ros-rclpy=="))
    wheels = (*ros, rclpy.replace("==", "[fastrtps]=="))
    packages = (f"franky-control=={FRANKY}", f"franky-sim=={SIMULATOR}", "pydantic", "PyYAML", "numpy")
    return with_packages(folder, "python3.11", (*packages, *wheels))


def versions(python: Path) -> Result:
    """Return whether the wheel's libfranka is one that the table knows to speak the simulator's protocol."""
    from openvla_ros.franka_driver.host import COMPATIBILITY, bundled_libfranka

    ask = "import franky, pathlib; print(pathlib.Path(franky.__file__).parent)"
    found = bundled_libfranka(Path(called([str(python), "-c", ask], "franky is not there").strip()))
    row = COMPATIBILITY[0]
    said = f"libfranka {found or 'unknown'}; the table: server {row.server} needs {row.libfranka}"
    return "versions", tuple(map(int, found.split("."))) >= (0, 18, 0), said


def clean(cell: Cell) -> tuple[bool, str]:
    """Return whether the arm has seen no violation so far, and how near it came."""
    report = cell.arm.ask()
    worst = ", ".join(f"{kind} {share:.2f}" for kind, share in report["worst"].items())
    return not report["violations"], f"violations {report['violations'] or 0}; largest shares: {worst}"


def named_poses(cell: Cell) -> Iterator[Result]:
    """Yield how the arm goes to each named pose."""
    for name in ("home", "neutral", "park", "home"):
        began_s = time.monotonic()
        cell.go(name)
        cell.still(STILL_S)
        off = np.abs(np.array(cell.arm.ask()["q"]) - getattr(cell.profile.arm, name)).max()
        took_s = time.monotonic() - began_s
        yield name, off < TRACKED_RAD / 20.0, f"{1e3 * off:.1f} mrad off at the arm, after {took_s:.1f} s"
    yield "limits at the arm", *clean(cell)


def gripper(cell: Cell) -> Iterator[Result]:
    """Yield what the hand is told for openings, and whether what we report is its width."""
    opening_of, backend = cell.profile.gripper.position_m, cell.profile.gripper_backend
    cell.order("controller/give_to_teleop")
    for opening, kind in ((1.0, "move"), (0.0, "grasp"), (1.0, "move")):
        action = np.zeros(7)
        action[6] = opening
        before = len(cell.arm.ask()["gripper"])

        def told(before: int = before) -> bool:
            return len(cell.arm.ask()["gripper"]) > before

        for _ in range(20):
            cell.teleoperate(0.5, lambda _now, action=action: action)
            if told():
                break
        else:
            yield f"gripper {opening:g}", False, "the hand was told nothing"
            continue
        cell.client.listen(2.5)
        report = cell.arm.ask()
        said, wanted_m = report["gripper"][-1], 2.0 * opening_of(opening)
        seen_m = 2.0 * cell.motion.finger_m
        right = said[0] == kind and abs(said[1] - wanted_m) < GRIPPER_M
        right = right and abs(seen_m - report["width_m"]) < GRIPPER_M
        right = right and (kind == "move" or said[3] == backend.force_n)
        widths = (said[1], report["width_m"], seen_m)
        width = "told {:.1f} mm, is {:.1f} mm, reported {:.1f} mm".format(*(1e3 * w for w in widths))
        yield f"gripper {opening:g}: {said[0]}", right, width
    cell.order("controller/hold")


def taught(cell: Cell) -> Iterator[Result]:
    """Yield how the arm is teleoperated, and how what was recorded meanwhile is played again."""
    cell.go("neutral")
    cell.order("controller/give_to_teleop")

    def circle(now_s: float) -> np.ndarray:
        return np.array([0.01 * np.cos(now_s), 0.01 * np.sin(now_s), 0.004 * np.sin(2 * now_s), 0, 0, 0, 1.0])

    cell.arm.ask("mark")
    with cell.recording("draw a circle"):
        cell.teleoperate(6.0, circle)
    farthest = cell.arm.ask()["farthest_rad"]
    yield "teleoperation", farthest > 0.05, f"a joint moved {farthest:.2f} rad"
    cell.order("controller/hold")
    folder = cell.work / "recordings"
    episodes = open_dataset(folder)
    episode = episodes[len(episodes) - 1]
    yield "recording", len(episode) > 10, f"{len(episode)} steps, {episode.instruction!r}"
    cell.go("neutral")
    cell.order("controller/give_to_policy")
    result = played(cell, episode)
    tracking = result.tracking
    said = (
        f"{tracking.steps} steps, {1e3 * tracking.mean_m:.1f} mm mean, "
        f"{1e3 * tracking.max_m:.1f} mm at most, refusals {result.reasons or 0}"
    )
    yield "replay on the arm", tracking.mean_m < REACHED_M and not result.stopped, said
    cell.down()
    cell.up("replay", {"dataset": str(folder), "episode": len(episodes) - 1})
    cell.go("neutral")
    cell.order("controller/give_to_policy")
    cell.arm.ask("mark")
    outcome = tell_robot(cell.profile, "", "draw a circle", 30.0, lambda *_: None)
    farthest = cell.arm.ask()["farthest_rad"]
    said = f"{outcome.outcome}: {outcome.steps} steps, a joint moved {farthest:.2f} rad"
    yield "a policy", outcome.steps >= len(episode) - 2 and farthest > 0.05, said
    cell.down()
    cell.up()
    yield "limits at the arm, taught", *clean(cell)


def played(cell: Cell, episode: Episode) -> ReplayResult:
    """Return what came of the episode; again where other work kept the joint states from the controller."""
    for _ in range(ATTEMPTS - 1):
        with suppress(OpenVLARosError):
            return Replay(cell.profile, episode, cell.client).run("neutral", lambda: False)
        cell.go("neutral")
        cell.order("controller/give_to_policy")
    return Replay(cell.profile, episode, cell.client).run("neutral", lambda: False)


def reflex(cell: Cell) -> Iterator[Result]:
    """Yield what a reflex in the middle of a motion does, and how the arm recovers from it."""
    for number in range(2):
        away = "park" if number % 2 == 0 else "home"
        cell.go("home" if away == "park" else "park")
        cell.set_off(away)
        cell.arm.ask("reflex")
        said = cell.client.wait(lambda: cell.said("franky", "cartesian_reflex"), 5.0)
        stands = cell.still(STILL_S)
        cell.arm.ask("mark")
        cell.client.listen(3.0)
        report = cell.arm.ask()
        stays = report["farthest_rad"] < STILL_RAD and not report["in_control"]
        yield (
            "a reflex stops it for good",
            said and stands and stays,
            f"moved {report['farthest_rad']:.4f} rad",
        )
        recover(cell)
        recovered = cell.arm.ask()["recoveries"] > number
        cell.go(away)
        yield "recovered by a person", recovered, f"then went to {away}"


def recover(cell: Cell) -> None:
    """Ask for recovery, as a person would."""
    with suppress(OpenVLARosError):
        cell.client.ask("controller/recover")
    cell.client.listen(4.0)


def killed(cell: Cell) -> Iterator[Result]:
    """Yield how the arm stops when a process is killed in the middle of a motion, and goes on when asked."""
    for name in KILLED:
        slowest_s = 0.0
        moved = 0.0
        for number in range(KILLS):
            if not cell.is_up:
                cell.down()
                cell.up()
            cell.go("home")
            cell.set_off("park")
            began_s = time.monotonic()
            if name == "arm":
                cell.renew_arm()
            else:
                os.kill(cell.pid(name), signal.SIGKILL)
                if name == "policy":  # the arm is on its way for a person
                    cell.client.listen(0.5)
                    cell.order("controller/hold")
                if not cell.still(STILL_S, 12.0):
                    raise PeerError(f"{name}, kill {number}: the arm still moves")
                slowest_s = max(slowest_s, time.monotonic() - began_s - STILL_S)
            cell.arm.ask("mark")
            cell.client.listen(6.0)  # whoever was killed has come back, or everything has stopped
            report = cell.arm.ask()
            moved = max(moved, report["farthest_rad"])
            if not cell.is_up:
                cell.down()
                cell.up()
            if report["error"] is not None:
                recover(cell)
            if name == "arm":  # it stands elsewhere: the commands go there once the arm is nobody's
                cell.order("controller/give_to_teleop")
                cell.client.listen(3.0)
        cell.go("home")
        said = f"{KILLS} times; stood after {slowest_s:.1f} s at most, then moved {moved:.4f} rad"
        right = slowest_s < (ASKED_S if name == "policy" else STOP_S) and moved < NEAR_RAD
        yield f"killed: {name}", right, said
    yield "limits at the arm, after kills", *clean(cell)


def long_motion(cell: Cell) -> Iterator[Result]:
    """Yield tracking error, jitter and missed cycles of a motion that goes on for minutes."""
    cell.go("home")
    cell.motion.clear()
    before = dict(cell.motion.health["arm"])
    deadline_s = time.monotonic() + 60.0 * MINUTES
    errors: list[float] = []
    poses = ["park", "home"]
    motions = 0
    while time.monotonic() < deadline_s:
        cell.go(poses[0])
        poses.reverse()
        motions += 1
        errors += tracked(cell)
        cell.motion.clear()
    after, loop = cell.motion.health["arm"], cell.motion.health["control period"]
    counted = {name: int(after[name]) - int(before[name]) for name in ("setpoints", "missed", "braked")}
    said = (
        f"{motions} motions in {MINUTES:g} min; behind the reference {1e3 * np.mean(errors):.0f} mrad mean, "
        f"{1e3 * np.max(errors):.0f} at most; {counted['setpoints']} setpoints, {counted['missed']} cycles "
        f"of {1e3 * PERIOD_S:g} ms without one, {counted['braked']} braked; cycles late by "
        f"{loop['p95_ms']} ms (p95), {loop['max_ms']} ms at most, {loop['missed']} left out"
    )
    yield "a long motion", bool(np.max(errors) < TRACKED_RAD), said
    yield "limits at the arm, long motion", *clean(cell)


def tracked(cell: Cell) -> list[float]:
    """Return how far the measured joints were from each reference, rad."""
    references, states = list(cell.motion.references), list(cell.motion.states)
    if len(references) < 2 or len(states) < 2:
        return []
    times = np.array([time_s for time_s, _ in references])
    at, measured = np.array([t for t, _ in states]), np.array([q for _, q in states])
    wanted = np.array([q for _, q in references])
    # Between states that came one after the other: this program may have slept through some.
    after = np.clip(np.searchsorted(at, times), 1, len(at) - 1)
    inside = (times >= at[after - 1]) & (times <= at[after]) & (at[after] - at[after - 1] < GAP_S)
    there = np.array([np.interp(times[inside], at, measured[:, j]) for j in range(measured.shape[1])]).T
    return [float(lag) for lag in np.abs(there - wanted[inside]).max(axis=1)]


def ended(cell: Cell) -> Iterator[Result]:
    """Yield whether an interrupt in the middle of a motion ends every node in order, with the arm at rest."""
    cell.go("home")
    cell.set_off("park")
    codes = cell.down()
    stands = cell.still(STILL_S)
    right = stands and not any(codes.values()) and not cell.arm.ask()["in_control"]
    yield "interrupted in a motion", right, f"exit codes {codes}"
    yield "the address", True, f"{ADDRESS}, given as robot_address"


PARTS = (named_poses, gripper, taught, reflex, long_motion, killed, ended)
