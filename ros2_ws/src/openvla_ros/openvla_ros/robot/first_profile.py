"""A first profile of a robot from its URDF: what geometry tells is written, the rest is left to a person.

What a URDF cannot say (topics, cameras, the gripper, accelerations, where the table is) stands there as a
placeholder; ``load_profile`` refuses the file until none is left.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from openvla_ros.errors import KinematicsError, ProfileError
from openvla_ros.integrity.placeholders import MARK, placeholder, unfilled
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.kinematics.collision import SelfCollision, TableClearance
from openvla_ros.robot.kinematics.link_covers import cover_links
from openvla_ros.robot.kinematics.reach import SAMPLES, Reach, measure_reach
from openvla_ros.robot.kinematics.urdf import Joint, RobotDescription, find_urdf, read_urdf
from openvla_ros.values.arrays import Float

DIGITS = 4  # of joint positions in radians


@dataclass(frozen=True, eq=False)
class FirstProfile:
    """The profile's text, and what was found on the way."""

    text: str  # YAML
    joints: tuple[str, ...]
    base_link: str
    tool_link: str
    blind_spots: dict[str, str]  # link → why it is not checked for collisions, or not fully
    reach: Reach

    @property
    def open_keys(self) -> list[str]:
        """One line for each value that a person must fill in: its key, and what belongs there."""
        return unfilled(yaml.safe_load(self.text))

    def write(self, path: Path) -> None:
        """Write the profile to ``path``; raises ``ProfileError`` if a file exists already, or it fails."""
        if path.suffix not in (".yaml", ".yml"):
            raise ProfileError(f"{path}: the file name of a profile must end in .yaml")
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(self.text)
        except FileExistsError as error:
            raise ProfileError(f"{path} already exists: choose another --output, or remove it") from error
        except OSError as error:
            raise ProfileError(f"{path} cannot be written: {error.strerror}") from error


def first_profile(urdf: str, base_link: str | None = None, tool_link: str | None = None) -> FirstProfile:
    """Return a profile for the arm in ``urdf``, a file or the name of a description of the package.

    Raises ``KinematicsError`` where the file is no usable URDF, or naming the links to choose from where
    the base or the tool is not clear.
    """
    path = find_urdf(str(Path(urdf).resolve()) if Path(urdf).is_file() else urdf)
    description = read_urdf(path)
    base = base_link or _only_root(description)
    tool = tool_link or _only_end(description, base)
    chain = KinematicChain.between(description, base, tool)
    if not chain.joints:
        raise KinematicsError(f"{path}: no joint moves between {base!r} and {tool!r}")
    lower, upper = _within(chain.lower, chain.upper)
    covers = cover_links(chain)
    collision, table = SelfCollision(chain, {}, [], covers), TableClearance(chain, {}, 0.0, covers)
    reach = measure_reach(chain, lower, upper, collision, table)
    stated = str(path) if Path(urdf).is_file() else urdf
    text = _text(stated, chain, lower, upper, reach)
    return FirstProfile(text, chain.joints, base, tool, covers.blind_spots(), reach)


def _only_root(description: RobotDescription) -> str:
    roots = description.roots()
    if len(roots) != 1:
        found = ", ".join(roots) or "none"
        raise KinematicsError(
            f"{description.source} has {len(roots)} root links ({found}): choose one with --base"
        )
    return roots[0]


def _only_end(description: RobotDescription, base: str) -> str:
    """Return the one link that ends a chain of moving joints from ``base``."""
    if base not in description.links:
        raise KinematicsError(
            f"{description.source} has no link {base!r}; its links: {', '.join(description.links)}"
        )
    children = {joint.parent for joint in description.joints.values()}
    ends = {}
    for link in description.links:
        if link not in children and _hangs_on(description, link, base):
            moving = sum(joint.kind != "fixed" for joint in description.path(base, link))
            if moving:
                ends[link] = moving
    if len(ends) != 1:
        found = ", ".join(f"{link} ({moving} joints)" for link, moving in ends.items()) or "none"
        raise KinematicsError(
            f"{description.source}: {len(ends)} chains of joints begin at {base!r}; choose the link that is "
            f"the tool with --tool. Their ends: {found}"
        )
    return next(iter(ends))


def _hangs_on(description: RobotDescription, link: str, base: str) -> bool:
    while link != base:
        joint = description.joint_to(link)
        if joint is None:
            return False
        link = joint.parent
    return True


def _within(lower: Float, upper: Float) -> tuple[Float, Float]:
    """Return limits (J,) rounded inwards; one turn about zero for a joint that turns without end."""
    scale = 10.0**DIGITS
    low = np.where(np.isfinite(lower), lower, -math.pi)
    high = np.where(np.isfinite(upper), upper, math.pi)
    return np.ceil(low * scale - 1e-9) / scale, np.floor(high * scale + 1e-9) / scale


def _gripper_joints(chain: KinematicChain) -> list[Joint]:
    """Return the joints beyond the arm's last one that move by themselves: the gripper's, most likely."""
    description = chain.description
    last = next(
        j.child for j in reversed(description.path(chain.base_link, chain.tool_link)) if j.kind != "fixed"
    )
    return [
        joint
        for joint in description.joints.values()
        if joint.kind in ("revolute", "prismatic", "continuous")
        and joint.mimic is None
        and joint.name not in chain.joints
        and _hangs_on(description, joint.parent, last)
    ]


def _numbers(values: Iterable[float], digits: int = DIGITS) -> str:
    return "[" + ", ".join(repr(round(float(value), digits) + 0.0) for value in values) + "]"


def _open(what: str) -> str:
    return json.dumps(placeholder(what), ensure_ascii=False)


