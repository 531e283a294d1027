"""Our robot under LeRobot: the plug-in ``plugins/lerobot_robot_openvla_ros`` in LeRobot's own programs.

``lerobot-teleoperate`` and ``lerobot-record`` drive the simulated arm of ``openvla up`` over DDS, within the
controller's limits; what was recorded is read back and compared with what was asked. LeRobot lives in an
environment of its own; ``clients/lerobot_robot_programs.py`` runs there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from openvla_ros.bringup.graph import GraphOptions
from openvla_ros.data.datasets.open_dataset import SourceRequest
from openvla_ros.profile import load_profile
from openvla_ros.programs.live_robot import LiveRobot
from peers import lerobot
from peers.environments import on_top_of
from peers.piped_simulation import CLIENTS, ROBOT
from peers.rows import PeerError, Row

NAME, VERSION = "lerobot-robot", lerobot.VERSION
ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "-e", f"{ROOT / 'ros2_ws' / 'src' / 'openvla_ros'}[ros]",
    "-e", str(ROOT / "plugins" / "lerobot_robot_openvla_ros"),
)  # fmt: skip
PROGRAM = CLIENTS / "lerobot_robot_programs.py"
DOMAIN = "77"  # of DDS: nobody else's robot is moved
SECONDS = 5.0
ATTEMPTS = 4
REACHED_M, ABOVE_M = 0.01, 0.005
Result = tuple[str, bool, str]


def check(build: Path, source: Path | None) -> list[Row]:
    """Return a row for each of LeRobot's programs, and for each refusal; ``source`` has LeRobot."""
    python = on_top_of(lerobot.environment(source or build / lerobot.NAME), build / NAME, PACKAGES)
    work = build / f"{NAME}-results"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    os.environ["ROS_DOMAIN_ID"] = DOMAIN
    with ExitStack() as stack:
        options = GraphOptions(robot=ROBOT, policy="hold", cameras=False)
        robot = stack.enter_context(LiveRobot(options, work / "robot.log"))
        rows = [*driven(python, robot), *recorded(python, robot, work), *refused(python, robot)]
    rows += unreachable(python)
    return [Row(NAME, VERSION, *row) for row in rows]


def run(python: Path, look: Callable[[float], None], *arguments: str) -> Any:
    """Return what the program prints last; ``look`` is called all the time with how long to look, seconds."""
    surroundings = {**os.environ, "PYTHONPATH": "", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    command = [str(python), "-P", str(PROGRAM), *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=surroundings
    ) as process:
        while True:
            try:
                said, complaints = process.communicate(timeout=0.01)
                break
            except subprocess.TimeoutExpired:
                look(0.1)
    if process.returncode:
        raise PeerError(f"{PROGRAM.name} {arguments[0]}: {complaints.strip()[-400:]}")
    return json.loads(said.splitlines()[-1])


def travelled(robot: LiveRobot, python: Path, *arguments: str) -> tuple[Any, np.ndarray]:
    """Return what the program says, and the path of the tool (N, 3) meanwhile, metres.

    Where other work delays the joint states, the controller stops the arm and LeRobot's program ends, as they
    must; that is tried again.
    """
    for _ in range(ATTEMPTS):
        robot.go_to_neutral()
        robot.operator.measured.path.clear()
        said = run(python, robot.client.listen, *arguments)
        robot.client.listen(1.0)
        if not isinstance(said, str):
            return said, np.array(robot.operator.measured.path)[:, 1:4]
        if "state_stale" not in said:
            break
    raise PeerError(f"{' '.join(arguments[:2])}: {said}")


def driven(python: Path, robot: LiveRobot) -> Iterator[Result]:
    """Yield whether ``lerobot-teleoperate`` moves the arm as asked, and no farther than the workspace."""
    asked, path = travelled(robot, python, "teleoperate", "circle", str(SECONDS), "5")
    moved, wanted = path[-1] - path[0], np.sum(asked, axis=0)[:3]
    error = float(np.abs(moved - wanted).max())
    size = float(np.ptp(path, axis=0)[:2].max())
    said = f"{len(asked)} actions over {1000 * size:.0f} mm; it ends {1000 * error:.1f} mm from there"
    yield "lerobot-teleoperate: a circle", error < REACHED_M and size > REACHED_M, said
    highest = load_profile(ROBOT).limits.workspace_upper[2]
    asked, path = travelled(robot, python, "teleoperate", "up", str(SECONDS), "5")
    top, wanted_m = float(path[:, 2].max()), path[0, 2] + np.sum(asked, axis=0)[2]
    said = f"asked to {wanted_m:.2f} m, went to {top:.3f} m; the workspace ends at {highest:g} m"
    yield "lerobot-teleoperate: the workspace", top < highest + ABOVE_M < wanted_m, said


def recorded(python: Path, robot: LiveRobot, work: Path) -> Iterator[Result]:
    """Yield whether the dataset of ``lerobot-record`` has what was asked and what was seen."""
    asked, path = travelled(robot, python, "record", "circle", str(SECONDS), str(work / "circle"))
    folder = max(work.glob("circle*/meta/info.json"), key=lambda path: path.stat().st_mtime).parent.parent
    source = SourceRequest(folder, space=load_profile(ROBOT).space()).open()
    episode = source[0]
    same = np.allclose(episode.actions, np.array(asked)[: len(episode)], atol=1e-6)
    images = {name: frames[0].shape for name, frames in episode.images.items()}
    said = f"{len(episode)} steps, {episode.instruction!r}, images {images}"
    yield "lerobot-record: what was asked", same and len(episode) > 15, said
    if episode.poses is None:
        yield "lerobot-record: what was seen", False, "no poses"
        return
    nearest = [float(np.linalg.norm(path - position, axis=1).min()) for position in episode.poses[:, :3, 3]]
    said = f"recorded poses at most {1000 * max(nearest):.1f} mm from the measured path"
    yield "lerobot-record: what was seen", max(nearest) < ABOVE_M, said


def refused(python: Path, robot: LiveRobot) -> Iterator[Result]:
    """Yield what LeRobot is told where the arm must not move as it asks."""
    for name, arguments, part in (
        ("bounds", ("far", "2", "5"), "action x is 0.2; robot sim_widowx takes -0.05 .. 0.05"),
        ("rate", ("circle", "2", "30"), "run LeRobot at 5 fps"),
    ):
        said = run(python, robot.client.listen, "teleoperate", *arguments)
        yield f"refused: {name}", part in str(said), str(said)[:150]
    robot.client.order("controller/e_stop")
    said = run(python, robot.client.listen, "teleoperate", "circle", "2", "5")
    part = "controller/give_to_teleop refused: hold: e_stop"
    yield "refused: emergency stop", part in str(said), str(said)[:150]
    robot.client.order("controller/reset_e_stop")


def unreachable(python: Path) -> Iterator[Result]:
    """Yield what LeRobot is told where no robot is up."""
    said = run(python, lambda seconds: None, "teleoperate", "circle", "2", "5")
    part = "no service /controller/give_to_teleop: is the controller running?; start the robot first"
    yield "refused: no robot", part in str(said), str(said)[:150]
