"""What the probability and the entropy of every action token cost, as a share of one action.

A random network of about 155 million parameters decodes seven tokens; then the certainty of the same
seven rows of logits is computed by itself.

    python benchmarks/bench_confidence.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import torch

from openvla_ros.model.checkpoint import skeleton
from openvla_ros.model.config_file import parse_config
from openvla_ros.model.decoding import certainty, decode_greedily
from openvla_ros.model.openvla import OpenVLA

LIMIT = 0.01  # of the call
STEPS = 7
CONFIG = {
    "model_type": "openvla",
    "arch_specifier": "no-align+fused-gelu-mlp",
    "use_fused_vision_backbone": True,
    "image_sizes": [224, 224],
    "timm_model_ids": ["vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"],
    "timm_model_kwargs": [
        {"embed_dim": 384, "depth": 12, "num_heads": 6},
        {"embed_dim": 432, "depth": 12, "num_heads": 6},
    ],
    "text_config": {
        "vocab_size": 32064,
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 8,
        "num_attention_heads": 12,
    },
}


def random_network() -> OpenVLA:
    torch.manual_seed(0)
    network = skeleton(parse_config(CONFIG, "benchmark")).to_empty(device="cpu")
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    network.drop_dead_weights()
    network.restore_buffers(torch.device("cpu"))
    return network.eval()


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
    network = random_network()
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
