"""Weight-only quantisation of written graphs by ONNX Runtime's own quantizer.

The matrices become int8 or int4 with a scale for each block, in the operator MatMulNBits of ONNX Runtime;
TensorRT does not know it. Embeddings, norms and the patch convolution stay in float32. Some tokens differ
from float32's: ``bundle_check`` counts them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import onnx

from openvla_ros.exporting.graph_writer import WeightFile, save_model

Precision = Literal["fp32", "int8", "int4"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
BITS: Mapping[str, int] = {"int8": 8, "int4": 4}
BLOCK = 32  # values that share a scale
_QUANTIZER = "onnxruntime.quantization.matmul_nbits_quantizer"


def quantize(graphs: Sequence[Path], weights: Path, bits: int) -> None:
    """Replace the matrices of ``graphs``, which share the file ``weights``, by ones of ``bits`` bits."""
    root = logging.getLogger()
    handlers = list(root.handlers)
    from onnxruntime.quantization.matmul_nbits_quantizer import (
        DefaultWeightOnlyQuantConfig,
        MatMulNBitsQuantizer,
    )

    for handler in set(root.handlers) - set(handlers):  # its import configures the root logger
        root.removeHandler(handler)
    logging.getLogger(_QUANTIZER).setLevel(logging.ERROR)
    unfinished = weights.with_name(f"{weights.name}.part")
    with WeightFile(unfinished) as file:
        for path in graphs:
            model = onnx.load(str(path))
            metadata = {entry.key: entry.value for entry in model.metadata_props}
            config = DefaultWeightOnlyQuantConfig(block_size=BLOCK, is_symmetric=True, bits=bits)
            quantizer = MatMulNBitsQuantizer(model, algo_config=config)
            quantizer.process()
            small = quantizer.model.model
            tensors = [file.store_tensor(tensor) for tensor in small.graph.initializer]
            del small.graph.initializer[:]
            small.graph.initializer.extend(_relocated(tensor, weights.name) for tensor in tensors)
            save_model(small, path, metadata)
    unfinished.replace(weights)


def _relocated(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    """Return ``tensor`` with the file ``name`` as the place of its data, where it is outside the graph."""
    moved = onnx.TensorProto()
    moved.CopyFrom(tensor)
    for entry in moved.external_data:
        if entry.key == "location":
            entry.value = name
    return moved
