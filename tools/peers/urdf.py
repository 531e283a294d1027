"""URDFs of real robots, as wheels on PyPI ship them: our kinematics beside pinocchio's and MuJoCo's.

pinocchio, MuJoCo and the robots are installed into an environment of their own; ``urdf_kinematics.py`` runs
there. For random joint positions the tool's pose and the Jacobian must agree.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openvla_ros.errors import OpenVLARosError
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.kinematics.urdf import read_urdf
from peers.rows import PeerError, Row

NAME = "urdf"
PACKAGES = ("pin==4.1.0", "mujoco==3.8.1", "example-robot-data==6.0.0")
WITHOUT_REQUIREMENTS = ("robosuite==1.5.2",)  # only its files are read
VERSION = "pin 4.1.0"
PROGRAM = Path(__file__).parent / "urdf_kinematics.py"
TOLERANCE = 1e-9
POSES = 50
DATA = "cmeel.prefix/share/example-robot-data/robots"
SUITE = "robosuite/models/assets/bullet_data"


@dataclass(frozen=True)
class Robot:
    """One arm: its file below the environment's packages, and where it begins and ends."""

    name: str
    file: str
    base: str
    tool: str


ROBOTS = (
    Robot("panda", f"{DATA}/panda_description/urdf/panda.urdf", "panda_link0", "panda_hand_tcp"),
    Robot("ur5", f"{DATA}/ur_description/urdf/ur5_robot.urdf", "base_link", "ee_link"),
    Robot("xarm7", f"{DATA}/xarm_description/urdf/xarm7.urdf", "link_base", "link_eef"),
    Robot("so100", f"{DATA}/so_arm_description/urdf/so100.urdf", "base", "gripper"),
    Robot("kinova", f"{DATA}/kinova_description/robots/kinova.urdf", "base", "j2s6s200_end_effector"),
    Robot("z1", f"{DATA}/z1_description/urdf/z1.urdf", "link00", "gripperStator"),
    Robot("talos", f"{DATA}/talos_data/robots/talos_reduced.urdf", "torso_2_link", "gripper_left_base_link"),
    Robot("panda (robosuite)", f"{SUITE}/panda_description/urdf/panda_arm_hand.urdf", "panda_link0",
          "panda_hand"),
    Robot("sawyer (robosuite)", f"{SUITE}/sawyer_description/urdf/sawyer_arm.urdf", "right_arm_base_link",
          "right_l6"),
    Robot("baxter (robosuite)", f"{SUITE}/baxter_description/urdf/baxter_arm.urdf", "torso", "left_hand"),
)  # fmt: skip
# No real robot among them has a mimic joint between base and tool.
COUPLED = """<robot name="coupled">
<link name="base"/><link name="a"/><link name="b"/><link name="slide"/><link name="tool"/>
<joint name="lift" type="revolute"><parent link="base"/><child link="a"/><origin xyz="0 0.1 0.3" rpy="0.1 0.2 0.3"/>
 <axis xyz="0 1 0.2"/><limit lower="-1" upper="1" velocity="1" effort="1"/></joint>
<joint name="level" type="revolute"><parent link="a"/><child link="b"/><origin xyz="0.4 0 0"/>
 <axis xyz="0 1 0"/><limit lower="-2" upper="2" velocity="1" effort="1"/><mimic joint="lift" multiplier="-1.5" offset="0.2"/></joint>
<joint name="reach" type="prismatic"><parent link="b"/><child link="slide"/><origin xyz="0.2 0 0" rpy="0 0 1"/>
 <axis xyz="1 0 0"/><limit lower="0" upper="0.3" velocity="1" effort="1"/></joint>
<joint name="flange" type="fixed"><parent link="slide"/><child link="tool"/><origin xyz="0 0 0.1" rpy="1 0 0"/><axis xyz="0 0 0"/></joint>
</robot>
"""  # noqa: E501


def check(build: Path, source: Path | None) -> list[Row]:
    """Return a row for each robot; ``source`` is a virtual environment that has the peers already."""
    python = (source or environment(build / NAME)) / "bin" / "python"
    packages = Path(
        said([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip()
    )
    coupled = build / "coupled.urdf"
    coupled.write_text(COUPLED, encoding="utf-8")
    rows = []
    for robot in (*ROBOTS, Robot("coupled (made here)", str(coupled), "base", "tool")):
        rows.append(compare(python, robot, packages / robot.file))
    return rows


def environment(folder: Path) -> Path:
    """Return an environment with the peers, built on the first call."""
    done = folder / "installed"
    if not done.exists():
        said([sys.executable, "-m", "venv", str(folder)])
        pip = [
            str(folder / "bin" / "python"),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ]
        said([*pip, *PACKAGES])
        said([*pip, "--no-deps", *WITHOUT_REQUIREMENTS])
        done.touch()
    return folder


def said(command: list[str], text: str = "") -> str:
    """Return what ``command`` prints when it is given ``text``."""
    done = subprocess.run(command, input=text, check=False, capture_output=True, text=True)
    if done.returncode:
        raise PeerError(f"{' '.join(command[:5])} ...: {done.stderr.strip()[-400:]}")
    return done.stdout


def compare(python: Path, robot: Robot, path: Path) -> Row:
    """Return the row of one robot."""
    try:
        chain = KinematicChain.between(read_urdf(path), robot.base, robot.tool)
    except OpenVLARosError as error:
        return Row(NAME, VERSION, robot.name, False, str(error))
    lower, upper = np.maximum(chain.lower, -3.1), np.minimum(chain.upper, 3.1)
    q = np.random.default_rng(0).uniform(lower, upper, (POSES, len(chain.joints)))
    task = {
        "urdf": str(path),
        "base": robot.base,
        "tool": robot.tool,
        "joints": chain.joints,
        "q": q.tolist(),
    }
    answers = json.loads(said([str(python), str(PROGRAM)], json.dumps(task)))
    poses = chain.frames(q)[:, -1]
    jacobians = np.array([chain.jacobian(row) for row in q])
    parts, worst = [], 0.0
    for peer, answer in answers.items():
        pose_error = float(np.abs(poses - np.array(answer["poses"])).max())
        jacobian_error = float(np.abs(jacobians - np.array(answer["jacobians"])).max())
        parts.append(f"{peer}: pose {pose_error:.0e}, Jacobian {jacobian_error:.0e}")
        worst = max(worst, pose_error, jacobian_error)
    passed = set(answers) == {"pinocchio", "MuJoCo"} and worst < TOLERANCE
    return Row(NAME, VERSION, robot.name, passed, f"{len(chain.joints)} joints; {'; '.join(parts)}")
