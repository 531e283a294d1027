"""Memory of integer weights, and their token agreement with bf16, on the reference cases.

Every step gets the tokens that bf16 chose, so one difference does not affect the rest. The reference network
is tiny and random: its agreement says nothing about a trained model, but its memory shows what each method
takes. Pass a checkpoint to measure that one.

    python benchmarks/bench_quantization.py [--quick] [--checkpoint FOLDER]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from openvla_ros.model.checkpoints.safetensors import load_model
from openvla_ros.model.decoding.greedy import decode_greedily, prefill, step
from openvla_ros.model.network.bitsandbytes_layers import INTEGERS, weight_bytes
from openvla_ros.model.network.openvla import OpenVLA
from openvla_ros.model.network.tokenizer import PromptTokenizer
from openvla_ros.preprocessing.prompt import build_prompt

DATA = Path(__file__).parents[1] / "ros2_ws/src/openvla_ros/tests/data/openvla_reference"
TASKS = ("put spoon on towel", "open the top drawer", "stack the green block", "lift the cup", "close it")
STEPS = 7


def prompts(folder: Path, channels: int, size: int, count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    tokenizer, generator = PromptTokenizer.from_folder(folder), torch.Generator().manual_seed(0)
    made = []
    for index in range(count):
        ids = tokenizer.encode_prompt(build_prompt(TASKS[index % len(TASKS)]))
        made.append((torch.randn(1, channels, size, size, generator=generator), torch.tensor([ids])))
    return made


@torch.inference_mode()
def forced(model: OpenVLA, embeddings: torch.Tensor, tokens: np.ndarray) -> list[int]:
    logits, cache = prefill(model, embeddings)
    chosen = [int(logits.argmax())]
    for token in tokens[:-1]:
        logits = step(model, torch.tensor([[int(token)]], device=logits.device), cache)
        chosen.append(int(logits.argmax()))
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer prompts")
    parser.add_argument("--checkpoint", type=Path, default=DATA / "checkpoint")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    plain = load_model(arguments.checkpoint, device=device)
    inputs = prompts(
        arguments.checkpoint, plain.config.channels, plain.config.image_sizes[0], 4 if arguments.quick else 16
    )
    with torch.inference_mode():
        truth = [decode_greedily(plain, plain.embed(*pair), STEPS).token_ids for pair in inputs]
    print(f"{'weights':10}{'MB':>10}{'of bf16':>10}{'tokens as bf16':>16}{'seconds a call':>16}")
    results = {}
    for how in (None, *INTEGERS):
        model = plain if how is None else load_model(arguments.checkpoint, device=device, quantization=how)
        began, same = time.perf_counter(), 0
        for pair, tokens in zip(inputs, truth, strict=True):
            with torch.inference_mode():
                same += int(np.sum(np.array(forced(model, model.embed(*pair), tokens)) == tokens))
        seconds = (time.perf_counter() - began) / len(inputs)
        size, share = weight_bytes(model), weight_bytes(model) / weight_bytes(plain)
        agreement = same / (STEPS * len(inputs))
        name = how or "bf16"
        print(f"{name:10}{size / 1e6:10.2f}{share:10.3f}{agreement:16.3f}{seconds:16.3f}")
        results[name] = {"weight_bytes": size, "token_agreement": round(agreement, 4), "seconds": seconds}
    print(json.dumps({"benchmark": "quantization", "device": device, **results}))


if __name__ == "__main__":
    main()
