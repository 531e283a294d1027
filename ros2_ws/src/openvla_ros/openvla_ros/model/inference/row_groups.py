"""Divides a batch among a processor's cores: each core takes some rows through the whole network.

For a small network this takes less than all cores on each operation of the whole batch: an operation is too
short to be divided, the cores would mostly wait for each other. A large one is bound by reading its weights,
which every core would read again; and a GPU is one device. There the batch stays whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, TypeVar

import torch

# Weights that a core's share of the caches about holds.
SMALL_BYTES = 32 << 20
# Rows of a group, at least: fewer gain too little from each other.
LEAST_ROWS = 2

Q = TypeVar("Q")
A = TypeVar("A")


class RowGroups:
    """Workers for the groups of a batch, one for each core that torch may use."""

    def __init__(self, device: torch.device, weight_bytes: int) -> None:
        """Start no thread yet; the number of cores is torch's number of threads on this thread."""
        divided = device.type == "cpu" and weight_bytes <= SMALL_BYTES
        self.most = torch.get_num_threads() if divided else 1
        self._pool = (
            ThreadPoolExecutor(self.most, "rows", initializer=torch.set_num_threads, initargs=(1,))
            if self.most > 1
            else None
        )

    def run(self, work: Callable[[int, Sequence[Q]], Sequence[A]], rows: Sequence[Q]) -> list[A]:
        """Return ``work(group, rows of that group)`` for all ``rows``, in their order.

        Calls with different groups, which count from 0, run at the same time.
        """
        count = min(self.most, len(rows) // LEAST_ROWS)
        if self._pool is None or count < 2:
            return list(work(0, rows))
        ends = [len(rows) * group // count for group in range(count + 1)]
        futures: list[Any] = [
            self._pool.submit(work, group, rows[ends[group] : ends[group + 1]]) for group in range(count)
        ]
        wait(futures)  # all, so that an error leaves nobody at work
        return [answer for future in futures for answer in future.result()]

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()
