"""robosuite's own demonstrations, and what this package reads in them.

robosuite records a motion and says what its operational space controller made of each action: the goal in the
base frame. The imported action, composed on the pose at that moment, must give the same goal. robosuite lives
in an environment of its own; ``robosuite_demonstrations.py`` runs there.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from openvla_ros.data.datasets.open_dataset import SourceRequest
from openvla_ros.data.episodes.followed_commands import REACHED
from openvla_ros.robot.kinematics.delta_actions import compose
from openvla_ros.values.episode import Episode
from openvla_ros.values.geometry import Pose
from peers.environments import called, with_packages
from peers.rows import Row

NAME, VERSION = "robosuite", "1.5.2"
PYTHON = "python3.11"
# It takes any mujoco from 3.3 on, but its environments do not start with 4.0.
PACKAGES = (f"{NAME}=={VERSION}", "mujoco==3.3.7", "h5py")
PROGRAM = Path(__file__).with_name("robosuite_demonstrations.py")
EXACT_M = 1e-6
EXACT_RAD = 2e-4  # its rotations pass through float32 quaternions
PAIRED_M = 1e-3  # the last observation of a step is up to one simulation step (2 ms) older than its end


def check(build: Path, source: Path | None) -> list[Row]:
    """Return a row for each thing that robosuite knows better."""
    python = with_packages(source or build / NAME, PYTHON, PACKAGES)
    work = build / f"{NAME}-demonstrations"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    called([str(python), "-P", str(PROGRAM), "record", str(work)], "recording")
    with np.load(work / "truth.npz") as truth:
        return [Row(NAME, VERSION, *row) for row in compared(work, dict(truth))]


def compared(work: Path, truth: dict[str, np.ndarray]) -> Iterator[tuple[str, bool, str]]:
    """Yield what was compared, whether it agrees, and by how much."""
    before, after, shaped = (
        SourceRequest(work / f"{n}.hdf5").open()[0] for n in ("before", "after", "shaped")
    )
    assert before.poses is not None
    assert before.gripper is not None
    yield close("poses in the base frame", before.poses[:, :3, 3] - truth["sites"][:, :3, 3], PAIRED_M)
    moved, turned = goal_errors(before, truth)
    yield close("goals of the controller", moved, EXACT_M)
    yield close("turns of the controller's goals", turned, EXACT_RAD, "rad")
    opened, closed = before.gripper[len(before) // 2 - 1], before.gripper[-1]
    right = before.actions[0, 6] == 1.0 and before.actions[-1, 6] == 0.0 and opened > 0.9 and closed < 0.1
    yield "gripper: its sign and its opening", bool(right), f"{opened:.2f} after opening, {closed:.2f} closed"
    same = np.array_equal(after.actions, before.actions[1:]) and len(after) == len(before) - 1
    yield "observations stored after their action", same, "paired with the next one" if same else "not seen"
    unknown = shaped.outcome == "unknown" and truth["shaped"][-1] > 0.0
    yield "shaped rewards", bool(unknown), f"last reward {truth['shaped'][-1]:.3f}: {shaped.outcome}"
    share = float(before.provenance[REACHED])
    yield "share of each command that the arm makes", 0.1 < share < 0.5, f"{share:.2f}"


def goal_errors(episode: Episode, truth: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return distances (T,) and angles (T,) between the composed goals and robosuite's."""
    moved, turned = [], []
    for action, site, goal in zip(episode.actions, truth["sites"], truth["goals"], strict=True):
        ours = compose(Pose.from_matrix(site), action, episode.space)
        moved.append(np.linalg.norm(ours.position - goal[:3, 3]))
        trace = np.trace(ours.rotation @ goal[:3, :3].T)
        turned.append(np.arccos(np.clip((trace - 1.0) / 2.0, -1.0, 1.0)))
    return np.array(moved), np.array(turned)


def close(name: str, errors: np.ndarray, limit: float, unit: str = "m") -> tuple[str, bool, str]:
    """Return a row that passes if no error is beyond ``limit``."""
    largest = float(np.abs(errors).max())
    return name, largest <= limit, f"largest difference {largest:.1e} {unit}"
