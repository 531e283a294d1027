"""Writes a policy as a LEAPP bundle, for NVIDIA Isaac ROS Deploy, and verifies it with leapp's own runner.

One node, ``policy``, whose model is the graph of ``unrolled_graph``. leapp could export what it traces, but
stores a weight once for each use of it: with seven tokens, the language model seven times. It traces the
torch program for names, types and shapes, compares its numbers with the graph's, and writes the description.

leapp bakes in what Python decides while it traces, so the bundle is run on other inputs than the traced ones.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import leapp
import numpy as np
import torch
from leapp import InferenceManager, annotate
from leapp.leapp import GraphConfigs
from leapp.utils.tensor_description import TensorSemantics
from torch import Tensor

from openvla_ros.errors import ExportError
from openvla_ros.exporting.bundle_check import Agreement, cases, fitting_instructions
from openvla_ros.exporting.bundle_manifest import (
    metadata,
    policy_facts,
    write_bundle_manifest,
)
from openvla_ros.exporting.graph_writer import OPSET, GraphWriter, WeightFile
from openvla_ros.exporting.network_weights import NetworkWeights
from openvla_ros.exporting.onnx_bundle import (
    ExportReport,
    add_tokenizer,
    capacity,
    describe_graph,
    disagreement,
    placed_when_finished,
    prompt_tokens_of,
)
from openvla_ros.exporting.policy_source import PolicySource
from openvla_ros.exporting.unrolled_graph import (
    ACTION,
    ACTION_TOKEN_IDS,
    IMAGE,
    POLICY,
    PROMPT_LENGTH,
    TOKEN_IDS,
    write_policy,
)
from openvla_ros.exporting.unrolled_policy import UnrolledPolicy
from openvla_ros.integrity.checksums import write_sums
from openvla_ros.values.arrays import Image

FORMAT = "openvla_ros leapp"
INPUTS = (IMAGE, TOKEN_IDS, PROMPT_LENGTH)
DESCRIPTION = f"{POLICY}.yaml"
_LEAPPS_LOG = "log.txt"


def export_leapp(
    source: PolicySource, out: Path, prompt_tokens: int | None = None, images: Sequence[Image] = ()
) -> ExportReport:
    """Write the bundle of ``source`` to the new folder ``out``.

    Args:
        source: The policy, for one dataset.
        out: The folder; it is there complete and verified, or not at all.
        prompt_tokens: The length that prompts are padded to; None: enough for an ordinary instruction.
        images: What to verify with besides made images: RGB uint8 (H, W, 3).

    Raises:
        ExportError: The bundle disagrees with the engine, serves several datasets, or cannot be written.
        InvalidValueError: The model cannot have such a graph.
    """
    if source.unnorm_key is None:
        raise ExportError(
            f"{source.name} has statistics of {', '.join(source.statistics)}; the graph contains those of "
            "one dataset: give --unnorm-key"
        )
    text = prompt_tokens_of(source, prompt_tokens)
    length = capacity(source, text)
    compared = cases(images, fitting_instructions(source, text))
    with placed_when_finished(out) as folder:
        facts = policy_facts(source, text)
        path = _write_graph(folder, source, text, length, facts)
        _describe_to_leapp(folder, source, path, text, compared[0])
        add_tokenizer(folder, source)
        stated = {**facts, "weights": "fp32", "opset": OPSET, "graphs": {POLICY: describe_graph(path)}}
        agreement = check_leapp(folder, source, text, compared)
        if not agreement.exact:
            raise ExportError(disagreement(source.name, agreement))
        write_bundle_manifest(folder, {**stated, "verified": agreement.to_json()}, FORMAT)
        write_sums(folder, [file for file in folder.iterdir() if file.is_file()])
    files = {file.name: file.stat().st_size for file in sorted(out.iterdir())}
    return ExportReport(out, files, agreement, "fp32", source.space, source.space_origin)


def model_inputs(
    source: PolicySource, image: Image, instruction: str, prompt_tokens: int
) -> dict[str, Tensor]:
    """Return the graph's inputs for an RGB image (H, W, 3) uint8 and an instruction."""
    levels = source.files.transform.levels(image, source.predictor.center_crop)[:1]
    ids = source.predictor.model.prompt_ids(instruction)[0].tolist()
    if len(ids) > prompt_tokens:
        raise ExportError(
            f"the prompt of {instruction!r} has {len(ids)} tokens; the graph takes {prompt_tokens}"
        )
    padded = [*ids, *[0] * (prompt_tokens - len(ids))]
    return {
        IMAGE: torch.from_numpy(np.array(levels)),
        TOKEN_IDS: torch.tensor([padded]),
        PROMPT_LENGTH: torch.tensor([len(ids)]),
    }


