"""One training run in several processes: ranks, reductions, and parameter sharding.

Started by ``torchrun`` or Slurm, which set ``RANK``, ``WORLD_SIZE`` and ``LOCAL_RANK``. Adapters run
under DistributedDataParallel; whole models under fully sharded data parallelism (FSDP2).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from openvla_ros.errors import InvalidValueError
from openvla_ros.training.loss import LossNetwork


@dataclass(frozen=True)
class Processes:
    """The process's place among the run's processes."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """Return ``value`` summed over all processes; a new tensor without gradient."""
        total = value.detach().clone()
        if self.count > 1:
            distributed.all_reduce(total)
        return total

    def wait(self) -> None:
        """Wait until every process has reached this call."""
        if self.count > 1:
            distributed.barrier()


@contextmanager
def joined_processes(environment: Mapping[str, str] = os.environ) -> Iterator[Processes]:
    """Join the other processes of a ``torchrun``; a single process without one."""
    count = int(environment.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes()
        return
    on_cuda = torch.cuda.is_available()
    processes = Processes(int(environment["RANK"]), count, int(environment.get("LOCAL_RANK", "0")))
    if on_cuda:
        torch.cuda.set_device(processes.local_rank)
    distributed.init_process_group("nccl" if on_cuda else "gloo")
    try:
        yield processes
    finally:
        distributed.destroy_process_group()


def share(network: LossNetwork, processes: Processes, *, sharded: bool, low: torch.dtype | None) -> nn.Module:
    """Return ``network`` wrapped for all processes; unchanged for a single one.

    ``sharded`` splits parameters, gradients and optimizer state over the processes; ``low`` is the type
    that sharded parameters are gathered and multiplied in.
    """
    if processes.count == 1:
        return network
    if not sharded:
        device = next(network.parameters()).device
        return DistributedDataParallel(network, device_ids=[device.index] if device.type == "cuda" else None)
    device_type = next(network.parameters()).device.type
    mesh = init_device_mesh(device_type, (processes.count,))
    policy = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32)
    inner = network.network
    blocks = [block for tower in inner.vision_backbone.towers() for block in tower.live_blocks()]
    # The last decoder layer is computed in parts and therefore gathered with the root.
    for block in (*blocks, *inner.language_model.model.layers[:-1]):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(network, mesh=mesh, mp_policy=policy)
    return network


@contextmanager
def gradients_kept_local(module: nn.Module, local: bool) -> Iterator[None]:
    """If ``local``, defer the gradient exchange to a later part of the same batch."""
    if isinstance(module, DistributedDataParallel) and local:
        with module.no_sync():
            yield
    else:
        yield


def whole(tensor: Tensor) -> Tensor:
    """Return a copy of a tensor on the CPU, gathered from all processes if it is sharded."""
    gathered = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return gathered.detach().cpu().clone()


def place_like(value: Tensor, like: Tensor) -> Tensor:
    """Return ``value`` on the device and with the sharding of ``like``."""
    if tuple(value.shape) != tuple(like.shape):
        raise InvalidValueError(f"a tensor of shape {tuple(value.shape)} does not match {tuple(like.shape)}")
    if isinstance(like, DTensor):
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
    return value.to(like.device)
