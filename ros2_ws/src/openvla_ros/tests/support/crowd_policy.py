"""A policy for several robots whose answers say who asked, and which can be slow, wrong or broken."""

import threading
import time
from dataclasses import dataclass, field

import numpy as np
from support.policy_doors import SPACE

from openvla_ros.errors import ModelOutputError
from openvla_ros.serving.shared_policy import check_variant
from openvla_ros.values.action import ActionChunk


@dataclass(eq=False)
class CrowdSession:
    """One robot's session; its answers count its questions."""

    variant: str
    space = SPACE
    description = "crowd"
    cameras: tuple = ()
    dataset_key: str = ""
    asked: int = 0
    resets: int = 0

    def question(self, observation):
        self.asked += 1
        return self, observation, self.asked

    def reset(self):
        self.resets += 1


@dataclass(eq=False)
class Crowd:
    """Takes ``pass_s`` for any number of questions."""

    pass_s: float = 0.0
    variants: tuple = ("", "carrot")
    most_robots: int | None = None
    description: str = "crowd"
    batches: list = field(default_factory=list)  # how many questions each pass had
    sessions: list = field(default_factory=list)
    may_go_on: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self):
        self.may_go_on.set()

    def session(self, variant):
        check_variant(variant, self.variants, self.description)
        self.sessions.append(CrowdSession(variant))
        return self.sessions[-1]

    def answer(self, questions):
        self.batches.append(len(questions))
        time.sleep(self.pass_s)
        assert self.may_go_on.wait(30)
        if any(observation.instruction == "break" for _, observation, _ in questions):
            raise RuntimeError("a bug")
        return [self._answer(*question) for question in questions]

    def _answer(self, session, observation, number):
        if observation.instruction == "fail":
            return ModelOutputError("early end of sequence")
        action = np.array([observation.images["primary"].mean() / 1e4, 0, 0, 0, 0, 0, 1.0])
        action[1] = number / 1e4
        action[2] = self.variants.index(session.variant) / 1e2
        return ActionChunk(action[None], observation.stamp_ns, SPACE)

    def close(self):
        pass
