"""The language model's matrices for several sequences at once, each with an adapter of its own.

The weights are multiplied once for all sequences; each adapter's narrow update is added to the rows of its
own sequences only. Method: Chen et al., arXiv 2310.18547 (Punica), with sequences of one adapter side by
side instead of gathered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from openvla_ros.model.kernels.linear_layers import Adapted, LlamaMaps, Projection, Scaled


@dataclass(frozen=True)
class Run:
    """Neighbouring sequences of a batch, ``first`` .. ``end - 1``, that use the same maps."""

    first: int
    end: int


@dataclass(frozen=True, eq=False)
class ByRow:
    """One projection for all rows, plus what each run of sequences adds to its own."""

    base: Projection
    parts: tuple[tuple[Run, Adapted | Scaled], ...]
    sequences: int

    def __call__(self, x: Tensor) -> Tensor:
        """Return (N, out) for (N, in), where each sequence has N / ``sequences`` neighbouring rows."""
        out, each = self.base(x), len(x) // self.sequences
        for run, part in self.parts:
            rows = slice(run.first * each, run.end * each)
            _adapt(part, out[rows], x[rows])
        return out

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """Return ``residual`` plus the map of ``x``."""
        return residual + self(x)


def row_maps(base: LlamaMaps, maps: Sequence[LlamaMaps]) -> LlamaMaps:
    """Return maps that treat sequence i of a batch as ``maps[i]``, which is ``base`` or ``base`` adapted.

    Sequences of the same maps are treated together where they are neighbours.
    """
    runs = _runs(maps)
    if all(found is base for _, found in runs):
        return base

    def by_row(projection: Projection, others: Sequence[Projection]) -> Projection:
        parts = tuple(
            (run, other)
            for (run, _), other in zip(runs, others, strict=True)
            if isinstance(other, Adapted | Scaled)
        )
        return ByRow(projection, parts, len(maps)) if parts else projection

    layers = []
    for index, layer in enumerate(base.layers):
        others = zip(*(found.layers[index].projections for _, found in runs), strict=True)
        layers.append(
            layer.with_projections(
                by_row(projection, several)
                for projection, several in zip(layer.projections, others, strict=True)
            )
        )
    return LlamaMaps(tuple(layers), base.norm, by_row(base.head, [found.head for _, found in runs]))


def _runs(maps: Sequence[LlamaMaps]) -> list[tuple[Run, LlamaMaps]]:
    runs: list[tuple[Run, LlamaMaps]] = []
    for index, found in enumerate(maps):
        if runs and runs[-1][1] is found:
            runs[-1] = Run(runs[-1][0].first, index + 1), found
        else:
            runs.append((Run(index, index + 1), found))
    return runs


def _adapt(part: Adapted | Scaled, out: Tensor, x: Tensor) -> None:
    """Turn the weights' own output ``out`` (N, out) for ``x`` (N, in) into that of ``part``, in place."""
    adapted = part.base if isinstance(part, Scaled) else part
    assert isinstance(adapted, Adapted)  # adapted_maps scales nothing else
    adapted.update(out, adapted.down(x))
    if isinstance(part, Scaled):
        out.mul_(part.gain)
