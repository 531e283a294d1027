"""The cost of computing the probability and entropy of every action token, as a share of one action.

A random network of about 155 million parameters decodes seven tokens. Then the probability and entropy of
the same seven rows of logits are computed alone.

    python benchmarks/bench_confidence.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import torch
from random_model import random_network

from openvla_ros.model.decoding.greedy import certainty, decode_greedily

LIMIT = 0.01  # of the call
STEPS = 7


def median_cpu_seconds(call: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    return float(np.median(times))


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    repeats = 2 if parser.parse_args().quick else 8
    torch.manual_seed(0)
    network = random_network("small")
    pixels, ids = torch.randn(1, 6, 224, 224), torch.randint(3, 31000, (1, 25))
    chosen = torch.tensor([31744 + step for step in range(STEPS)])
    logits = torch.randn(STEPS, 32064)
    action = median_cpu_seconds(
        lambda: decode_greedily(network, network.embed(pixels, ids), STEPS, only_action_tokens=True), repeats
    )
    extra = (
        median_cpu_seconds(lambda: [certainty(network, logits, chosen) for _ in range(100)], repeats) / 100
    )
    share = extra / action
    size = sum(parameter.numel() for parameter in network.parameters())
    print(f"{size / 1e6:.0f} M parameters; CPU seconds, median of {repeats}; limit {LIMIT:.0%} of the action")
    print(f"{'action':>12}{'certainty':>12}{'share':>10}")
    print(f"{action:12.4f}{extra:12.6f}{share:10.4%}")
    print(json.dumps({"benchmark": "confidence", "limit": LIMIT, "share": share, "pass": share <= LIMIT}))


if __name__ == "__main__":
    main()
