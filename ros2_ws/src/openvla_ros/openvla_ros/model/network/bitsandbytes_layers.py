"""Quantised weights: the choices, and integer weights with bitsandbytes.

With bitsandbytes, weights are quantised to 8 bits (LLM.int8) or 4 bits (NF4) while loading, which saves
memory. The other kinds are stored by the fast decoders in addition to the 16-bit weights, for speed
(``packed_weights``). Here, the linear layers of the towers, the projector and the language model are
quantised; the embeddings and the output head keep their type, as in the paper. Not exact: some tokens
differ from bf16.
Methods: Dettmers et al., arXiv 2208.07339 and 2305.14314.
"""

from __future__ import annotations

import logging
from types import ModuleType
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from openvla_ros.errors import CheckpointError, MissingDependencyError
from openvla_ros.model.network.openvla import OpenVLA

Integers = Literal["int8", "nf4"]
# Beside the 16-bit weights: 8 or 4 bits for the weights alone, or 8-bit floats for inputs as well.
Packing = Literal["int8wo", "int4wo", "fp8"]
Quantization = Integers | Packing
INTEGERS: tuple[Integers, ...] = get_args(Integers)
PACKINGS: tuple[Packing, ...] = get_args(Packing)
QUANTIZATIONS: tuple[Quantization, ...] = (*INTEGERS, *PACKINGS)
_KEPT = "language_model.lm_head"
_BLOCK = 64  # weights that share one scale in NF4
_OUTLIER = 6.0  # inputs above it are multiplied in 16 bits (LLM.int8, section 3.2)


def quantizable(network: nn.Module, how: Integers, device: str | torch.device) -> dict[str, nn.Linear]:
    """Return the linear layers that are quantised on ``device``, by name."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and name != _KEPT and _is_right(module, how, device)
    }


def _is_right(layer: nn.Linear, how: Integers, device: str | torch.device) -> bool:
    """Return whether bitsandbytes reads this layer back as it wrote it.

    Version 0.50 on a CPU takes each row of a wide 4-bit matrix to start a new block of 64, though it
    does not when it writes: rows of another length come back wrong (relative error 0.25 instead of
    0.09). In openvla-7b these are the second MLP layers of SigLIP, 4304 wide; they keep their type.
    """
    rows_are_blocks = layer.in_features <= _BLOCK or layer.in_features % _BLOCK == 0
    return how != "nf4" or torch.device(device).type != "cpu" or rows_are_blocks


def make_quantized_layers(
    network: OpenVLA, how: Integers, dtype: torch.dtype, device: str | torch.device
) -> frozenset[str]:
    """Replace the linear layers of a skeleton by quantised ones; return the keys of their weights.

    ``dtype`` is what they compute in. Raises ``MissingDependencyError`` without bitsandbytes.
    """
    library = _bitsandbytes()
    names = quantizable(network, how, device)
    for name, layer in names.items():
        parent, _, leaf = name.rpartition(".")
        with torch.device("meta"):
            new = _layer(library, layer, how, dtype)
        setattr(network.get_submodule(parent), leaf, new)
    return frozenset(f"{name}.weight" for name in names)


def assign_quantized(
    network: nn.Module, key: str, weight: Tensor, how: Integers, device: str | torch.device
) -> None:
    """Quantise ``weight`` on ``device`` and make it the parameter ``key`` of its quantised layer."""
    library = _bitsandbytes()
    module = network.get_submodule(key.removesuffix(".weight"))
    match how:
        case "int8":
            value = library.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
        case "nf4":
            value = library.nn.Params4bit(
                weight, requires_grad=False, quant_type="nf4", compress_statistics=False, module=module
            )
    module.weight = value.to(device)


def weight_bytes(network: nn.Module) -> int:
    """Return the bytes that the weights take, with the scales of quantised ones."""
    total = 0
    for parameter in network.parameters():
        total += parameter.numel() * parameter.element_size()
        state = getattr(parameter, "quant_state", None)
        scales = (None if state is None else state.absmax, getattr(parameter, "SCB", None))
        total += sum(scale.numel() * scale.element_size() for scale in scales if scale is not None)
    for module in network.modules():
        kept = getattr(getattr(module, "state", None), "SCB", None)  # int8 scales after the first call
        if isinstance(kept, Tensor) and getattr(module.weight, "SCB", None) is None:
            total += kept.numel() * kept.element_size()
    return total


def select_quantization(name: str) -> Quantization:
    """Return ``name`` as a ``Quantization``; ``CheckpointError`` lists the choices."""
    for choice in QUANTIZATIONS:
        if name == choice:
            return choice
    raise CheckpointError(f"quantization {name!r} is not one of {', '.join(QUANTIZATIONS)}")


def integers_of(how: Quantization | None) -> Integers | None:
    """Return the quantisation to apply while loading; none, for packed weights stored in addition."""
    return how if how == "int8" or how == "nf4" else None


def packing_of(how: Quantization | None) -> Packing | None:
    """Return the packed weights that ``how`` stores in addition to the loaded ones."""
    return how if how == "int8wo" or how == "int4wo" or how == "fp8" else None


def _layer(library: ModuleType, layer: nn.Linear, how: Integers, dtype: torch.dtype) -> nn.Module:
    sizes = (layer.in_features, layer.out_features)
    bias = layer.bias is not None
    new: nn.Module
    match how:
        case "int8":
            new = library.nn.Linear8bitLt(*sizes, bias=bias, has_fp16_weights=False, threshold=_OUTLIER)
        case "nf4":
            four = library.nn.Linear4bit(
                *sizes, bias=bias, compute_dtype=dtype, compress_statistics=False, quant_type="nf4"
            )
            # The library's packed layout for CPUs takes multiples of 32 only; SigLIP's MLP is 4304 wide.
            four.support_avx512bf16_for_cpu = False
            new = four
    return new


def _bitsandbytes() -> ModuleType:
    # It warns in every layer of every call that LLM.int8 computes in fp16, which it always does.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        import bitsandbytes
    except ImportError as error:
        raise MissingDependencyError(
            "integer weights need bitsandbytes: pip install 'openvla_ros[quantization]'"
        ) from error
    library: ModuleType = bitsandbytes
    return library
