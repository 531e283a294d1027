"""The protocol of every policy: a local model, a remote one, a replay, a scripted expert."""

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
        """One line for logs: what this policy is, and where its weights come from."""
        ...

    def infer(self, observation: Observation) -> ActionChunk:
        """Return the actions for ``observation``; never makes one up.

        Args:
            observation: Images uint8 (H, W, 3) by camera name, the instruction, and the robot's state.

        Returns:
            Actions (T, D) in ``space``, with the stamp of the observation.

        Raises:
            PolicyError: The observation lacks something that the policy needs.
            ModelOutputError: The model's output is not a valid action.
        """
        ...

    def reset(self) -> None:
        """Forget the state of the instruction that just ended."""
        ...

    def close(self) -> None:
        """Release devices, files and connections. Safe to call twice."""
        ...


@runtime_checkable
class Preparing(Protocol):
    """Optional: warm up for an instruction before its first inference."""

    def prepare(self, instruction: str) -> bool:
        """Prepare for an instruction; nothing is inferred yet.

        Args:
            instruction: The words that the next observations will carry.

        Returns:
            True if that took long enough for images to go stale.
        """
        ...


@runtime_checkable
class Trained(Protocol):
    """Optional: what a policy was trained on; a server of others' clients needs it."""

    @property
    def cameras(self) -> tuple[str, ...]:
        """The cameras that it looks at, in its order."""
        ...

    @property
    def dataset_key(self) -> str:
        """The dataset whose statistics un-normalise its actions: the ``unnorm_key``."""
        ...


@runtime_checkable
class Reporting(Protocol):
    """Optional: report the policy's own measurements."""

    def report(self) -> Mapping[str, str]:
        """Return names and values for ``/diagnostics``."""
        ...
