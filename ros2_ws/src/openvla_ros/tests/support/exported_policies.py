"""Bundles exported from the golden checkpoints and from made ones, and the program in them."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import save_file
from support.golden_checkpoints import REFERENCE

from openvla_ros.exporting.onnx_bundle import ExportReport, export_onnx
from openvla_ros.exporting.policy_source import ExportChoices, PolicySource, load_policy_source
from openvla_ros.model.checkpoints.safetensors import skeleton
from openvla_ros.model.network.config_file import read_config
from openvla_ros.resources import share_path

BASE = str(REFERENCE / "checkpoint")
KEY = "bridge_orig"


@cache
def runner() -> ModuleType:
    """The program that comes with every ONNX bundle."""
    path = share_path() / "servers" / "run_onnx_policy.py"
    spec = importlib.util.spec_from_file_location("run_onnx_policy", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@cache
def source_of(checkpoint: str = BASE, **choices: Any) -> PolicySource:
    return load_policy_source(ExportChoices(checkpoint, **choices))


def export(out: Path, checkpoint: str = BASE, weights: str = "fp32", **choices: Any) -> ExportReport:
    return export_onnx(source_of(checkpoint, **choices), out, weights)  # type: ignore[arg-type]


def made_checkpoint(folder: Path, **text: Any) -> Path:
    """Write a checkpoint like the golden one with random weights and other sizes of the language model."""
    shutil.copytree(BASE, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= text
    (folder / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(0)
    tied = config["text_config"].get("tie_word_embeddings", False)
    save_file(
        {
            key: torch.randn(value.shape, generator=generator) * 0.15
            for key, value in skeleton(read_config(folder)).state_dict().items()
            if not (tied and key == "language_model.lm_head.weight")
        },
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    return folder
