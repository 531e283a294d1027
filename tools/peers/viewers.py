"""What ``openvla view`` shows, read back from the real viewers' own formats and protocols.

A simulated robot carries out an instruction and is recorded, first alone and then watched by both viewers.
rerun's reader, and Foxglove's file and websocket, must give the recording's joints, probabilities, verdicts
and images,
and the watched robot must be commanded as the other was. The viewers' packages live in an environment of
their own, which the programs here (``clients/viewers_programs.py``, ``openvla view``) see beside ROS.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from openvla_ros.bringup.graph import GraphOptions
from openvla_ros.profile import load_profile
from openvla_ros.programs.live_robot import LiveRobot
from openvla_ros.robot.kinematics.urdf import find_urdf
from openvla_ros.viewing.robot_figure import RobotFigure
from peers.environments import called, with_packages
from peers.piped_simulation import CHECKPOINT, CLIENTS, PROGRAM, ROBOT, TASK
from peers.recorded_truth import Truth, read_truth
from peers.rows import PeerError, Row

NAME = "viewers"
ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "ros2_ws" / "src" / "openvla_ros"
PACKAGES = ("-c", str(ROOT / "constraints.txt"), "rerun-sdk", "foxglove-sdk", "mcap-protobuf-support")
CLIENT = CLIENTS / "viewers_programs.py"
DOMAIN = "78"  # of DDS: nobody else's robot is watched
SECONDS, READY_S, END_S = 8.0, 90.0, 60.0
WEBSOCKET_PORT, RERUN_PORT, WEB_PORT, OWN_PORT = 18765, 19876, 19090, 19877
SEED = 7
FEWEST_COLOURS = 1000  # of a page with a camera's image in it; an empty one has a few dozen
MOST_LATER = 2.0  # how much longer the worst periods of the commands may be while somebody watches
SLACK_MS = 10.0
EDGE_NS = 200_000_000  # at both ends of a recording: two receivers do not get a message at one time
Result = tuple[str, str, bool, str]  # the viewer, what was compared, whether it holds, detail


def check(build: Path, source: Path | None) -> list[Row]:
    """Return a row for each thing that was compared; ``source`` is a folder with the viewers' packages."""
    site = source or packages(build / NAME)
    work = build / f"{NAME}-results"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    os.environ["ROS_DOMAIN_ID"] = DOMAIN
    versions = asked(site, "versions")
    rows = list(links(site))
    rows += live(site, work)
    rows += saved(site, work)
    rows += played(site, work)
    rows += page(site, work)
    rows += without_packages(work)
    return [Row(viewer, versions.get(viewer, ""), *rest) for viewer, *rest in rows]


def packages(folder: Path) -> Path:
    """Return the folder of packages of an environment that has the viewers."""
    python = with_packages(folder, f"python{sys.version_info.major}.{sys.version_info.minor}", PACKAGES)
    return Path(
        called([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], "").strip()
    )


def live(site: Path, work: Path) -> Iterator[Result]:
    """Record the robot alone and watched; compare what was seen live, and how it was commanded."""
    folder = work / "episodes"
    options = GraphOptions(
        robot=ROBOT,
        policy="openvla",
        policy_parameters={"checkpoint": CHECKPOINT},
        record=True,
        recorder_parameters={"folder": str(folder), "operator": "peers"},
    )
    with LiveRobot(options, work / "robot.log") as robot:
        record(robot)
        with ExitStack() as stack:
            to_file = ("--save", str(work / "live.rrd"))
            to_port = ("--in", "foxglove", "--port", str(WEBSOCKET_PORT))
            viewers = [
                stack.enter_context(viewing(site, "--robot", ROBOT, *how)) for how in (to_file, to_port)
            ]
            for viewer in viewers:
                wait_for(
                    robot, lambda name=f"viewer_{viewer.pid}": name in node_names(robot), name_of(viewer)
                )
            arguments = ("websocket", str(WEBSOCKET_PORT), str(SECONDS))
            client = stack.enter_context(started(site, CLIENT, *arguments))
            record(robot)
            publishers = {name: published(robot, name) for name in node_names(robot) if "viewer" in name}
            seen = answer(client)
            for viewer in viewers:
                end(viewer)
    alone, watched = (read_truth(path) for path in sorted(folder.glob("episode_*")))
    yield from commanded(alone, watched)
    extra = sorted(
        {topic for topics in publishers.values() for topic in topics} - {"/rosout", "/parameter_events"}
    )
    yield (
        "openvla view",
        "publishes nothing",
        bool(publishers) and not extra,
        f"{sorted(publishers)}: {extra}",
    )
    yield from compared("rerun", "live", asked(site, "rrd", str(work / "live.rrd")), watched, whole=False)
    yield from compared("foxglove", "live over websocket", seen, watched, whole=False)


