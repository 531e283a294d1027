"""One OpenVLA checkpoint for several robots: one set of weights, an adapter for each, one pass for all.

What belongs to a robot is its session: its adapter's policy and the action that it got last, which its next
one is guessed from. Proprioception, for models that take it, comes with each observation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from openvla_ros.errors import OpenVLARosError, PolicyError
from openvla_ros.model.inference.batch_predictor import Answer, BatchPredictor, Question
from openvla_ros.model.inference.predictor import OpenVLAPredictor
from openvla_ros.policy.openvla_policy import OpenVLAPolicy, swap_adapter
from openvla_ros.profile import RobotProfile
from openvla_ros.serving.shared_policy import Answered, check_variant
from openvla_ros.values.action import ActionChunk, ActionSpace
from openvla_ros.values.observation import Observation


class OpenVLASession:
    """One robot's use of the checkpoint."""

    def __init__(self, policy: OpenVLAPolicy) -> None:
        self.policy = policy
        self.last: Tensor | None = None  # tokens of the robot's last action

    @property
    def space(self) -> ActionSpace:
        """The meaning of the actions."""
        return self.policy.space

    @property
    def description(self) -> str:
        """The checkpoint, and the adapter if any."""
        return self.policy.description

    @property
    def cameras(self) -> tuple[str, ...]:
        """The model's cameras, in its order."""
        return self.policy.cameras

    @property
    def dataset_key(self) -> str:
        """The dataset whose statistics un-normalise the actions."""
        return self.policy.dataset_key

    def question(self, observation: Observation) -> RobotQuestion:
        """Return ``observation`` with its image transformed and its words tokenised.

        Raises ``PolicyError`` if the observation lacks something that the model needs.
        """
        predictor, images = self.policy.predictor, self.policy.images_of(observation)
        ready = None
        if isinstance(predictor, OpenVLAPredictor):
            ready = Question.prepared(predictor, images[0], observation.instruction, self.last)
        return RobotQuestion(self, observation, ready)

    def reset(self) -> None:
        """Do nothing: the last action is as good a guess for the next instruction as any."""


@dataclass(frozen=True, eq=False)
class RobotQuestion:
    """One robot's observation; ``ready`` is it for the network, or None for a model that takes no batch."""

    session: OpenVLASession
    observation: Observation
    ready: Question | None


class SharedOpenVLA:
    """Policies on the same weights, by the name of their adapter; the empty name is the default."""

    def __init__(self, policies: Mapping[str, OpenVLAPolicy]) -> None:
        self._policies = dict(policies)
        first = self._policies[""].predictor
        self._together = BatchPredictor(first) if isinstance(first, OpenVLAPredictor) else None

    @property
    def variants(self) -> tuple[str, ...]:
        """The names of the adapters."""
        return tuple(self._policies)

    @property
    def description(self) -> str:
        """The default policy, and how many more there are."""
        more = len(self._policies) - 1
        return self._policies[""].description + (f", and {more} adapters to choose" if more else "")

    @property
    def most_robots(self) -> None:
        """Any number: nothing of a robot is kept in the weights."""
        return None

    def session(self, variant: str) -> OpenVLASession:
        """Return a new robot's session; raises ``PolicyError`` for an adapter that is not served."""
        check_variant(variant, self.variants, self.description)
        return OpenVLASession(self._policies[variant])

    def answer(self, questions: Sequence[RobotQuestion]) -> list[Answered]:
        """Return the action or the error for each question."""
        if self._together is None:  # OFT predicts one moment at a time
            return [_answered(question) for question in questions]
        answers = self._together.predict([question.ready for question in questions if question.ready])
        return [_chunk(*pair) for pair in zip(questions, answers, strict=True)]

    def close(self) -> None:
        """Free the weights. Safe to call twice."""
        if self._together is not None:
            self._together.close()
        self._together = None
        for policy in self._policies.values():
            policy.close()


def with_adapters(
    policy: OpenVLAPolicy,
    checkpoint: str,
    adapters: Mapping[str, Path],
    profile: RobotProfile,
    *,
    offline: bool = False,
) -> SharedOpenVLA:
    """Return ``policy`` for several robots, each of which may name one of ``adapters`` (name: folder).

    ``checkpoint`` is the base that ``policy`` was loaded from. Raises what ``swap_adapter`` raises for an
    adapter that does not fit the base or the robot.
    """
    if adapters and not isinstance(policy.predictor, OpenVLAPredictor):
        raise PolicyError(f"{policy.description}: only a plain OpenVLA model supports adapters")
    policies = {"": policy}
    for name, folder in adapters.items():
        policies[name] = swap_adapter(policy, checkpoint, folder, profile, offline=offline)
    return SharedOpenVLA(policies)


def _chunk(question: RobotQuestion, answer: Answer) -> Answered:
    """Return the chunk in ``answer``, and remember it for the robot's next question."""
    session, found = question.session, answer.prediction
    session.last = answer.last
    if isinstance(found, OpenVLARosError):
        return found
    try:
        return session.policy.chunk_of(found, question.observation)
    except OpenVLARosError as error:
        return error


def _answered(question: RobotQuestion) -> Answered:
    try:
        chunk: ActionChunk = question.session.policy.infer(question.observation)
    except OpenVLARosError as error:
        return error
    return chunk
