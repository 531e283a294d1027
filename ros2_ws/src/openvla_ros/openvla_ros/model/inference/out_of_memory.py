"""Out of memory while loading a checkpoint: detected on any device, with advice on what would fit."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from openvla_ros.model.checkpoints.safetensors import StoredTensor, stored_tensors
from openvla_ros.model.network.bitsandbytes_layers import PACKINGS, Quantization

GB = 1e9
# What inference needs beside the weights: activations, the cache, and the allocator's rounding.
HEADROOM = 1.15
_NOT_QUANTISED = ("embed_tokens", "lm_head")
# Bytes a weight of a quantised layer: LLM.int8; NF4 with a float32 scale for each 64 weights.
_INTEGER_BYTES = {"int8": 1.0, "nf4": 0.5 + 4 / 64}


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether ``error`` says that an allocation failed, on a GPU or in main memory."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("allocate memory" in text or "out of memory" in text)


def weight_sizes(folder: Path) -> dict[str, float]:
    """Return the approximate size of the weights in ``folder``, bytes, for each way of storing them."""
    stored = stored_tensors(folder)
    count = sum(_numbers(tensor) for tensor in stored.values())
    linear = sum(_numbers(tensor) for key, tensor in stored.items() if _is_linear(key, tensor))
    sizes = {name: 2.0 * (count - linear) + each * linear for name, each in _INTEGER_BYTES.items()}
    return {"fp32": 4.0 * count, "bf16": 2.0 * count} | sizes


def loading_advice(
    name: str, folder: Path, device: torch.device, dtype: torch.dtype, quantization: Quantization | None
) -> str:
    """Return what to change after the checkpoint in ``folder`` did not fit ``device``."""
    sizes = weight_sizes(folder)
    kept = "fp32" if dtype is torch.float32 else "bf16"
    if quantization in _INTEGER_BYTES:
        kept = str(quantization)
    smaller = {how: size for how, size in sizes.items() if size < sizes[kept]}
    need = f"its weights take about {sizes[kept] / GB:.1f} GB as {kept}"
    if quantization in PACKINGS:
        return (
            f"out of memory: {name} does not fit on {device}: {need}, and {quantization} keeps packed "
            f"weights in addition: use {_named(smaller)}, or quantization none"
        )
    free = _free_bytes(device)
    room = "" if free is None else f", and {free / GB:.1f} GB are free"
    fits = {how: size for how, size in smaller.items() if free is None or size * HEADROOM <= free}
    if fits:
        remedy = f"use {_named(fits)}; any adapter is stored in addition, unmerged"
    else:
        remedy = (
            "no smaller format fits either: free some memory, or serve it from a larger GPU (openvla serve)"
        )
    return f"out of memory: {name} does not fit on {device}: {need}{room}; {remedy}"


def _named(sizes: dict[str, float]) -> str:
    """Return settings and sizes, the largest first."""
    words = []
    for how, size in sorted(sizes.items(), key=lambda item: -item[1]):
        setting = f"dtype {how}" if how == "bf16" else f"quantization {how}"
        words.append(f"{setting} (about {size / GB:.1f} GB)")
    return " or ".join(words) or "a smaller model"


def _free_bytes(device: torch.device) -> float | None:
    """Return a GPU's free memory for this process, bytes, including the allocator's cache."""
    if device.type != "cuda":
        return None
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    return float(free)


def _numbers(tensor: StoredTensor) -> int:
    return math.prod(tensor.shape)


def _is_linear(key: str, tensor: StoredTensor) -> bool:
    is_matrix = key.endswith(".weight") and len(tensor.shape) == 2
    return is_matrix and not any(part in key for part in _NOT_QUANTISED)