def commanded(alone: Truth, watched: Truth) -> Iterator[Result]:
    """Yield whether the arm is commanded as well while it is watched."""
    before, after = (np.percentile(truth.periods_ms, [50, 99]) for truth in (alone, watched))
    kept = after[1] <= MOST_LATER * before[1] + SLACK_MS and abs(after[0] - before[0]) < 1.0
    said = (
        f"commands every {before[0]:.2f} ms (p99 {before[1]:.1f}) alone, {after[0]:.2f} ms "
        f"(p99 {after[1]:.1f}) watched"
    )
    yield "openvla view", "control period", bool(kept), said
    new = watched.reasons - alone.reasons - {"ok", "waiting"}
    bad = new & {"rival", "overrun", "state_stale"}
    yield (
        "openvla view",
        "verdicts",
        not bad,
        f"alone {sorted(alone.reasons)}, watched {sorted(watched.reasons)}",
    )


def saved(site: Path, work: Path) -> Iterator[Result]:
    """Yield whether the files that a recording becomes hold exactly what it holds."""
    episode = sorted((work / "episodes").glob("episode_*"))[-1]
    truth = read_truth(episode)
    rrd, mcap = work / "episode.rrd", work / "episode.mcap"
    run_view(site, str(episode), "--save", str(rrd))
    yield ("rerun", "rerun rrd verify", *rerun_says(site, "verify", str(rrd)))
    yield from compared("rerun", "file", asked(site, "rrd", str(rrd)), truth, whole=True)
    run_view(site, str(episode), "--in", "foxglove", "--save", str(mcap))
    yield from compared("foxglove", "file", asked(site, "mcap", str(mcap)), truth, whole=True)
    layout = SOURCE / "config" / "viewers" / "foxglove_layout.json"
    same = asked(site, "layout", str(mcap)) == json.loads(layout.read_text(encoding="utf-8"))
    yield "foxglove", "layout", same, "the shipped layout is the one that the file carries"


def played(site: Path, work: Path) -> Iterator[Result]:
    """Yield whether a client of the server gets what the recording holds, at the recording's pace."""
    episode = sorted((work / "episodes").glob("episode_*"))[-1]
    how = (str(episode), "--in", "foxglove", "--port", str(WEBSOCKET_PORT))
    with (
        viewing(site, *how) as viewer,
        started(site, CLIENT, "websocket", str(WEBSOCKET_PORT), "6") as client,
    ):
        seen = answer(client)
        end(viewer)
    yield from compared("foxglove", "recording over websocket", seen, read_truth(episode), whole=False)


