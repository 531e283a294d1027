"""A device's measured limits, and the least time that an action can take on it.

The least time of a pass is the longer of two: its operations at the rate of a large matrix product, and its
bytes at the rate of a large copy. Apart from the attention, only the weights are counted, so real
passes take longer than these limits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch

from openvla_ros.model.network.openvla import OpenVLA


@dataclass(frozen=True)
class Work:
    """The least work of a pass."""

    operations: float
    bytes: float

    def __add__(self, other: Work) -> Work:
        return Work(self.operations + other.operations, self.bytes + other.bytes)


@dataclass(frozen=True)
class Ceilings:
    """The measured limits of the device."""

    bytes_per_s: float  # read and written
    operations_per_s: float  # in the network's own type
    float8_per_s: float | None  # None: it has no 8-bit floats

    def milliseconds(self, *passes: Work, float8: bool = False) -> float:
        """Return the least time of consecutive passes."""
        rate = self.float8_per_s if float8 and self.float8_per_s else self.operations_per_s
        return 1e3 * sum(max(each.operations / rate, each.bytes / self.bytes_per_s) for each in passes)


def wait(device: torch.device) -> None:
    """Wait until the device has finished its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(
    work: Callable[[], object],
    device: torch.device,
    repeats: int = 20,
    which: Callable[[list[float]], float] = median,
) -> float:
    """Return the median (or ``which``) seconds of ``work`` on ``device``, after three warm-ups."""
    for _ in range(3):
        work()
    times = []
    for _ in range(repeats):
        wait(device)
        began = time.perf_counter()
        work()
        wait(device)
        times.append(time.perf_counter() - began)
    return which(times)


def measure_ceilings(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """Time a copy and matrix products of random numbers, large enough to saturate the device.

    The shortest time counts: the limit is what the device can do when it is otherwise idle.
    """
    count, side = (2**28, 8192) if device.type == "cuda" else (2**22, 512)
    source = torch.randn(count, device=device, dtype=dtype)
    copy_s = seconds_of(partial(torch.empty_like(source).copy_, source), device, which=min)
    bytes_per_s = 2 * count * dtype.itemsize / copy_s
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    operations = 2.0 * side**3
    product_s = seconds_of(partial(torch.mm, a, b), device, which=min)
    float8_s = None
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9):
        one = torch.ones((), device=device)
        left, right = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn).t()
        kind = {"out_dtype": torch.bfloat16, "use_fast_accum": True}
        float8_s = seconds_of(partial(torch._scaled_mm, left, right, one, one, **kind), device, which=min)
    return Ceilings(bytes_per_s, operations / product_s, None if float8_s is None else operations / float8_s)


def vision_work(network: OpenVLA, images: int = 1) -> Work:
    """Return the work of the towers and the projector."""
    total, size, patches = Work(0.0, 0.0), network.dtype.itemsize, network.config.patches
    for tower in network.vision_backbone.towers():
        tokens = patches + tower.prefix_tokens
        weights = sum(parameter.numel() for parameter in tower.parameters())
        attention = 4.0 * tokens**2 * tower.tower.width * len(tower.live_blocks())
        total += Work(images * (2.0 * weights * tokens + attention), weights * size)
    weights = sum(parameter.numel() for parameter in network.projector.parameters())
    return total + Work(2.0 * images * weights * patches, weights * size)


def language_work(network: OpenVLA, tokens: int, rows: int, packed_bytes: int = 0) -> Work:
    """Return the work of one pass over ``tokens`` that returns ``rows`` rows of logits.

    ``packed_bytes`` is the size of the layers' weights if packed ones are read instead of the network's own.
    """
    text, model, size = network.config.text_config, network.language_model, network.dtype.itemsize
    layers = sum(parameter.numel() for parameter in model.model.layers.parameters())
    head = model.lm_head.weight.numel()
    attention = 2.0 * tokens**2 * text.hidden_size * text.num_hidden_layers
    operations = 2.0 * (layers * tokens + head * rows) + attention
    return Work(operations, (packed_bytes or layers * size) + head * size)


def action_limits(
    ceilings: Ceilings, network: OpenVLA, tokens: int, count: int, packed_bytes: int = 0, float8: bool = False
) -> dict[str, float]:
    """Return the least milliseconds of an action of ``count`` tokens after a prompt of ``tokens`` tokens.

    For each way to decode: ``plain`` and ``transformers`` with the full weights, ``steady``, and ``fast``
    with each number of extra passes. Packed weights are read in short passes; with ``float8``, in all.
    """
    vision = ceilings.milliseconds(vision_work(network))

    def prompt(more: int, rows: int) -> float:
        work = language_work(network, tokens + more, rows, packed_bytes if float8 else 0)
        return ceilings.milliseconds(work, float8=float8)

    step = ceilings.milliseconds(language_work(network, 1, 1, packed_bytes))
    short = ceilings.milliseconds(language_work(network, count - 1, count - 1, packed_bytes))
    whole = ceilings.milliseconds(language_work(network, 1, 1), language_work(network, tokens, 1))
    plain = vision + whole + (count - 2) * ceilings.milliseconds(language_work(network, 1, 1))
    limits = {"transformers": plain, "plain": plain, "steady": vision + prompt(0, 1) + (count - 1) * step}
    for passes in range(count):
        limits[f"fast, {passes} wrong"] = vision + prompt(count - 1, count) + passes * short
    return limits
