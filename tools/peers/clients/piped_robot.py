"""Runs in others' environments: the simulated robot of ``peers.piped_simulation``, over stdin and stdout."""

import json
import os
import sys
from dataclasses import dataclass

import numpy as np


@dataclass
class Seen:
    """What the robot sees and says."""

    image: np.ndarray  # uint8 (H, W, 3)
    state: np.ndarray  # (7,) as BridgeData V2's
    instruction: str
    over: bool
    success: bool


class PipedRobot:
    """The robot; whatever else prints goes to the terminal."""

    def __init__(self) -> None:
        self._told = sys.stdin.buffer
        self._asked = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)

    def reset(self, seed: int) -> Seen:
        """Begin with the scene of ``seed``."""
        return self._ask({"do": "reset", "seed": seed})

    def step(self, action: np.ndarray) -> Seen:
        """Execute one action (7,)."""
        return self._ask({"do": "step", "action": [float(number) for number in action]})

    def report(self, report: object) -> None:
        """End with what is to be compared."""
        self._asked.write(json.dumps({"do": "report", "report": report}).encode() + b"\n")
        self._asked.flush()

    def _ask(self, order: dict) -> Seen:
        self._asked.write(json.dumps(order).encode() + b"\n")
        self._asked.flush()
        head = json.loads(self._told.readline())
        data = self._told.read(int(np.prod(head["shape"])))
        image = np.frombuffer(data, np.uint8).reshape(head["shape"])
        return Seen(image, np.array(head["state"]), head["instruction"], head["over"], head["success"])


def seeds(text: str) -> list:
    """Return the seeds in ``1,2,3``."""
    return [int(seed) for seed in text.split(",")]
