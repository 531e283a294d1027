"""Writes a policy as ONNX graphs, with everything that their user needs, and verifies the bundle.

``vision``, ``prefill`` and ``decode`` are written into a temporary folder beside the wanted one, run by ONNX
Runtime on several images and instructions, and compared with the engine. Only then the folder is renamed.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from openvla_ros.errors import ExportError, InvalidValueError
from openvla_ros.exporting.bundle_check import (
    LOGIT_TOLERANCE,
    RUNNER,
    Agreement,
    cases,
    check_bundle,
    fitting_instructions,
)
from openvla_ros.exporting.bundle_manifest import TOKENIZER, metadata, policy_facts, write_bundle_manifest
from openvla_ros.exporting.graph_writer import OPSET, GraphWriter, WeightFile
from openvla_ros.exporting.language_graphs import (
    DECODE,
    PREFILL,
    LanguageGraph,
    write_decode,
    write_prefill,
)
from openvla_ros.exporting.network_weights import NetworkWeights
from openvla_ros.exporting.policy_source import PolicySource
from openvla_ros.exporting.quantized_graphs import BITS, Precision, quantize
from openvla_ros.exporting.vision_graph import VISION, write_vision
from openvla_ros.integrity.checksums import SUMS, verify, write_sums
from openvla_ros.integrity.disk import writing
from openvla_ros.resources import share_path
from openvla_ros.values.action import ActionSpace
from openvla_ros.values.arrays import Image

PROMPT_TOKENS = {"openvla": 64, "vicuna_v01": 128}  # by prompt style: the latter's begins with 50 fixed ones
LANGUAGE_DATA = "language_model.onnx.data"  # that prefill and decode share
_STEP = 64  # the cache's capacity is a multiple of it
_SERVER = "run_onnx_policy.py"


@dataclass(frozen=True, eq=False)
class ExportReport:
    """What was written."""

    folder: Path
    files: dict[str, int]  # name → bytes
    agreement: Agreement
    weights: str = "fp32"
    space: ActionSpace | None = None
    space_origin: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "folder": str(self.folder),
            "files": self.files,
            "weights": self.weights,
            "action_space_from": self.space_origin if self.space is not None else None,
            **self.agreement.to_json(),
        }

    def lines(self) -> Iterator[str]:
        """Yield the report as text."""
        found = self.agreement
        total = sum(self.files.values()) / 1e6
        exact = "" if self.weights == "fp32" else ", not exact"
        yield f"{self.folder}: {len(self.files)} files, {total:.1f} MB, weights in {self.weights}{exact}"
        yield (
            f"compared with this package on {found.cases} images and instructions: {found.same_tokens} of "
            f"{found.tokens} tokens are the same{_logits(found)}"
        )
        names = self._dimensions()
        yield "largest difference of an action: " + ", ".join(
            f"{name} {value:.4g}{unit}"
            for (name, unit), value in zip(names, found.action_difference, strict=True)
        )
        if self.space is None:
            yield f"nothing states what the actions mean ({self.space_origin}): give --unnorm-key or --robot"
        else:
            yield f"action space: {self.space_origin}"

    def _dimensions(self) -> list[tuple[str, str]]:
        width = len(self.agreement.action_difference)
        if self.space is None or self.space.width != width:
            return [(f"[{index}]", "") for index in range(width)]
        units = ("" if unit == "1" else f" {unit}" for unit in self.space.units)
        return list(zip(self.space.names, units, strict=True))


def export_onnx(
    source: PolicySource,
    out: Path,
    weights: Precision = "fp32",
    prompt_tokens: int | None = None,
    images: Sequence[Image] = (),
) -> ExportReport:
    """Write the bundle of ``source`` to the new folder ``out``.

    Args:
        source: The policy.
        out: The folder; it is there complete and verified, or not at all.
        weights: ``fp32`` must give the engine's tokens; ``int8`` and ``int4`` are measured instead.
        prompt_tokens: The longest prompt; None: enough for an ordinary instruction in the model's prompt.
        images: What to verify with besides made images: RGB uint8 (H, W, 3).

    Raises:
        ExportError: The bundle disagrees with the engine, or the folder exists or cannot be written.
        InvalidValueError: The model has too few positions for ``prompt_tokens``.
    """
    text = prompt_tokens_of(source, prompt_tokens)
    length = capacity(source, text)
    compared = cases(images, fitting_instructions(source, text), every_pair=weights in BITS)
    with placed_when_finished(out) as folder:
        facts = policy_facts(source, text)
        paths = write_graphs(folder, source, length, facts, weights)
        if weights in BITS:
            quantize(paths[:1], folder / f"{VISION}.onnx.data", BITS[weights])
            quantize(paths[1:], folder / LANGUAGE_DATA, BITS[weights])
        add_tokenizer(folder, source)
        add_runner(folder)
        described = {path.stem: describe_graph(path) for path in paths}
        stated = {**facts, "weights": weights, "opset": OPSET, "cache_length": length, "graphs": described}
        write_bundle_manifest(folder, stated)
        write_sums(folder, [path for path in folder.iterdir() if path.is_file()])
        agreement = check_bundle(folder, source, compared)
        (folder / SUMS).unlink()
        if weights == "fp32" and not agreement.exact:
            raise ExportError(disagreement(source.name, agreement))
        write_bundle_manifest(folder, {**stated, "verified": agreement.to_json()})
        write_sums(folder, [path for path in folder.iterdir() if path.is_file()])
    files = {path.name: path.stat().st_size for path in sorted(out.iterdir())}
    return ExportReport(out, files, agreement, weights, source.space, source.space_origin)


def prompt_tokens_of(source: PolicySource, asked: int | None) -> int:
    """Return the longest prompt: what was asked for or, for None, enough for an ordinary instruction."""
    return asked or PROMPT_TOKENS[source.predictor.model.prompt_style]


def capacity(source: PolicySource, prompt_tokens: int) -> int:
    """Return the cache's length; raises ``InvalidValueError`` if the model has fewer positions."""
    config = source.files.config
    needed = config.patches + prompt_tokens + source.width
    length = -(-needed // _STEP) * _STEP
    most = config.text_config.max_position_embeddings
    if length > most:
        raise InvalidValueError(
            f"{config.patches} patches, {prompt_tokens} prompt tokens and {source.width} action tokens need "
            f"a cache of {length}; the model has {most} positions"
        )
    return length


def write_graphs(
    folder: Path, source: PolicySource, length: int, facts: dict[str, Any], weights: str
) -> list[Path]:
    """Write the three graphs and their weights; return the graphs' files."""
    network = source.predictor.model.network
    source.predictor.model.adapters.activate(source.predictor.adapter)
    tensors = NetworkWeights.of(network)
    with WeightFile(folder / f"{VISION}.onnx.data") as file:
        graph = GraphWriter(VISION, file)
        write_vision(graph, tensors)
        paths = [graph.save(folder, metadata(facts, VISION, weights))]
    with WeightFile(folder / LANGUAGE_DATA) as file:
        for name, write in ((PREFILL, write_prefill), (DECODE, write_decode)):
            graph = GraphWriter(name, file)
            write(LanguageGraph.of(graph, tensors, length))
            paths.append(graph.save(folder, metadata(facts, name, weights)))
    return paths


def describe_graph(path: Path) -> dict[str, Any]:
    """Return a graph's file, weights, inputs and outputs as JSON values."""
    model = onnx.load(str(path), load_external_data=False)
    onnx.checker.check_model(str(path))
    places = {e.value for t in model.graph.initializer for e in t.external_data if e.key == "location"}
    return {
        "file": path.name,
        "data": sorted(places),
        "inputs": [_describe_value(value) for value in model.graph.input],
        "outputs": [_describe_value(value) for value in model.graph.output],
    }


def _describe_value(value: Any) -> dict[str, Any]:
    kind = value.type.tensor_type
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)).name
    return {
        "name": value.name,
        "dtype": dtype,
        "shape": [dim.dim_param or dim.dim_value for dim in kind.shape.dim],
    }


