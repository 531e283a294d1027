"""Stages on the CPU under a captured graph's rules: rehearsed on nonsense, and the same work every time."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from openvla_ros.model.kernels.cuda_graphs import EagerStages

# What asks the device for a value, or makes a size depend on one.
WAITING = {"_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "unique", "pin_memory", "equal"}


class Recorder(TorchDispatchMode):
    """Notes every operation with the places and shapes of its tensors, and refuses those that wait."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.overloadpacket.__name__
        assert name not in WAITING, f"a stage must not wait for its device: {name}"
        out = operation(*args, **(kwargs or {}))
        tensors = [value for value in args if isinstance(value, torch.Tensor)]
        self.operations.append((name, *(tuple(value.shape) for value in tensors)))
        return out


class RehearsedStages(EagerStages):
    """Runs each stage twice before its inputs are there, and holds every later run to the same work."""

    fixed = True

    def prepare(self, work):
        rehearsals = [self._record(work) for _ in range(2)]
        assert rehearsals[0] == rehearsals[1]

        def run():
            assert self._record(work) == rehearsals[0]

        return run

    @staticmethod
    def _record(work):
        with Recorder() as recorder:
            work()
        assert recorder.operations
        return recorder.operations