def page(site: Path, work: Path) -> Iterator[Result]:
    """Yield whether rerun's page is served, to this machine alone."""
    episode = sorted((work / "episodes").glob("episode_*"))[-1]
    ports = ("--port", str(RERUN_PORT), "--web-port", str(WEB_PORT))
    with viewing(site, str(episode), "--serve", *ports) as viewer:
        found = asked(site, "page", str(RERUN_PORT), str(WEB_PORT))
        handed = asked(site, "served", str(RERUN_PORT), str(OWN_PORT), str(work / "served.rrd"))
        if shutil.which("chromium"):
            seen = asked(site, "picture", str(WEB_PORT), str(RERUN_PORT), str(work / "page.png"))
            drawn = seen["colours"] > FEWEST_COLOURS
            yield "rerun", "page in Chromium", drawn, f"{seen['colours']} colours, {work / 'page.png'}"
        end(viewer)
    yield from compared("rerun", "served", handed, read_truth(episode), whole=True)
    yield "rerun", "page", found["html"], f"{found['bytes']} bytes from 127.0.0.1:{WEB_PORT}"
    yield "rerun", "listens on loopback alone", found["addresses"] == ["127.0.0.1"], str(found["addresses"])
    left = asked(site, "listening", str(RERUN_PORT), str(WEB_PORT))
    yield "rerun", "ends with openvla view", not left, f"listening afterwards: {left}"


def links(site: Path) -> Iterator[Result]:
    """Yield whether the links stand where rerun's own reader of URDFs puts them."""
    for name in ("sim_widowx", "sim_franka"):
        profile = load_profile(name)
        arm, gripper = profile.arm, profile.gripper
        finger = (gripper.open_m + gripper.closed_m) / 2
        right = asked(
            site, "urdf", str(find_urdf(arm.urdf)), arm.base_link,
            json.dumps({**dict(zip(arm.joints, arm.neutral, strict=True)), gripper.joint: finger}),
        )  # fmt: skip
        ours = RobotFigure.of(profile).poses(np.array(arm.neutral), finger)
        off = [float(np.abs(ours[link].matrix - np.array(matrix)).max()) for link, matrix in right.items()]
        missing = set(ours) ^ set(right)
        said = (
            f"{len(off)} links, at most {1000 * max(off):.4f} mm off; {sorted(missing) or 'none'} only in one"
        )
        yield "rerun", f"links of {name}", max(off) < 1e-6 and not missing, said


def without_packages(work: Path) -> Iterator[Result]:
    """Yield what a person reads where the viewers' packages are not installed."""
    episode = sorted((work / "episodes").glob("episode_*"))[-1]
    for viewer, file, package in (("rerun", "a.rrd", "rerun-sdk"), ("foxglove", "a.mcap", "foxglove-sdk")):
        how = [str(episode), "--in", viewer, "--save", str(work / file)]
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, "view", *how],
            capture_output=True, text=True, check=False, env=surroundings(None),
        )  # fmt: skip
        line = done.stderr.strip()
        good = done.returncode == 1 and f"pip install 'openvla_ros[view]' (or just {package})" in line
        yield viewer, "without its package", good and "\n" not in line, line[:150]


def compared(viewer: str, how: str, seen: dict[str, Any], truth: Truth, whole: bool) -> Iterator[Result]:
    """Yield whether the numbers, texts and images that were ``seen`` are the recording's.

    With ``whole`` all of them, in order; otherwise those that were received while it was recorded, as far as
    the recording has the same stamp.
    """
    for what in ("joints", "commanded", "probabilities", "verdicts", "images"):
        right, got = getattr(truth, what), [tuple(row) for row in seen[what]]
        if whole:
            good = [(s, v) for _, s, v in got] == [(s, v) for _, s, v in right]
            received = [r for r, _, _ in got] == [r for r, _, _ in right]
            detail = f"{len(got)} of {len(right)}, stamps, times of reception and values equal"
            if not (good and received):
                detail = f"{len(got)} of {len(right)}; values {good}, times of reception {received}"
            yield viewer, f"{how}: {what}", good and received and bool(right), detail
            continue
        first, last = (truth.joints[i][0] for i in (0, -1))
        during = [row for row in got if first + EDGE_NS < row[0] < last - EDGE_NS]
        by_stamp = {stamp: value for _, stamp, value in right}
        if what == "verdicts":  # without a stamp of their own
            fits = [text in truth.texts for _, _, text in during]
        else:  # the recorder loses some on a busy machine, and the viewer takes only the newest
            fits = [by_stamp[stamp] == value for _, stamp, value in during if stamp in by_stamp]
        said = f"{len(got)} seen, {len(during)} while it was recorded, {sum(fits)} of {len(fits)} equal"
        yield viewer, f"{how}: {what}", (bool(fits) or not right) and all(fits), said


