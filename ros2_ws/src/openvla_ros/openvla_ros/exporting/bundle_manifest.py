"""``openvla_bundle.json``: everything but the weights that turns an image and words into an action.

The same facts are in the metadata_props of each graph, as JSON texts under ``openvla_ros.NAME``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openvla_ros import __version__
from openvla_ros.exporting.graph_writer import OPSET
from openvla_ros.exporting.policy_source import PolicySource
from openvla_ros.integrity.checksums import sha256
from openvla_ros.model.network.tokenizer import BOS_ID, EOS_ID
from openvla_ros.preprocessing.action_tokens import ActionCodec
from openvla_ros.preprocessing.prompt import build_prompt

BUNDLE, FORMAT, VERSION = "openvla_bundle.json", "openvla_ros onnx", 1
TOKENIZER = "tokenizer.json"
_PREFIX = "openvla_ros."
_MARK = "{instruction}"


def policy_facts(source: PolicySource, prompt_tokens: int) -> dict[str, Any]:
    """Return what whoever runs the graphs has to know, as JSON values."""
    config, predictor = source.files.config, source.predictor
    codec = ActionCodec(config.action_vocab_size, config.n_action_bins)
    ids = list(range(codec.first_id, codec.last_id + 1))
    return {
        "version": VERSION,
        "openvla_ros": __version__,
        "checkpoint": {
            "name": source.name,
            "revision": source.files.revision,
            "sha256": {path.name: sha256(path.resolve()) for path in source.weights},
        },
        "action_tokens": {
            "bins": config.n_action_bins,
            "ids": ids,
            "values": codec.decode(ids).tolist(),
            "edges": codec.edges.tolist(),
            "end_id": EOS_ID,
            "outside": "an id below or above counts as the nearest end",
        },
        "action_space": None if source.space is None else source.space.describe(),
        "action_space_from": source.space_origin,
        "unnorm_key": source.unnorm_key,
        "statistics": {key: value.to_json() for key, value in source.statistics.items()},
        "image_transform": {
            **source.files.transform.describe(),
            "center_crop": predictor.center_crop,
            "input": "uint8 RGB (H, W, 3)",
        },
        "tokenizer": {"file": TOKENIZER, "size": source.files.tokenizer.size},
        "prompt": {
            "template": build_prompt(_MARK, predictor.model.prompt_style),
            "lower_case": True,
            "first_id": BOS_ID,
            "last_id": source.files.tokenizer.space_id,
            "max_tokens": prompt_tokens,
        },
    }


def metadata(facts: Mapping[str, Any], graph: str, weights: str) -> dict[str, str]:
    """Return the metadata_props of the graph called ``graph``."""
    values = {"graph": graph, "weights": weights, "opset": OPSET, **facts}
    return {f"{_PREFIX}{name}": json.dumps(value) for name, value in values.items()}


def write_bundle_manifest(folder: Path, facts: Mapping[str, Any], kind: str = FORMAT) -> Path:
    """Write ``openvla_bundle.json`` with ``facts`` and the SHA-256 of every other file of ``folder``."""
    path = folder / BUNDLE
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file != path)
    sums = {file.relative_to(folder).as_posix(): sha256(file) for file in files}
    text = json.dumps({"format": kind, **facts, "files": sums}, indent=2)
    path.write_text(text + "\n", encoding="utf-8")
    return path
