"""Writes ONNX graphs node by node, and their weights into files that several graphs share.

Opset 17 is the oldest with LayerNormalization: ONNX Runtime reads it since 1.12, TensorRT since 8.6. Nothing
is traced, so no branch and no shape of an example input can be baked in. Knows nothing of OpenVLA.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper, save

OPSET, IR_VERSION = 17, 8
PRODUCER = "openvla_ros"
_INLINE = 1024  # bytes; smaller tensors stay in the graph's own file
_ALIGNMENT = 4096  # bytes, so that runtimes can map the weights
_TYPES = {
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.int64): TensorProto.INT64,
    np.dtype(np.uint8): TensorProto.UINT8,
}

Shape = Sequence[int | str]


class WeightFile:
    """A file of tensors, each written once however many graphs use it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stored: dict[str, TensorProto] = {}
        self._file: IO[bytes] = path.open("wb")

    def close(self) -> None:
        """Finish the file."""
        self._file.close()

    def __enter__(self) -> WeightFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def store(self, name: str, values: NDArray[Any]) -> TensorProto:
        """Return the initializer ``name`` with ``values``, which are written unless they already are."""
        if name not in self._stored:
            self._stored[name] = self._written(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return self._stored[name]

    def store_tensor(self, tensor: TensorProto) -> TensorProto:
        """Return ``tensor``, its data moved into the file; one of the same name must be the same."""
        if tensor.name not in self._stored:
            self._stored[tensor.name] = self._written(tensor)
        return self._stored[tensor.name]

    def _written(self, tensor: TensorProto) -> TensorProto:
        if len(tensor.raw_data) < _INLINE:
            return tensor
        self._file.write(b"\0" * (-self._file.tell() % _ALIGNMENT))
        place = {"location": self.path.name, "offset": self._file.tell(), "length": len(tensor.raw_data)}
        self._file.write(tensor.raw_data)
        outside = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        outside.data_location = TensorProto.EXTERNAL
        for key, value in place.items():
            outside.external_data.add(key=key, value=str(value))
        return outside


class GraphWriter:
    """One graph under construction. Methods that add something return the name of its value."""

    def __init__(self, name: str, weights: WeightFile) -> None:
        self.name = name
        self._weights = weights
        self._nodes: list[NodeProto] = []
        self._initializers: dict[str, TensorProto] = {}
        self._inputs: list[ValueInfoProto] = []
        self._outputs: list[ValueInfoProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def input(self, name: str, shape: Shape, dtype: type[np.generic] = np.float32) -> str:
        """Add an input; a text in ``shape`` names a dimension that may vary."""
        self._inputs.append(helper.make_tensor_value_info(name, _TYPES[np.dtype(dtype)], shape))
        return name

    def output(self, value: str, name: str, shape: Shape, dtype: type[np.generic] = np.float32) -> None:
        """Make ``value`` the output ``name``."""
        self._nodes.append(helper.make_node("Identity", [value], [name], name=name))
        self._outputs.append(helper.make_tensor_value_info(name, _TYPES[np.dtype(dtype)], shape))

    def weight(self, name: str, values: NDArray[Any]) -> str:
        """Add a tensor of the shared file."""
        self._initializers[name] = self._weights.store(name, values)
        return name

    def constant(self, values: ArrayLike, dtype: type[np.generic] = np.int64) -> str:
        """Add a small constant, int64 unless ``dtype`` says otherwise."""
        array = np.asarray(values, dtype=dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        name = self._constants.setdefault(key, f"{self.name}.constant_{len(self._constants)}")
        self._initializers[name] = numpy_helper.from_array(array, name)
        return name

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output."""
        return self.split_op(kind, 1, *inputs, **attributes)[0]

    def split_op(self, kind: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        """Add a node with ``count`` outputs."""
        name = f"{kind}_{len(self._nodes)}"
        outputs = [name] if count == 1 else [f"{name}_{index}" for index in range(count)]
        self._nodes.append(helper.make_node(kind, list(inputs), outputs, name=name, **attributes))
        return outputs

    def reshape(self, value: str, *shape: int) -> str:
        """Return ``value`` reshaped; 0 keeps a dimension, -1 is computed."""
        return self.op("Reshape", value, self.constant(shape))

    def slice(self, value: str, start: int | str, end: int | str, axis: int) -> str:
        """Return ``value`` from ``start`` to ``end`` of ``axis``; a text is the name of a value (1,)."""
        bounds = (bound if isinstance(bound, str) else self.constant([bound]) for bound in (start, end))
        return self.op("Slice", value, *bounds, self.constant([axis]))

    def scale(self, value: str, factor: float) -> str:
        """Return ``value`` times a constant."""
        return self.op("Mul", value, self.constant(factor, np.float32))

    def gelu(self, value: str) -> str:
        """Return the exact (error function) GELU, which has an operator of its own from opset 20 on."""
        inner = self.op("Erf", self.scale(value, 0.5**0.5))
        return self.op("Mul", self.scale(value, 0.5), self.op("Add", inner, self.constant(1.0, np.float32)))

    def silu(self, value: str) -> str:
        """Return ``value`` times its sigmoid."""
        return self.op("Mul", value, self.op("Sigmoid", value))

    def save(self, folder: Path, metadata: Mapping[str, str]) -> Path:
        """Write the graph to ``folder`` with ``metadata`` in its metadata_props; return the file."""
        graph = GraphProto(name=self.name)
        graph.node.extend(self._nodes)
        graph.input.extend(self._inputs)
        graph.output.extend(self._outputs)
        graph.initializer.extend(self._initializers.values())
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name=PRODUCER)
        return save_model(model, folder / f"{self.name}.onnx", metadata)


def save_model(model: ModelProto, path: Path, metadata: Mapping[str, str]) -> Path:
    """Write ``model`` with ``metadata`` in place of its metadata_props; return ``path``."""
    del model.metadata_props[:]
    helper.set_model_props(model, dict(metadata))
    save(model, str(path))
    return path