# Processes


def record(robot: LiveRobot) -> None:
    """Record one episode of the robot carrying out an instruction."""
    robot.go_to_neutral()
    words = robot.lay_table(TASK, SEED)
    robot.operator.say(words)
    robot.client.listen(1.0)
    robot.client.order("recorder/start")
    robot.client.listen(SECONDS)
    robot.client.order("recorder/stop_success")
    robot.operator.say("")


def node_names(robot: LiveRobot) -> list[str]:
    """Return the names of the nodes that are there."""
    return list(robot.client.node.get_node_names())


def published(robot: LiveRobot, name: str) -> list[str]:
    """Return the topics that a node publishes."""
    return [topic for topic, _ in robot.client.node.get_publisher_names_and_types_by_node(name, "/")]


def wait_for(robot: LiveRobot, done: Any, what: str) -> None:
    """Wait for what was started."""
    robot.client.require(done, READY_S, lambda: f"{what} did not start")


def name_of(viewer: subprocess.Popen[str]) -> str:
    """Return how a viewer is called in errors."""
    return f"openvla view ({viewer.pid})"


def surroundings(site: Path | None) -> dict[str, str]:
    """Return the environment of a program that finds this package, and the viewers' if ``site`` is given."""
    dropped = ("_ROS_WHEELS_BOOTSTRAP_COMPLETE", "LD_LIBRARY_PATH", "DISPLAY", "WAYLAND_DISPLAY")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(map(str, filter(None, (SOURCE, site)))),
        "CUDA_VISIBLE_DEVICES": "",
    }


@contextmanager
def started(site: Path, *command: Any) -> Iterator[subprocess.Popen[str]]:
    """Start a program; it is ended at the end, whatever happens."""
    with subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=surroundings(site),
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def viewing(site: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Start ``openvla view``."""
    with started(site, "-c", PROGRAM, "view", *arguments) as process:
        yield process


def answer(process: subprocess.Popen[str]) -> Any:
    """Return what a program of ``CLIENT`` prints last; raises ``PeerError`` if it fails."""
    said, complaints = process.communicate(timeout=SECONDS + READY_S)
    if process.returncode:
        raise PeerError(f"{' '.join(map(str, process.args))[-120:]}: {complaints.strip()[-400:]}")
    return json.loads(said.splitlines()[-1])


def end(process: subprocess.Popen[str]) -> None:
    """End ``openvla view`` as Ctrl-C does; raises ``PeerError`` unless it ends well."""
    process.send_signal(signal.SIGINT)
    _, complaints = process.communicate(timeout=END_S)
    if process.returncode:
        raise PeerError(f"openvla view ended with {process.returncode}: {complaints.strip()[-400:]}")


def asked(site: Path, *arguments: str) -> Any:
    """Return what a program of ``CLIENT`` answers."""
    with started(site, CLIENT, *arguments) as process:
        return answer(process)


def run_view(site: Path, *arguments: str) -> None:
    """Run ``openvla view`` to its end; raises ``PeerError`` if it fails."""
    with viewing(site, *arguments) as process:
        _, complaints = process.communicate(timeout=READY_S)
        if process.returncode:
            raise PeerError(f"openvla view {' '.join(arguments)}: {complaints.strip()[-400:]}")


def rerun_says(site: Path, *arguments: str) -> tuple[bool, str]:
    """Return whether rerun's own program is content with a file, and what it says."""
    done = subprocess.run(
        [sys.executable, "-m", "rerun_cli", "rrd", *arguments],
        capture_output=True, text=True, check=False, env=surroundings(site),
    )  # fmt: skip
    said = (done.stdout + done.stderr).strip().splitlines()
    return done.returncode == 0, said[-1] if said else ""
