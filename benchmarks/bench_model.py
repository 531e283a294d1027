"""Seconds per action of the decoders, beside a plain transformers generate loop over the same weights.

A model of about 155 million parameters with random weights, on all cores. All loops run in this process,
one after the other on each picture, so that whatever else the machine does falls on all of them alike.
What the fast decoder saves are passes that wait for memory: on a single core, where computing the prompt
takes longest, it gains less (--threads 1).
The fast decoder's time depends on how many guesses are right: it is shown for a guess that is right,
one with 1 and with 2 wrong places, and one that is wrong everywhere.

    python benchmarks/bench_model.py [--quick] [--threads N]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from openvla_ros.model.config_file import parse_config
from openvla_ros.model.decoding import decode_greedily
from openvla_ros.model.drafting import DraftingDecoder
from openvla_ros.model.openvla import OpenVLA

COUNT = 7
TEXT_TOKENS = 25
GOAL = 1.3
CONFIG = {
    "model_type": "openvla",
    "arch_specifier": "no-align+fused-gelu-mlp",
    "use_fused_vision_backbone": True,
    "image_sizes": [224, 224],
    "timm_model_ids": ["vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"],
    "timm_model_kwargs": [
        {"embed_dim": 192, "depth": 13, "num_heads": 3},
        {"embed_dim": 192, "depth": 13, "num_heads": 3},
    ],
    "text_config": {
        "model_type": "llama",
        "vocab_size": 32064,
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 13,
        "num_attention_heads": 12,
    },
}


@dataclass
class Row:
    """One loop's times."""

    name: str
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    same_tokens: int = 0


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def transformers_loop(model: OpenVLA, embeddings: torch.Tensor) -> list[int]:
    """Return the tokens of ``generate``: what a user of transformers would write."""
    ids = model.language_model.generate(
        inputs_embeds=embeddings,
        attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.long),
        max_new_tokens=COUNT,
        min_new_tokens=COUNT,
        do_sample=False,
        pad_token_id=0,
    )
    return ids[0, -COUNT:].tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer pictures")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="all cores by default")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = OpenVLA(parse_config(CONFIG, "benchmark")).eval()
    model.drop_dead_weights()
    parameters = sum(p.numel() for p in model.parameters())
    rows = {
        name: Row(name)
        for name in (
            "transformers",
            "plain",
            "fast, 0 wrong",
            "fast, 1 wrong",
            "fast, 2 wrong",
            "fast, all wrong",
        )
    }
    pictures = 3 if arguments.quick else 20
    for picture in range(-1, pictures):  # the first is the warm-up
        measure(model, rows, picture)
    report(rows, parameters, arguments.threads)


@torch.inference_mode()
def measure(model: OpenVLA, rows: dict[str, Row], picture: int) -> None:
    """Time every loop on one picture, the vision towers included."""
    generator = torch.Generator().manual_seed(picture + 1)
    pixels = torch.randn(1, 6, 224, 224, generator=generator)
    token_ids = torch.randint(3, 30000, (1, TEXT_TOKENS), generator=generator)
    reference = decode_greedily(model, model.embed(pixels, token_ids), COUNT).token_ids.tolist()
    right = torch.tensor(reference[:-1])

    def fast(wrong: tuple[int, ...]) -> Callable[[torch.Tensor], list[int]]:
        guess = right.clone()
        guess[list(wrong)] = (guess[list(wrong)] + 1000) % 32000

        def run(embeddings: torch.Tensor) -> list[int]:
            return DraftingDecoder(model).decode_embedded(embeddings, COUNT, guess).token_ids.tolist()

        return run

    loops: dict[str, Callable[[torch.Tensor], list[int]]] = {
        "transformers": lambda e: transformers_loop(model, e),
        "plain": lambda e: decode_greedily(model, e, COUNT).token_ids.tolist(),
        "fast, 0 wrong": fast(()),
        "fast, 1 wrong": fast((3,)),
        "fast, 2 wrong": fast((1, 4)),
        "fast, all wrong": fast((0, 1, 2, 3, 4, 5)),
    }
    for name, loop in loops.items():
        wall, cpu = time.perf_counter(), time.process_time()
        tokens = loop(model.embed(pixels, token_ids))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        if picture >= 0:
            rows[name].wall_s.append(wall)
            rows[name].cpu_s.append(cpu)
            rows[name].same_tokens += tokens == reference


def report(rows: dict[str, Row], parameters: int, threads: int) -> None:
    """Print the table and the JSON line."""
    peer = rows["transformers"]
    print(f"{parameters / 1e6:.0f} M parameters, float32, {threads} threads, {len(peer.wall_s)} pictures")
    print(f"{'':18}{'s / action':>11}{'CPU s':>9}{'x faster (CPU s)':>18}{'same tokens':>13}")
    result = {}
    for row in rows.values():
        ratio = median(peer.cpu_s) / median(row.cpu_s)
        agreement = row.same_tokens / len(row.wall_s)
        print(
            f"{row.name:18}{median(row.wall_s):11.3f}{median(row.cpu_s):9.3f}{ratio:18.2f}{agreement:13.0%}"
        )
        result[row.name] = {
            "seconds": median(row.wall_s), "cpu_seconds": median(row.cpu_s),
            "ratio": ratio, "agreement": agreement,
        }  # fmt: skip
    best = result["fast, 0 wrong"]["ratio"]
    print(f"goal: {GOAL} x with the same tokens; a right guess gives {best:.2f} x")
    print(json.dumps({"benchmark": "model", "parameters": parameters, "goal": GOAL, "rows": result}))


if __name__ == "__main__":
    main()
