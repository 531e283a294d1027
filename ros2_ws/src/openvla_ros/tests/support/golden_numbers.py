"""The original implementation's numbers that need no model: images, prompts, action tokens, actions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from support.shared_data import DATA, SHARED

ALL = SHARED / "data" / "openvla_reference"
# The whole set where it is beside the checkout, otherwise the part that travels with it.
ROOT = ALL if ALL.is_dir() else DATA / "openvla_reference"
SETS = [ROOT, ROOT / "v01"]
CASES = [
    (folder, index, case)
    for folder in SETS
    for index, case in enumerate(json.loads((folder / "cases.json").read_text()))
    if (folder / f"case_{index:02d}.npz").is_file() and (folder / "images" / case["image"]).is_file()
]
CASE_IDS = [f"{folder.name}-{index:02d}" for folder, index, _ in CASES]


def numbers(folder: Path, index: int) -> dict[str, Any]:
    with np.load(folder / f"case_{index:02d}.npz") as file:
        return dict(file)


def image_operations() -> dict[str, Any]:
    with np.load(ROOT / "image_ops.npz") as file:
        return dict(file)


def camera_image(index: int) -> np.ndarray:
    with Image.open(ROOT / "images" / f"{index:02d}.png") as image:
        return np.asarray(image.convert("RGB"))
