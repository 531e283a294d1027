"""The weights of a loaded network as numpy arrays for a graph, with the active adapter merged into them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from openvla_ros.exporting.graph_writer import GraphWriter
from openvla_ros.model.network.openvla import OpenVLA

Weights = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class NetworkWeights:
    """A float32 network's tensors by their published keys."""

    network: OpenVLA
    tensors: dict[str, Tensor]

    @classmethod
    def of(cls, network: OpenVLA) -> NetworkWeights:
        """Return the weights of ``network`` as they act with its active adapter."""
        return cls(network, network.state_dict())

    def __contains__(self, key: str) -> bool:
        return key in self.tensors

    def __getitem__(self, key: str) -> Weights:
        tensor = self.tensors[key]
        module, _, name = key.rpartition(".")
        adapter = self.network.adapter
        if adapter is not None and name == "weight" and module in adapter.updates:
            tensor = adapter.updates[module].merged(tensor)
        values: Weights = tensor.detach().float().cpu().numpy()
        return values

    def put(self, graph: GraphWriter, key: str) -> str:
        """Add the tensor ``key`` to ``graph`` as it is stored."""
        return graph.weight(key, self[key])

    def linear(self, graph: GraphWriter, module: str, x: str) -> str:
        """Add the linear layer ``module``, whose matrix is stored as (in, out): ``key.transposed``."""
        key = f"{module}.weight"
        out = graph.op("MatMul", x, graph.weight(f"{key}.transposed", self[key].T))
        bias = f"{module}.bias"
        return graph.op("Add", out, self.put(graph, bias)) if bias in self else out
