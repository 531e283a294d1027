"""What an adapter's training took out of the base's weights before it began, and how to undo that.

PiSSA, OLoRA, CorDA and LoRA-GA start from factors ``A0, B0`` that are not zero, and train on the base
``W - s B0 A0``. On the published base their adapter therefore means ``s (B A - B0 A0)``. ``A0, B0`` are read
from the adapter that was saved before training, or computed from the base where that is deterministic.
Methods: Meng et al., arXiv 2404.02948 (PiSSA); Büyükakyüz, arXiv 2406.01775 (OLoRA). peft's own conversion:
``save_pretrained(..., path_initial_model_for_weight_conversion=...)``.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from openvla_ros.errors import CheckpointError
from openvla_ros.model.network.lora_delta import LowRankUpdate

INITIAL = "initial_adapter"  # a subfolder of the adapter
COMPUTABLE = ("pissa", "olora")
# The factors of peft's float32 differ from ours by rounding, which grows as the largest kept and the smallest
# dropped singular value approach each other. What that may change is at most what rounding to bfloat16 does.
_ALLOWED = 1e-3
_ROUNDING = 8 * torch.finfo(torch.float32).eps


def advice(initialisation: str) -> str:
    """Return what to do about an adapter that cannot be converted here."""
    if initialisation == "loftq":
        return "merge it with peft into the quantised base of its training (merge_and_unload)"
    return (
        "save it with peft's save_pretrained(..., path_initial_model_for_weight_conversion=...), or put the "
        f"adapter that was saved before training into its subfolder {INITIAL}"
    )


def initial_factors(initialisation: str, weight: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """Return A0 (rank, in) and B0 (out, rank) in float32, as PiSSA or OLoRA computes them from ``weight``.

    Raises ``CheckpointError`` if the weight does not determine them.
    """
    if weight.ndim != 2 or rank > min(weight.shape):
        raise CheckpointError(
            f"{initialisation} of rank {rank} is not defined for a weight {list(weight.shape)}"
        )
    match initialisation:
        case "pissa":
            return _principal(weight.float(), rank, scale)
        case "olora":
            return _leading(weight.float(), rank)
        case _:
            raise CheckpointError(f"{initialisation}: its initial factors cannot be computed from the base")


def without_initial(update: LowRankUpdate, down: Tensor, up: Tensor) -> LowRankUpdate:
    """Return ``update`` minus ``scale * up @ down``, as one update of at most twice the rank.

    The difference is computed in float64 and factored again: in low precision, two large products would not
    cancel. Raises ``CheckpointError`` if the shapes differ, or for a convolution.
    """
    if update.down.ndim != 2 or down.shape[1:] != update.down.shape[1:] or len(up) != len(update.up):
        raise CheckpointError(
            f"an initial update {[len(up), *down.shape[1:]]} cannot be subtracted from one of "
            f"{[len(update.up), *update.down.shape[1:]]}"
        )
    left = torch.cat([update.up.double(), -up.double()], dim=1)
    right = torch.cat([update.down.double(), down.double()])
    outer, middle_left = torch.linalg.qr(left)
    inner, middle_right = torch.linalg.qr(right.T)
    turned, strengths, turned_back = torch.linalg.svd(middle_left @ middle_right.T, full_matrices=False)
    root = strengths.sqrt()
    new_up, new_down = outer @ turned * root, root[:, None] * (turned_back @ inner.T)
    return replace(update, down=new_down.float().contiguous(), up=new_up.float().contiguous())


def _principal(weight: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    left, strengths, right = torch.linalg.svd(weight, full_matrices=False)
    kept, dropped = float(strengths[rank - 1]), float(strengths[rank]) if rank < len(strengths) else 0.0
    error = _ROUNDING * float(strengths[0]) * kept / max(kept - dropped, torch.finfo(torch.float32).tiny)
    if kept > 0.0 and error > _ALLOWED * float(torch.linalg.norm(weight)):
        raise CheckpointError(
            f"singular values {rank} and {rank + 1} of its weight are {kept:.6g} and {dropped:.6g}: too "
            "close to know which part of the weight was adapted"
        )
    root = (strengths[:rank] / scale).sqrt()
    return root[:, None] * right[:rank], left[:, :rank] * root


def _leading(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    orthogonal, upper = torch.linalg.qr(weight)
    diagonal = upper.diagonal()[:rank].abs()
    if float(diagonal.min()) < _ROUNDING * float(diagonal.max()) / _ALLOWED:
        raise CheckpointError("the first columns of its weight depend on each other: no unique QR")
    return upper[:rank], orthogonal[:, :rank]
