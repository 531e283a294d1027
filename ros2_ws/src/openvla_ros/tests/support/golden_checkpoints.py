"""The golden numbers of the original implementation, and small checkpoints made from them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from support.shared_data import DATA, SHARED

from openvla_ros.model.checkpoints.safetensors import load_model, skeleton
from openvla_ros.model.network.config_file import read_config
from openvla_ros.model.network.openvla import OpenVLA
from openvla_ros.model.network.tokenizer import PromptTokenizer

COMMITTED = DATA / "openvla_reference"
ALL = SHARED / "data" / "openvla_reference"
# The whole set where it is beside the checkout, otherwise the part that travels with it.
REFERENCE = ALL if ALL.is_dir() else COMMITTED
RANK = 4  # of the adapters below
SETS = [
    folder for folder in (REFERENCE, REFERENCE / "v01") if (folder / "checkpoint" / "config.json").is_file()
]


@dataclass(frozen=True)
class Case:
    folder: Path
    index: int
    image: str
    instruction: str
    prompt: str
    unnorm_key: str
    center_crop: bool

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint"

    @property
    def style(self) -> str:
        return "vicuna_v01" if self.prompt == "v01" else "openvla"

    def numbers(self) -> dict[str, Any]:
        with np.load(self.folder / f"case_{self.index:02d}.npz") as file:
            return dict(file)

    def embeddings(self, model: OpenVLA) -> torch.Tensor:
        numbers = self.numbers()
        token_ids = PromptTokenizer.from_folder(self.checkpoint).encode_prompt(str(numbers["prompt"]))
        pixels = torch.from_numpy(numbers["pixel_values"])[None]
        with torch.inference_mode():
            return model.embed(pixels, torch.tensor([token_ids]))


def cases() -> list[Case]:
    found = []
    for folder in SETS:
        listed = json.loads((folder / "cases.json").read_text())
        found += [
            Case(folder, i, **c) for i, c in enumerate(listed) if (folder / f"case_{i:02d}.npz").is_file()
        ]
    return found


def case_id(case: Case) -> str:
    return f"{case.folder.name}-{case.index:02d}"


@cache
def model_of(folder: Path, dtype: torch.dtype = torch.float32) -> OpenVLA:
    return load_model(folder / "checkpoint", dtype=dtype, progress=False)


def write_adapter(path, folder, modules, seed=0, **config):
    """Write an adapter of peft's format on ``modules``, with random factors."""
    weights = skeleton(read_config(folder / "checkpoint")).state_dict()
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for module in modules:
        out, *inside = weights[f"{module}.weight"].shape
        ones = [1] * (len(inside) - 1)
        key = f"base_model.model.{module}.lora_"
        tensors[f"{key}A.weight"] = torch.randn((RANK, *inside), generator=generator) * 0.05
        tensors[f"{key}B.weight"] = torch.randn((out, RANK, *ones), generator=generator) * 0.05
    path.mkdir()
    save_file(tensors, path / "adapter_model.safetensors")
    values = {"peft_type": "LORA", "r": RANK, "lora_alpha": 8, "bias": "none", "fan_in_fan_out": False}
    values |= {"target_modules": list(modules), "modules_to_save": None, "use_dora": False, **config}
    (path / "adapter_config.json").write_text(json.dumps(values))
    return path