def add_tokenizer(folder: Path, source: PolicySource) -> None:
    """Copy the tokenizer."""
    tokenizer = source.files.folder / TOKENIZER
    verify(tokenizer)
    shutil.copyfile(tokenizer, folder / TOKENIZER)


def add_runner(folder: Path) -> None:
    """Copy the program that runs the bundle."""
    shutil.copyfile(share_path() / "servers" / _SERVER, folder / RUNNER)


def disagreement(name: str, agreement: Agreement) -> str:
    """Return why a bundle is not left."""
    return (
        f"the exported graphs of {name} do not compute what the checkpoint does: "
        f"{agreement.same_tokens} of {agreement.tokens} tokens are the same{_logits(agreement)}; "
        f"the logits may differ by {LOGIT_TOLERANCE:.0e}; nothing was written"
    )


def _logits(agreement: Agreement) -> str:
    """Return how much the logits differ, if they were compared."""
    if agreement.logit_difference is None:
        return ""
    return f", a logit differs by at most {agreement.logit_difference:.1e} of the largest"


def check_new(out: Path) -> None:
    """Raise ``ExportError`` if there is something at ``out``, other than an empty folder."""
    with writing(out, ExportError):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ExportError(f"{out} already exists; choose a new folder")


@contextmanager
def placed_when_finished(out: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``out`` at the end of the block, and is removed if it fails.

    Raises ``ExportError`` if ``out`` exists or cannot be written.
    """
    check_new(out)
    with writing(out, ExportError):
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{out.name}.part-", dir=out.parent))
        try:
            yield folder
            folder.chmod(0o755)
            folder.replace(out)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
