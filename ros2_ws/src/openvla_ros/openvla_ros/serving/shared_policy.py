"""One policy for several robots at once: what each robot keeps, and questions that are answered together.

Any policy can be served to one robot at a time (``OneAtATime``). A policy that keeps what belongs to a robot
apart from its weights implements ``SharedPolicy``; ``shared_openvla`` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from openvla_ros.errors import OpenVLARosError, PolicyError
from openvla_ros.policy.protocol import Policy, Trained
from openvla_ros.values.action import ActionChunk, ActionSpace
from openvla_ros.values.observation import Observation

Answered = ActionChunk | OpenVLARosError


class Session(Protocol):
    """One robot's use of a shared policy: its variant, and what is remembered for it."""

    @property
    def space(self) -> ActionSpace:
        """The meaning of the actions."""
        ...

    @property
    def description(self) -> str:
        """One line for logs."""
        ...

    @property
    def cameras(self) -> tuple[str, ...]:
        """The cameras that the policy looks at, in its order; empty if it does not say."""
        ...

    @property
    def dataset_key(self) -> str:
        """The dataset whose statistics un-normalise the actions; empty if there is none."""
        ...

    def question(self, observation: Observation) -> Any:
        """Return ``observation`` as ``SharedPolicy.answer`` takes it.

        Called on the robot's own thread, beside other robots' and beside ``answer``. Raises what
        ``Policy.infer`` raises.
        """
        ...

    def reset(self) -> None:
        """Forget the state of the instruction that just ended."""
        ...


@runtime_checkable
class SharedPolicy(Protocol):
    """Answers several robots' questions together."""

    @property
    def variants(self) -> tuple[str, ...]:
        """The names that ``session`` takes: of adapters, for instance; the empty one is the default."""
        ...

    @property
    def description(self) -> str:
        """One line for logs: what is served."""
        ...

    @property
    def most_robots(self) -> int | None:
        """How many robots it can serve at once; None: any number."""
        ...

    def session(self, variant: str) -> Session:
        """Return a new robot's session with one of ``variants``; raises ``PolicyError`` for another name."""
        ...

    def answer(self, questions: Sequence[Any]) -> list[Answered]:
        """Return the chunk or the error for each question; one robot's error is not another's."""
        ...

    def close(self) -> None:
        """Release devices, files and connections. Safe to call twice."""
        ...


@dataclass(frozen=True, eq=False)
class OneAtATime:
    """A policy that keeps one robot's state: it serves one robot at a time."""

    policy: Policy
    variants: tuple[str, ...] = ("",)
    most_robots: int | None = 1

    @property
    def description(self) -> str:
        """One line for logs: the policy's."""
        return self.policy.description

    def session(self, variant: str) -> OnlySession:
        """Return the session of the one robot."""
        check_variant(variant, self.variants, self.description)
        return OnlySession(self.policy)

    def answer(self, questions: Sequence[Observation]) -> list[Answered]:
        """Return the policy's answers, one after the other."""
        return [self._answered(question) for question in questions]

    def close(self) -> None:
        """Close the policy."""
        self.policy.close()

    def _answered(self, observation: Observation) -> Answered:
        try:
            return self.policy.infer(observation)
        except OpenVLARosError as error:
            return error


@dataclass(frozen=True, eq=False)
class OnlySession:
    """The session of a policy that serves one robot at a time."""

    policy: Policy

    @property
    def space(self) -> ActionSpace:
        """The policy's action space."""
        return self.policy.space

    @property
    def description(self) -> str:
        """The policy's own line."""
        return self.policy.description

    @property
    def cameras(self) -> tuple[str, ...]:
        """The policy's cameras, if it says which."""
        return self.policy.cameras if isinstance(self.policy, Trained) else ()

    @property
    def dataset_key(self) -> str:
        """The policy's dataset, if it says which."""
        return self.policy.dataset_key if isinstance(self.policy, Trained) else ""

    def question(self, observation: Observation) -> Observation:
        """Return ``observation`` itself."""
        return observation

    def reset(self) -> None:
        """Reset the policy."""
        self.policy.reset()


def check_variant(name: str, variants: Sequence[str], description: str) -> None:
    """Raise ``PolicyError`` unless ``name`` is one of ``variants``, naming the choices."""
    if name not in variants:
        choices = ", ".join(known for known in variants if known)
        raise PolicyError(
            f"there is no adapter {name[:80]!r}: {description} is served with "
            + (f"the adapters {choices}" if choices else "none to choose; leave the address's path empty")
        )
