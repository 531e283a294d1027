"""Our arms beside pinocchio, mink, frankik and libfranka's own model: one pose in one frame, to a micrometre.

The libraries run in an environment of their own (``clients/kinematics_programs.py``). Flange and tool of the
FR3, the Panda and the WidowX are compared for random joint positions within their limits.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from openvla_ros.profile import RobotProfile, load_profile
from openvla_ros.resources import share_path
from openvla_ros.robot.kinematics.chain import KinematicChain
from peers.environments import with_packages
from peers.rows import PeerError, Row

NAME = "kinematics"
VERSIONS = {"pin": "4.1.0", "mink": "1.3.0", "frankik": "1.0.1", "libfranka": "0.21.2"}
PACKAGES = ("pin==4.1.0", "mink==1.3.0", "frankik==1.0.1", "franky-control==2.0.0", "franky-sim==1.0.4")
PROGRAM = Path(__file__).with_name("clients") / "kinematics_programs.py"
POSES, SEED = 200, 0
# The state of an arm, and so libfranka's hand, is sent in numbers of 32 bits.
TOLERANCE_M, TOLERANCE = 1e-6, 1e-6
TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Arm:
    """One of our arms, and the links that are compared."""

    name: str
    kind: str
    profile: RobotProfile
    flange: str


def arms() -> tuple[Arm, ...]:
    """Return the arms; there is a description of the Panda, and no profile."""
    fr3, widowx = load_profile("franka"), load_profile("widowx")
    named = {key: getattr(fr3.arm, key).replace("fr3_", "panda_") for key in ("base_link", "tool_link")}
    joints = tuple(joint.replace("fr3_", "panda_") for joint in fr3.arm.joints)
    panda = replace(fr3, arm=replace(fr3.arm, urdf="panda.urdf", joints=joints, **named))
    return (
        Arm("FR3", "fr3", fr3, "fr3_link8"),
        Arm("Panda", "panda", panda, "panda_link8"),
        Arm("WidowX", "widowx", widowx, "gripper_link"),
    )


def check(build: Path, source: Path | None) -> list[Row]:
    """Return a row for each library, arm and frame; ``source`` is an environment that has the libraries."""
    python = source / "bin" / "python" if source else with_packages(build / NAME, "python3.11", PACKAGES)
    chance = np.random.default_rng(SEED)
    robots, ours, all_arms = [], [], arms()
    for arm in all_arms:
        profile, limits = arm.profile, arm.profile.limits
        q = chance.uniform(limits.joint_lower, limits.joint_upper, (POSES, len(limits.joint_lower)))
        robots.append(task(profile, arm, q))
        ours.append({name: poses(profile, link, q) for name, link in links(profile, arm).items()})
    rows = []
    for arm, mine, theirs in zip(all_arms, ours, asked(python, robots), strict=True):
        for library, found in theirs.items():
            version = f"{library} {VERSIONS[library]}"
            rows += [Row(NAME, version, *row) for row in compared(arm, mine, found)]
    return rows


def links(profile: RobotProfile, arm: Arm) -> dict[str, str]:
    """Return the links by the names that the program uses."""
    return {"flange": arm.flange, "tool": profile.arm.tool_link}


def task(profile: RobotProfile, arm: Arm, q: np.ndarray) -> dict[str, object]:
    """Return what the program is asked of one arm."""
    described = share_path() / "urdf" / profile.arm.urdf
    ends = {"base": profile.arm.base_link, **links(profile, arm)}
    return {"urdf": str(described), "kind": arm.kind, "joints": profile.arm.joints, "q": q.tolist(), **ends}


def poses(profile: RobotProfile, link: str, q: np.ndarray) -> np.ndarray:
    """Return our poses (N, 4, 4) of ``link`` in the base."""
    chain = KinematicChain.from_profile(replace(profile.arm, tool_link=link))
    found = np.tile(np.eye(4), (len(q), 1, 1))
    for row, pose in zip(q, found, strict=True):
        here = chain.forward(row)
        pose[:3, :3], pose[:3, 3] = here.rotation, here.position
    return found


def asked(python: Path, robots: list[dict[str, object]]) -> list[dict[str, dict[str, list[object]]]]:
    """Return what the libraries say."""
    done = subprocess.run(
        [str(python), str(PROGRAM)], input=json.dumps({"robots": robots}), check=False,
        capture_output=True, text=True, timeout=TIMEOUT_S,
    )  # fmt: skip
    if done.returncode:
        raise PeerError(f"{PROGRAM.name}: {done.stderr.strip()[-400:]}")
    found: list[dict[str, dict[str, list[object]]]] = json.loads(done.stdout.splitlines()[-1])
    return found


def compared(
    arm: Arm, mine: dict[str, np.ndarray], theirs: dict[str, list[object]]
) -> Iterator[tuple[str, bool, str]]:
    """Yield for each frame whether the poses are the same."""
    for frame, found in theirs.items():
        own, other = mine[frame], np.array(found)
        apart_m = float(np.linalg.norm(own[:, :3, 3] - other[:, :3, 3], axis=1).max())
        turned = float(np.abs(own[:, :3, :3] - other[:, :3, :3]).max())
        said = f"{len(own)} poses, {apart_m:.1e} m and {turned:.1e} in the rotation apart"
        yield f"{arm.name} {frame}", apart_m < TOLERANCE_M and turned < TOLERANCE, said
