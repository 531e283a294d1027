"""Peak memory and time to load a checkpoint, compared with the size of its weights.

Writes a random checkpoint in the published layout, then loads it in a fresh process for each type: once
with this package, once as most code does it (read all shards into a dictionary, convert, copy into an
initialised network). The cost of imports is subtracted.

    python benchmarks/bench_load.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

LIMIT = 1.15  # times the weights

CONFIG = {
    "model_type": "openvla",
    "arch_specifier": "no-align+fused-gelu-mlp",
    "use_fused_vision_backbone": True,
    "image_sizes": [224, 224],
    "timm_model_ids": ["vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"],
}

CHILD = """
import json, resource, sys, time
import torch
from pathlib import Path
from safetensors.torch import load_file
from openvla_ros.model.checkpoints import safetensors as checkpoint
from openvla_ros.model.network.config_file import read_config
from openvla_ros.model.network.openvla import OpenVLA

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def plain(folder, dtype):
    model = OpenVLA(read_config(folder))
    weights = {}
    for shard in sorted(folder.glob("*.safetensors")):
        weights.update(load_file(shard))
    model.load_state_dict(weights)
    return model.to(dtype)

how, folder, dtype = sys.argv[1], Path(sys.argv[2]), checkpoint.DTYPES[sys.argv[3]]
before, began = peak(), time.perf_counter()
model = checkpoint.load_model(folder, dtype=dtype) if how == "ours" else plain(folder, dtype)
seconds = time.perf_counter() - began
used = peak() - before
weights = sum(p.numel() * p.element_size() for p in model.parameters())
print(json.dumps({"used": used, "weights": weights, "seconds": seconds}))
"""

WRITER = """
import json, sys
import torch
from pathlib import Path
from safetensors.torch import save_file
from openvla_ros.model.network.config_file import parse_config
from openvla_ros.model.checkpoints.safetensors import skeleton

folder, config = Path(sys.argv[1]), json.loads(sys.argv[2])
(folder / "config.json").write_text(json.dumps(config))
tensors = skeleton(parse_config(config, "benchmark")).state_dict()
keys = list(tensors)
half = len(keys) // 2
weight_map = {}
for number, part in enumerate((keys[:half], keys[half:])):
    name = f"model-{number + 1:05d}-of-00002.safetensors"
    made = {key: torch.full(tensors[key].shape, 0.5, dtype=torch.bfloat16) for key in part}
    save_file(made, folder / name)
    weight_map |= dict.fromkeys(part, name)
(folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
"""


def sizes(quick: bool) -> dict[str, object]:
    width, depth = (512, 4) if quick else (2048, 8)
    text = {"vocab_size": 32064, "hidden_size": width, "intermediate_size": 11 * width // 4}
    text |= {"num_hidden_layers": depth, "num_attention_heads": 16}
    towers = [{"depth": 4}, {"depth": 4}]
    return CONFIG | {"text_config": text, "timm_model_kwargs": towers}


def child(program: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True, timeout=900
    )
    return done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smaller checkpoint")
    quick = parser.parse_args().quick
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        child(WRITER, folder, json.dumps(sizes(quick)))
        size = sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
        print(f"checkpoint: {size / 1e6:.0f} MB of bf16 safetensors; limit {LIMIT} x the weights in memory")
        print(f"{'':8}{'dtype':8}{'weights MB':>12}{'peak MB':>12}{'peak/weights':>14}{'seconds':>10}")
        for dtype in ("bf16", "fp32"):
            for how in ("ours", "plain"):
                out = json.loads(child(CHILD, how, folder, dtype))
                ratio = out["used"] / out["weights"]
                results[f"{how}_{dtype}"] = {"peak_over_weights": round(ratio, 3), "seconds": out["seconds"]}
                print(
                    f"{how:8}{dtype:8}{out['weights'] / 1e6:12.0f}{out['used'] / 1e6:12.0f}"
                    f"{ratio:14.3f}{out['seconds']:10.2f}"
                )
    worst = max(results[f"ours_{dtype}"]["peak_over_weights"] for dtype in ("bf16", "fp32"))
    print(
        json.dumps({"benchmark": "load", "limit": LIMIT, "worst": worst, "pass": worst <= LIMIT, **results})
    )


if __name__ == "__main__":
    main()
