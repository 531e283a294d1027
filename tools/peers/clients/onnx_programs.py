"""Runs where neither torch nor openvla_ros is installed: the program in an ONNX bundle drives the robot.

``drive BUNDLE SEEDS`` carries out instructions; ``compare BUNDLE CASES`` reports the actions for the images,
instructions and datasets in a JSON file.
"""

import importlib.util
import json
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[2])

from piped_robot import PipedRobot, seeds
from run_policy import OnnxPolicy, read_image

FOREIGN = ("torch", "transformers", "openvla_ros")


def drive(folder: str, which: str) -> None:
    """Run each scene to its end."""
    robot, policy = PipedRobot(), OnnxPolicy(folder, threads=1)
    for seed in seeds(which):
        seen = robot.reset(seed)
        while not seen.over:
            seen = robot.step(policy.act(seen.image, seen.instruction).values)
    robot.report([name for name in FOREIGN if importlib.util.find_spec(name)])


def compare(folder: str, cases: str) -> None:
    """Report token ids and actions of each case."""
    robot, policy = PipedRobot(), OnnxPolicy(folder, threads=1)
    found = []
    for image, instruction, key in json.loads(Path(cases).read_text()):
        action = policy.act(read_image(Path(image)), instruction, key)
        found.append([action.token_ids.tolist(), action.values.tolist()])
    robot.report(found)


{"drive": drive, "compare": compare}[sys.argv[1]](*sys.argv[2:])
