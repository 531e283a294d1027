"""Stages: fixed work on fixed tensors, replayed on a CUDA device as one captured graph.

A stage takes no arguments and returns nothing: it reads and writes tensors that its owner allocated. On a
CUDA device the work runs once or twice to warm up, is captured, and is then replayed with a single launch;
on a CPU the function is simply called. The owner fills the inputs, runs the stage, and
reads the outputs. Method: CUDA graphs, as in PyTorch's ``torch.cuda.graph``.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import partial
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

Work = Callable[[], None]
_LOG = logging.getLogger(__name__)

# The first run compiles kernels and allocates workspaces; the second checks that nothing else is allocated.
WARM_UPS = 2
# Each prompt length needs its own stages. The most recent lengths are cached; the first action with any
# other length has to capture again.
KEPT = 8

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Stages(Protocol):
    """Makes stages for one device."""

    @property
    def state(self) -> str:
        """How the stages run: one word, plus a reason if something could not be captured."""
        ...

    @property
    def fixed(self) -> bool:
        """Whether capturing is expensive, so that one fixed-shape stage is reused."""
        ...

    def prepare(self, work: Work) -> Work:
        """Return a function equivalent to ``work``, captured where possible."""
        ...

    def beside(self, first: Callable[[], Tensor], second: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        """Return both results; the two may run in parallel."""
        ...

    def read(self, result: Tensor) -> Tensor:
        """Return ``result`` on the CPU, synchronising with the device once."""
        ...


class EagerStages:
    """Stages that are simply called, on any device."""

    state = "eager"
    fixed = False

    def prepare(self, work: Work) -> Work:
        """Return ``work`` itself."""
        return work

    def beside(self, first: Callable[[], Tensor], second: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        """Return both results, computed one after the other."""
        return first(), second()

    def read(self, result: Tensor) -> Tensor:
        """Return ``result`` on the CPU."""
        return result.cpu()


class CapturedStages:
    """Stages on one CUDA device, recorded as graphs that share their memory.

    All of them run on the caller's stream, one after the other. If one cannot be captured, that is logged
    and reported in ``state``, and the stage runs eagerly.
    """

    fixed = True

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._recording: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._beside: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()
        self._read_to: dict[tuple[torch.Size, torch.dtype], Tensor] = {}
        self._problem: str | None = None

    @property
    def state(self) -> str:
        """How the stages run: ``captured``, or why some of them are not."""
        return "captured" if self._problem is None else f"eager: {self._problem}"

    def prepare(self, work: Work) -> Work:
        """Warm ``work`` up and capture it; the contents of its tensors are overwritten."""
        before = torch.cuda.current_stream(self._device)
        self._recording.wait_stream(before)
        with torch.cuda.stream(self._recording):
            for _ in range(WARM_UPS):
                work()
        torch.cuda.synchronize(self._device)
        graph = torch.cuda.CUDAGraph()
        try:
            # This only restricts calls from this thread: others may keep using the device.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._recording, capture_error_mode="thread_local"
            ):
                work()
        except RuntimeError as error:
            self._problem = str(error).strip().splitlines()[0]
            _LOG.warning("cannot capture a stage, running it eagerly: %s", error)
            torch.cuda.set_stream(before)  # a failed capture does not switch back by itself
            torch.cuda.synchronize(self._device)
            return partial(self._run, work)
        return graph.replay

    def _run(self, work: Work) -> None:
        """Run what is not captured on this device: Triton launches on the current one, not the tensors'."""
        with torch.cuda.device(self._device):
            work()

    def beside(self, first: Callable[[], Tensor], second: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        """Return both results; ``second`` runs on a separate stream, in parallel to ``first``."""
        here = torch.cuda.current_stream(self._device)
        self._beside.wait_stream(here)
        with torch.cuda.stream(self._beside):
            other = second()
        one = first()
        here.wait_stream(self._beside)
        return one, other

    def read(self, result: Tensor) -> Tensor:
        """Return ``result`` on the CPU, through pinned memory."""
        key = result.shape, result.dtype
        if key not in self._read_to:
            self._read_to[key] = torch.empty_like(result, device="cpu", pin_memory=True)
        host = self._read_to[key]
        host.copy_(result, non_blocking=True)
        torch.cuda.current_stream(self._device).synchronize()
        return host.clone()


def stages_for(device: torch.device) -> Stages:
    """Return captured stages on a CUDA device and eager ones elsewhere."""
    return CapturedStages(device) if device.type == "cuda" else EagerStages()


class Recent(Generic[K, V]):
    """A cache of the most recently used keys; older ones are dropped."""

    def __init__(self, make: Callable[[K], V], kept: int = KEPT) -> None:
        self._make = make
        self._kept = kept
        self._values: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: K) -> bool:
        return key in self._values

    def keep(self, count: int) -> None:
        """Keep at least ``count`` values from now on."""
        self._kept = max(self._kept, count)

    def __getitem__(self, key: K) -> V:
        """Return the value of ``key``, creating it if it is not cached."""
        if key not in self._values:
            while len(self._values) >= self._kept:
                self._values.popitem(last=False)
            self._values[key] = self._make(key)
        self._values.move_to_end(key)
        return self._values[key]
