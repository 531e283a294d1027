"""The protocol that every policy speaks: a local model, a remote one, a replay, a scripted expert."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from openvla_ros.values.action import ActionChunk, ActionSpace
from openvla_ros.values.observation import Observation


@runtime_checkable
class Policy(Protocol):
    """Turns one observation into a chunk of actions."""

    @property
    def space(self) -> ActionSpace:
        """The meaning of the actions that ``infer`` returns."""
        ...

    @property
    def description(self) -> str:
        """One line for people: what this policy is and where its weights come from."""
        ...

    def infer(self, observation: Observation) -> ActionChunk:
        """Return the actions for ``observation``.

        Raises ``PolicyError`` if the observation lacks what the policy needs and
        ``ModelOutputError`` if no valid action came out; never returns a made-up action.
        """
        ...

    def reset(self) -> None:
        """Forget everything that belongs to the instruction that just ended."""
        ...

    def close(self) -> None:
        """Give back devices, files and connections. Safe to call twice."""
        ...


@runtime_checkable
class Preparing(Protocol):
    """What a policy may do besides: take what an instruction needs out of its first inference."""

    def prepare(self, instruction: str) -> bool:
        """Make ready for ``instruction``; tell whether that took so long that images have aged."""
        ...


@runtime_checkable
class Reporting(Protocol):
    """What a policy may do besides: tell what it has measured of itself."""

    def report(self) -> Mapping[str, str]:
        """Return names and values for ``/diagnostics``."""
        ...
