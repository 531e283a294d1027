"""The OpenVLA policy: an observation to a chunk of actions, through one loaded checkpoint.

Chooses the pictures and the state that the model looks at and gives its numbers the robot's action
space. Everything about the network is in ``model``.
"""

from __future__ import annotations

from collections.abc import Sequence

from openvla_ros.action import ActionChunk, ActionSpace
from openvla_ros.arrays import Image
from openvla_ros.errors import PolicyError
from openvla_ros.model.predictor import ActionPredictor
from openvla_ros.observation import Observation


class OpenVLAPolicy:
    """A policy that runs a checkpoint in this process."""

    def __init__(
        self, predictor: ActionPredictor, space: ActionSpace, *, cameras: Sequence[str], description: str
    ) -> None:
        """Bind ``predictor`` to a robot's ``space`` and to its ``cameras``, in the model's order.

        Raises ``StatisticsError`` if the model's actions are not as wide as the space, and
        ``PolicyError`` if it takes another number of pictures.
        """
        predictor.statistics.check_space(space, description)
        if len(cameras) != predictor.image_count:
            raise PolicyError(
                f"{description} takes {predictor.image_count} images; "
                f"{len(cameras)} cameras were given: {', '.join(cameras) or 'none'}"
            )
        self._predictor: ActionPredictor | None = predictor
        self._space = space
        self._cameras = tuple(cameras)
        self._description = description

    @property
    def space(self) -> ActionSpace:
        """The meaning of the actions that ``infer`` returns."""
        return self._space

    @property
    def description(self) -> str:
        """One line for people: which checkpoint this is."""
        return self._description

    def infer(self, observation: Observation) -> ActionChunk:
        """Return the model's actions; raises ``PolicyError`` and ``ModelOutputError``."""
        if self._predictor is None:
            raise PolicyError(f"{self._description} is closed")
        prediction = self._predictor.predict(self._images(observation), observation.instruction)
        return ActionChunk(
            actions=prediction.actions,
            observation_stamp_ns=observation.stamp_ns,
            space=self._space,
            probability=prediction.probability,
            entropy=prediction.entropy,
        )

    def reset(self) -> None:
        """Nothing is carried from one instruction to the next."""

    def close(self) -> None:
        """Let go of the weights. Safe to call twice."""
        self._predictor = None

    def _images(self, observation: Observation) -> list[Image]:
        missing = [name for name in self._cameras if name not in observation.images]
        if missing:
            raise PolicyError(
                f"{self._description} needs camera {missing[0]!r}; the observation has "
                f"{', '.join(observation.images)}"
            )
        return [observation.images[name] for name in self._cameras]