def _velocities(chain: KinematicChain) -> str:
    values = [
        repr(float(speed)) if 0.0 < speed < math.inf else _open(f"rad/s of {name}; the URDF gives none")
        for name, speed in zip(chain.joints, chain.velocity, strict=True)
    ]
    return "[" + ", ".join(values) + "]"


def _text(urdf: str, chain: KinematicChain, lower: Float, upper: Float, reach: Reach) -> str:
    name = re.sub(r"[^a-z0-9]+", "_", chain.description.name.lower()).strip("_")
    name = name if name[:1].isalpha() else f"robot_{name}".rstrip("_")
    endless = [
        joint for joint, high in zip(chain.joints, chain.upper, strict=True) if not math.isfinite(high)
    ]
    turns = f"\n  # One turn, for the URDF sets no end: {', '.join(endless)}." if endless else ""
    beyond = ", ".join(f"{joint.name} {joint.lower:g} .. {joint.upper:g}" for joint in _gripper_joints(chain))
    fingers = f"; beyond the arm: {beyond}" if beyond else ""
    one_each = f"{len(chain.joints)} numbers, one for each of arm.joints"
    if reach.neutral is None:
        neutral = home = _open(f"{one_each}, rad: no pose of {SAMPLES} was free of collisions")
        box = [_open("x, y, z in metres: no pose was free of collisions")] * 2
    else:
        neutral = home = _numbers(reach.neutral)
        box = [_numbers(np.ceil(reach.lower * 100) / 100), _numbers(np.floor(reach.upper * 100) / 100)]
    touching = "; ".join(" and ".join(pair) for pair in reach.inseparable)
    apart = f"\n  # Not compared for this: {touching}, whose covers touch in every pose." if touching else ""
    between = (
        "no links are compared"
        if math.isinf(reach.clearance_m)
        else f"links {1e3 * reach.clearance_m:.0f} mm apart"
    )
    return f"""\
# A first profile from {urdf}, written by openvla new-robot.
# It is refused until every {MARK} below is replaced: by a value of the robot, not by a guess.
# docs/reference/profile.md says what each key means; openvla check then compares it with the running robot.
name: {json.dumps(name or "robot")}
description: {json.dumps(f"{chain.description.name or 'robot'}, {len(chain.joints)} joints")}
cameras:
  - name: primary
    topic: {_open("topic of the camera's images, such as /camera/camera/color/image_raw")}
    width: {_open("pixels")}
    height: {_open("pixels")}
    rate_hz: {_open("images a second")}
    max_age_s: 0.3
    frame_id: {_open("frame_id in the images' headers")}
arm:
  urdf: {json.dumps(urdf)}
  base_link: {json.dumps(chain.base_link)}
  tool_link: {json.dumps(chain.tool_link)}
  joints: {json.dumps(list(chain.joints))}
  # What the robot's tf puts before each link's name, such as "wx250s/".
  frame_prefix: ""
  # Where instructions start from. Of {SAMPLES} random poses the best one: able to move any way (smallest
  # singular value {reach.manipulability:.3f}), away from joint limits, {between}, above the base.{apart}
  # Look at it before the arm goes there: nothing around the robot is in the URDF.
  neutral: {neutral}
  home: {home}
  park: {_open(f"{one_each}, rad: where the arm can be switched off without falling")}
  tool_axis: {_open(f"the axis of {chain.tool_link} that points out of the gripper, such as [0, 0, 1]")}
gripper:
  joint: {_open(f"name of the gripper's joint in the joint states{fingers}")}
  open_m: {_open("its position when open")}
  closed_m: {_open("its position when closed")}
state:
  joint_states_topic: {_open("topic of the joint states, such as /joint_states")}
  rate_hz: {_open("joint states a second")}
  max_age_s: 0.2
# What the policy must speak: a checkpoint that was trained for something else is refused.
action_space:
  names: [x, y, z, roll, pitch, yaw, gripper]
  units: [m, m, m, rad, rad, rad, "1"]
  frame: base
  rotation: euler_xyz
  gripper_open: 1
  lower: [-0.05, -0.05, -0.05, -0.25, -0.25, -0.25, 0.0]
  upper: [0.05, 0.05, 0.05, 0.25, 0.25, 0.25, 1.0]
  rate_hz: 5.0
limits:
  # The URDF's, rounded inwards. Where the driver has its own guard, stay 0.02 rad within it.{turns}
  joint_lower: {_numbers(lower)}
  joint_upper: {_numbers(upper)}
  joint_velocity: {_velocities(chain)}
  joint_acceleration: {_open(f"{one_each}, rad/s²: the vendor's, or begin with 2.0")}
  joint_jerk: {_open(f"{one_each}, rad/s³: the vendor's, or begin with 20.0")}
  # All that the tool reached in {100 * reach.free:.0f}% of {SAMPLES} random poses, those without collision
  # and above the base, rounded inwards: narrow it to where the task is.
  workspace_lower: {box[0]}
  workspace_upper: {box[1]}
  tilt_rad: {_open("largest angle between the tool's axis and straight down, rad, such as 1.2")}
  table_height_m: {_open(f"of the table above {chain.base_link}, metres; null where there is none to hit")}
control:
  rate_hz: 100.0
arm_backend:
  kind: {_open("joint_trajectory, forward_position, interbotix, cartesian_target or servo_twist")}
  topic: {_open("topic of the arm's commands, such as /arm_controller/joint_trajectory")}
gripper_backend:
  kind: {_open("joint_trajectory, gripper_command, interbotix_pwm or franka")}
  topic: {_open("topic or action of the gripper's commands")}
"""
