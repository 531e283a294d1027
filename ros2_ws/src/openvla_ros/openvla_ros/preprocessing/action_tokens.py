"""The action codec: normalised actions ↔ token ids, and robot units ↔ normalised actions.

One module for both directions, so that training and deployment cannot drift apart. It knows
nothing of tokenizers and models: an id is a number in a vocabulary whose last ``bins`` ids are
actions. Arithmetic follows the original ``ActionTokenizer``, ``normalize_action_and_proprio`` and
``predict_action`` of openvla/openvla to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openvla_ros.errors import InvalidValueError, StatisticsError
from openvla_ros.preprocessing.dataset_statistics import FieldStatistics
from openvla_ros.values.arrays import Float, Int, read_only

Bounds = Literal["quantiles", "extremes"]

# Keeps the training-time division finite where a dimension never moves.
EPSILON = 1e-8
IGNORED = -100  # the label of a token that the training loss ignores


@dataclass(frozen=True)
class ActionCodec:
    """Uniform bins over -1 .. 1, counted down from the end of the vocabulary.

    The lowest bin is id ``vocab_size - 1``. ``vocab_size`` is the tokenizer's, without padding:
    32000 for Llama-2.
    """

    vocab_size: int = 32000
    bins: int = 256
    edges: Float = field(init=False, repr=False, compare=False)  # (bins,) float64
    centers: Float = field(init=False, repr=False, compare=False)  # (bins - 1,) float64

    def __post_init__(self) -> None:
        if not 2 <= self.bins < self.vocab_size:
            raise InvalidValueError(f"{self.bins} bins; there must be 2 .. {self.vocab_size - 1}")
        edges = np.linspace(-1.0, 1.0, self.bins)
        object.__setattr__(self, "edges", read_only(edges))
        object.__setattr__(self, "centers", read_only((edges[:-1] + edges[1:]) / 2.0))

    @property
    def first_id(self) -> int:
        """The smallest id of an action token: exactly 1.0."""
        return self.vocab_size - self.bins

    @property
    def last_id(self) -> int:
        """The largest id of an action token: the bin that starts at -1."""
        return self.vocab_size - 1

    def encode(self, normalised: ArrayLike) -> Int:
        """Return the token ids (...,) of normalised actions (...,), clipped to -1 .. 1.

        Floats of any width are compared with the float64 edges without conversion. Raises
        ``InvalidValueError`` for non-finite values, which would otherwise become the last bin.
        """
        values = np.asarray(normalised)
        if not np.issubdtype(values.dtype, np.floating):
            values = values.astype(np.float64)
        _require_finite("normalised action", values)
        ids: Int = self.vocab_size - np.digitize(np.clip(values, -1.0, 1.0), self.edges).astype(np.int64)
        return ids

    def decode(self, ids: ArrayLike) -> Float:
        """Return the bin centers (...,) float64 of token ids (...,); other ids clip to an end bin."""
        tokens = np.asarray(ids)
        if not np.issubdtype(tokens.dtype, np.integer):
            raise InvalidValueError(f"token ids are {tokens.dtype}; they must be whole numbers")
        index = np.clip(self.vocab_size - tokens.astype(np.int64) - 1, 0, self.bins - 2)
        values: Float = self.centers[index]
        return values


def normalise(
    actions: ArrayLike,
    statistics: FieldStatistics,
    bounds: Bounds = "quantiles",
    *,
    constant_to_zero: bool = True,
) -> NDArray[np.float32]:
    """Return actions (..., D) scaled to -1 .. 1, in float32, as for training.

    Dimensions outside the mask are unchanged; those whose minimum equals their maximum become 0
    (``constant_to_zero``; OpenVLA-OFT does not do that to proprioception). Raises
    ``InvalidValueError`` for a wrong width or a non-finite value, and ``StatisticsError`` if the
    statistics lack the minimum and maximum.
    """
    values = _checked(actions, statistics, "action").astype(np.float32)
    if (constant_to_zero or bounds == "extremes") and not statistics.has_extremes:
        raise StatisticsError("the statistics lack min and max, which are needed for normalisation")
    low, high = _bounds(statistics, bounds)
    scaled = np.float32(2.0) * (values - low.astype(np.float32)) / (high - low + EPSILON).astype(np.float32)
    out = np.where(statistics.mask, np.clip(scaled - np.float32(1.0), -1.0, 1.0), values)
    if constant_to_zero:
        out = np.where(statistics.min == statistics.max, np.float32(0.0), out)
    return out.astype(np.float32)


def unnormalise(
    normalised: ArrayLike,
    statistics: FieldStatistics,
    bounds: Bounds = "quantiles",
    *,
    epsilon: float = 0.0,
) -> Float:
    """Return normalised actions (..., D) in the dataset's units, float64, as inference does.

    ``epsilon`` widens the range as OpenVLA-OFT does (``EPSILON``); OpenVLA itself does not. Raises
    ``InvalidValueError`` for a wrong width or a value that is not finite.
    """
    values = _checked(normalised, statistics, "normalised action").astype(np.float64)
    low, high = _bounds(statistics, bounds)
    span = high - low + epsilon if epsilon else high - low
    out: Float = np.where(statistics.mask, 0.5 * (values + 1) * span + low, values)
    return out


def _bounds(statistics: FieldStatistics, bounds: Bounds) -> tuple[Float, Float]:
    match bounds:
        case "quantiles":
            statistics.check_quantiles()
            return statistics.q01, statistics.q99
        case "extremes":
            if not statistics.has_extremes:
                raise StatisticsError("the statistics lack min and max, which are needed for these bounds")
            return statistics.min, statistics.max
        case _:
            raise InvalidValueError(f"bounds {bounds!r}; the choices are 'quantiles' and 'extremes'")


def _checked(value: ArrayLike, statistics: FieldStatistics, name: str) -> NDArray[np.floating]:
    array = np.asarray(value)
    if array.ndim == 0 or array.shape[-1] != statistics.width:
        raise InvalidValueError(
            f"{name} has shape {array.shape}; the last axis must be {statistics.width}, as in the statistics"
        )
    _require_finite(name, array)
    return array


def _require_finite(name: str, array: NDArray[np.floating]) -> None:
    bad = np.argwhere(~np.isfinite(array))
    if bad.size:
        where = tuple(int(i) for i in bad[0])
        raise InvalidValueError(f"{name}{list(where)} is {array[where]}; it must be finite")
