"""Out of memory in training: suggests settings that were tried and fit."""

from __future__ import annotations

from collections.abc import Callable

from openvla_ros.model.inference.out_of_memory import is_out_of_memory


def largest_that_fits(attempt: Callable[[int], None], size: int) -> int | None:
    """Return the largest of size/2, size/4, … 1 with which ``attempt`` has enough memory, or ``None``."""
    while size > 1:
        size //= 2
        try:
            attempt(size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            continue
        return size
    return None


def advice(method: str, micro_batch: int, fits: int | None, rank: int) -> str:
    """Return what to change after a step with ``micro_batch`` examples at once ran out of memory."""
    if fits is not None:
        return (
            f"out of memory with {micro_batch} examples at once, but {fits} fit: add --micro-batch {fits}, "
            "which gives the same result in more passes"
        )
    fewer = f", or --rank {max(1, rank // 4)}" if method in ("lora", "qlora") else ""
    smaller = "--method qlora" if method == "lora" else "--method lora"
    instead = f"{smaller}{fewer}" if method != "qlora" else f"a smaller base{fewer}"
    return f"out of memory with a single example ({method}): use {instead}, or more processes (torchrun)"
