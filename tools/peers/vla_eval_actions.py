"""What vla-eval's benchmarks make of our actions, and our rotations beside scipy's.

The code that steps each simulator is vla-eval's own; the simulators are stand-ins that remember what they are
told.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from openvla_ros.profile import load_profile
from openvla_ros.protocols.benchmark_actions import ActionTranslation, BenchmarkActions, benchmark_table
from openvla_ros.values.action import ActionSpace
from openvla_ros.values.arrays import Float
from openvla_ros.values.geometry import transform_euler_to_matrix, transform_rotvec_to_matrix
from openvla_ros.values.rotation_numbers import (
    RotationConvention,
    rotation_from_numbers,
    rotation_to_numbers,
)
from peers.piped_simulation import ROBOT

Ask = Callable[..., Any]  # runs the program in vla-eval's environment
# What opens and what closes each simulator's gripper, as its own code says: the last number that it is told.
GRIPPERS = {
    "libero": (-1.0, 1.0),  # robosuite's PandaGripper.format_action
    "robocerebra": (-1.0, 1.0),
    "robocasa": (-1.0, 1.0),
    "simpler": (1.0, -1.0),  # the WidowX's fingers: 37 mm, 15 mm
    "simpler sticky": (-1.0, 1.0),  # the Google robot's finger joints: -1.3 .. 1.3, above 0 closes
    "calvin": (1.0, -1.0),  # Robot.control_gripper
    "calvin_absolute": (1.0, -1.0),
    "maniskill2": (1.0, -1.0),  # the fingers: 40 mm, -10 mm
    "vlabench": (0.04, 0.0),  # metres
}
# Metres and radians that 1 is, as the simulators' own files say; those are named in the table.
SCALES = {
    "libero": (0.05, 0.5),
    "robocerebra": (0.05, 0.5),
    "robocasa": (0.05, 0.5),
    "simpler": (1.0, 1.0),
    "simpler sticky": (1.0, 1.0),
    "maniskill2": (0.1, 0.1),
}
# Where the gripper stands among what the simulator is told, if not last.
GRIPPER_AT = {"robocasa": 6}
MOTION_AT = {"robocasa": slice(0, 6)}
SMALL = np.array([0.004, -0.003, 0.002, 0.3, -0.2, 0.25])  # a motion: metres, and Euler angles
TOLERANCE = 1e-6
CONVENTIONS: tuple[RotationConvention, ...] = (
    "euler_xyz", "rotation_vector", "quaternion_xyzw", "rotation_6d", "matrix",
)  # fmt: skip


def space_for(entry: BenchmarkActions) -> ActionSpace:
    """Return an action space of ours, in metres and radians, that the benchmark takes."""
    space = load_profile(ROBOT).space()
    rate = entry.rate_hz[0] if entry.rate_hz else space.rate_hz
    return ActionSpace(
        space.names, space.units, entry.frame, "euler_xyz", 1.0, space.lower, space.upper, rate
    )


def grippers_and_motions(ask: Ask) -> Iterator[tuple[str, bool, str]]:
    """Yield what each benchmark's code tells its simulator when a policy opens, closes, and moves."""
    table, sent = benchmark_table(), {}
    for name in GRIPPERS:
        entry = table[name.removesuffix(" sticky")]
        sent[name] = [numbers_for(entry, opening).tolist() for opening in (1.0, 0.0)]
    found = ask("grippers", json.dumps(sent))
    for name, (opened, closed) in GRIPPERS.items():
        at = GRIPPER_AT.get(name, -1)
        told = tuple(round(line[at], 6) for line in found[name])
        sentence = f"open {sent[name][0][6]:g} -> {told[0]:g}, closed {sent[name][1][6]:g} -> {told[1]:g}"
        yield f"gripper of {name}", told == (opened, closed), sentence
        entry = table[name.removesuffix(" sticky")]
        if entry.refused is None:
            off = motion_error(name, np.array(found[name][0]))
            yield f"motion of {name}", off < TOLERANCE, f"off by {off:.1e} m or rad at most"


def numbers_for(entry: BenchmarkActions, opening: float) -> Float:
    """Return the wire's numbers (7,) for a small motion and a gripper's ``opening``."""
    if entry.refused is not None:
        assert entry.gripper is not None
        return np.array([0.0] * 6 + [entry.gripper.number(opening)])
    translation = ActionTranslation(entry, space_for(entry))
    state = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 1.0])
    return translation.to_benchmark(np.array([*SMALL, opening]), {"states": state})


def motion_error(name: str, told: Float) -> float:
    """Return how far what the simulator was told is from the motion, in its own meaning of the numbers."""
    turn = transform_euler_to_matrix(SMALL[3:])
    if name == "calvin":  # it is told a pose
        before = rotation_from_numbers([0.4, 0.5, 0.6], "euler_xyz")
        after = rotation_from_numbers(told[3:6], "euler_xyz")
        moved = told[:3] - [0.1, 0.2, 0.3]
        return float(max(np.abs(moved - SMALL[:3]).max(), np.abs(after - turn @ before).max()))
    motion = told[MOTION_AT.get(name, slice(0, 6))]
    metres, radians = SCALES[name]
    turned = transform_rotvec_to_matrix(motion[3:] * radians)
    off = np.abs(motion[:3] * metres - SMALL[:3]).max()
    return float(max(off, np.abs(turned - turn).max()))


def rotations(ask: Ask, work: Path) -> Iterator[tuple[str, bool, str]]:
    """Yield how far our conversions from each convention to every other one, and back, are from scipy's."""
    rng = np.random.default_rng(0)
    axes = rng.normal(size=(100, 3))
    angles = rng.uniform(0.0, np.pi - 1e-3, size=(100, 1))
    turns = axes / np.linalg.norm(axes, axis=1, keepdims=True) * angles
    sent = {}
    for first in CONVENTIONS:
        numbers = [rotation_to_numbers(transform_rotvec_to_matrix(turn), first) for turn in turns]
        for second in CONVENTIONS:
            there = [rotation_to_numbers(rotation_from_numbers(n, first), second) for n in numbers]
            back = [rotation_to_numbers(rotation_from_numbers(n, second), first) for n in there]
            sent[f"{first} {second}"] = [[n.tolist() for n in each] for each in (numbers, there, back)]
    path = work / "rotations.json"
    path.write_text(json.dumps(sent), encoding="utf-8")
    found = ask("rotations", str(path))
    for first in CONVENTIONS:
        worst = max(found[f"{first} {second}"] for second in CONVENTIONS)
        sentence = f"100 rotations to each of {len(CONVENTIONS)} and back: at most {worst:.1e} from scipy's"
        yield f"rotations from {first}", worst < TOLERANCE, sentence
