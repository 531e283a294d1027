"""A policy that replays the actions of a recorded episode step by step: the first test of a new robot."""

from __future__ import annotations

from openvla_ros.errors import InvalidValueError, PolicyError
from openvla_ros.values.action import ActionChunk, ActionSpace
from openvla_ros.values.episode import Episode
from openvla_ros.values.observation import Observation


class ReplayPolicy:
    """Returns the episode's actions in order, from the first after every reset; then ``PolicyError``."""

    def __init__(self, episode: Episode, space: ActionSpace) -> None:
        """Bind the episode to a robot's ``space``; raises ``InvalidValueError`` if they differ."""
        lines = space.differences(episode.space)
        if lines:
            raise InvalidValueError(
                f"episode {episode.id!r} was not recorded for this robot: " + "; ".join(lines)
            )
        self._episode, self._space, self._next = episode, space, 0

    @property
    def space(self) -> ActionSpace:
        """The robot's own action space."""
        return self._space

    @property
    def description(self) -> str:
        """The episode."""
        return f"replay of episode {self._episode.id!r}, {len(self._episode.actions)} steps"

    def infer(self, observation: Observation) -> ActionChunk:
        """Return the next action; raises ``PolicyError`` after the last."""
        if self._next >= len(self._episode.actions):
            raise PolicyError(f"{self.description}: played to its end")
        action = self._episode.actions[self._next : self._next + 1]
        self._next += 1
        return ActionChunk(action, observation.stamp_ns, self._space)

    def reset(self) -> None:
        """Go back to the first action."""
        self._next = 0

    def close(self) -> None:
        """Do nothing: there is nothing to release."""
