"""Runs with leapp installed, beside this package: exports, and drives the robot with leapp's own runner.

``export CHECKPOINT OUT [UNNORM_KEY]`` is ``openvla export-model --to leapp``; ``drive BUNDLE SEEDS`` needs
leapp, pillow and tokenizers alone; ``manners BUNDLE`` reports what the runner makes of missing inputs.
"""

import json
import sys
from pathlib import Path

import leapp
import numpy as np
import torch
from leapp import InferenceManager
from PIL import Image
from piped_robot import PipedRobot, seeds
from tokenizers import Tokenizer

SOURCE = Path(__file__).resolve().parents[3] / "ros2_ws" / "src" / "openvla_ros"


class LeappPolicy:
    """A bundle under leapp's ``InferenceManager``; the host resizes the image and tokenises the words."""

    def __init__(self, folder: str) -> None:
        self.bundle = json.loads((Path(folder) / "openvla_bundle.json").read_text())
        self.runner = InferenceManager(f"{folder}/policy.yaml")
        self.tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")

    def inputs(self, image: np.ndarray, words: str) -> dict:
        """Return the graph's inputs for an RGB image uint8 (H, W, 3)."""
        tower, prompt = self.bundle["image_transform"]["towers"][0], self.bundle["prompt"]
        height, width = tower["size"]
        resized = Image.fromarray(image).resize(
            (width, height), Image.Resampling[tower["resampling"].upper()]
        )
        ids = self.tokenizer.encode(prompt["template"].replace("{instruction}", words.lower())).ids
        ids += [] if ids[-1] == prompt["last_id"] else [prompt["last_id"]]
        padded = ids + [0] * (prompt["max_tokens"] - len(ids))
        return {
            "policy/image": torch.from_numpy(np.array(resized))[None],
            "policy/token_ids": torch.tensor([padded]),
            "policy/prompt_length": torch.tensor([len(ids)]),
        }

    def act(self, image: np.ndarray, words: str) -> dict:
        """Return action and token ids."""
        return self.runner.run_policy(self.inputs(image, words))


def export(checkpoint: str, out: str, key: str = "") -> None:
    """Export a policy with openvla_ros; report the bytes of its files."""
    sys.path.append(str(SOURCE))
    from openvla_ros.exporting.bundle_formats import export_bundle
    from openvla_ros.exporting.policy_source import ExportChoices

    robot = PipedRobot()
    report = export_bundle(ExportChoices(checkpoint, unnorm_key=key or None), Path(out), to="leapp")
    robot.report(report.to_json())


def drive(folder: str, which: str) -> None:
    """Run each scene to its end."""
    robot, policy = PipedRobot(), LeappPolicy(folder)
    for seed in seeds(which):
        seen = robot.reset(seed)
        while not seen.over:
            seen = robot.step(policy.act(seen.image, seen.instruction)["policy/action"].double().numpy())
    robot.report("openvla_ros" in sys.modules)


def compare(folder: str, cases: str) -> None:
    """Report token ids and actions of each case."""
    robot, policy = PipedRobot(), LeappPolicy(folder)
    found = []
    for image, words in json.loads(Path(cases).read_text()):
        with Image.open(image) as file:
            got = policy.act(np.asarray(file.convert("RGB")), words)
        found.append([got["policy/action_token_ids"].tolist(), got["policy/action"].tolist()])
    robot.report(found)


def manners(folder: str) -> None:
    """Report the actions for inputs of which some are missing, or are another policy's."""
    robot, image = PipedRobot(), np.full((120, 160, 3), 90, np.uint8)
    said = {}
    for name, change in (
        ("all", lambda inputs: inputs),
        ("no token_ids", lambda inputs: {k: v for k, v in inputs.items() if "token" not in k}),
        ("no prompt_length", lambda inputs: {k: v for k, v in inputs.items() if "length" not in k}),
        ("nothing", lambda inputs: {}),
    ):
        policy = LeappPolicy(folder)
        got = policy.runner.run_policy(change(policy.inputs(image, "lift it")))
        said[name] = bool(torch.isnan(got["policy/action"]).all())
    robot.report({"version": leapp.__version__ if hasattr(leapp, "__version__") else "", "nan": said})


{"export": export, "drive": drive, "compare": compare, "manners": manners}[sys.argv[1]](*sys.argv[2:])