def check_leapp(
    folder: Path, source: PolicySource, prompt_tokens: int, compared: Sequence[tuple[Image, str]]
) -> Agreement:
    """Return how far the bundle in ``folder``, run by leapp's ``InferenceManager``, agrees with the engine.

    Every input is given on every call: leapp takes a missing one as zeros, or as the last value.
    """
    tokens, same, differences = 0, 0, []
    with quietly():
        manager = InferenceManager(str(folder / DESCRIPTION))
        for image, words in compared:
            wanted = source.predictor.predict([image], words)
            assert wanted.token_ids is not None
            given = model_inputs(source, image, words, prompt_tokens)
            got = manager.run_policy({f"{POLICY}/{name}": value for name, value in given.items()})
            found = got[f"{POLICY}/{ACTION_TOKEN_IDS}"].numpy()
            tokens += found.size
            same += int((found == wanted.token_ids[0]).sum())
            differences.append(np.abs(got[f"{POLICY}/{ACTION}"].double().numpy() - wanted.actions[0]))
    return Agreement(len(compared), tokens, same, None, np.max(differences, axis=0))


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep what leapp prints off the terminal; its warnings are in ``log.txt`` while it exports."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield


def _write_graph(
    folder: Path, source: PolicySource, prompt_tokens: int, length: int, facts: dict[str, Any]
) -> Path:
    source.predictor.model.adapters.activate(source.predictor.adapter)
    weights = NetworkWeights.of(source.predictor.model.network)
    with WeightFile(folder / f"{POLICY}.onnx.data") as file:
        graph = GraphWriter(POLICY, file)
        write_policy(graph, source, weights, prompt_tokens, length)
        return graph.save(folder, metadata(facts, POLICY, "fp32"))


def _describe_to_leapp(
    folder: Path, source: PolicySource, graph: Path, prompt_tokens: int, example: tuple[Image, str]
) -> None:
    """Let leapp trace the torch program, compare it with ``graph`` and write the description."""
    program = UnrolledPolicy(source, source.statistics[source.widest].action, prompt_tokens)
    given = model_inputs(source, *example, prompt_tokens)
    space = source.space
    try:
        with quietly(), torch.no_grad():
            leapp.start(folder.name, save_path=str(folder.parent))
            traced = annotate.input_tensors(POLICY, [_described(name, given[name]) for name in INPUTS])
            action, tokens = program(*traced)
            meaning = {} if space is None else _meaning(source)
            outputs = [
                TensorSemantics(name=ACTION, ref=action, extra=meaning or None),
                TensorSemantics(name=ACTION_TOKEN_IDS, ref=tokens),
            ]
            annotate.output_tensors(POLICY, outputs, backend_params={"model_path": str(graph)})
            leapp.stop()
            rate = None if space is None else space.rate_hz
            valid = leapp.compile_graph(visualize=False, graph_configs=GraphConfigs(frequency=rate))
    except Exception as error:  # leapp raises anything, bare Exception among it
        raise ExportError(f"leapp cannot describe {source.name}: {type(error).__name__}: {error}") from error
    if valid != {POLICY: True}:
        raise ExportError(
            f"{source.name}: leapp's own comparison of the graph with the traced program failed: {valid}"
        )
    (folder / _LEAPPS_LOG).unlink(missing_ok=True)
    (folder / f"{folder.name}.yaml").replace(folder / DESCRIPTION)


def _described(name: str, value: Tensor) -> TensorSemantics:
    said = {
        IMAGE: {"encoding": "rgb8", "from": "image_transform of openvla_bundle.json, before mean and std"},
        TOKEN_IDS: {"from": "prompt of openvla_bundle.json, then padding with 0"},
        PROMPT_LENGTH: {"from": "the number of token_ids that are the prompt"},
    }
    return TensorSemantics(name=name, ref=value, extra=said[name])


def _meaning(source: PolicySource) -> dict[str, Any]:
    assert source.space is not None
    return {
        "action_space": source.space.describe(),
        "unnorm_key": source.unnorm_key,
    }
