"""Fine-tuning: samples per second and peak memory, beside a plain transformers + peft loop in the same run.

The peer is the loop that most people write: the network with peft's LoRA on all linear layers, every vision
block computed, logits at every position, transformers' own loss, an unfused AdamW. Both take the same
batches from memory, in turn step by step, timed by the process's CPU time on a CPU and by synchronised wall
time on CUDA. The losses of the first step are printed and must agree. Peak memory is measured in a separate
process for each.

    python benchmarks/bench_train.py [--quick] [--method lora] [--batch-size 16] [--device cpu]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import peft
import torch
from torch import Tensor, nn

from openvla_ros.model.network.config import OpenVLAConfig
from openvla_ros.model.network.config_file import parse_config
from openvla_ros.model.network.openvla import OpenVLA
from openvla_ros.preprocessing.action_tokens import IGNORED
from openvla_ros.pretraining.small_model import SmallSize, make_small_model, small_config
from openvla_ros.training.data.batch import Batch
from openvla_ros.training.lora_layers import LowRankOptions, select_targets
from openvla_ros.training.recipe import Recipe
from openvla_ros.training.trainable import make_trainable
from openvla_ros.training.trainer import Trainer

GOAL = 1.5  # times the peer's samples a second, on a CPU
RANK, WIDTH, PROMPT = 32, 7, 24
SEED = 0
SIZES = {
    "small": small_config(SmallSize()),
    # The published architecture at a quarter of its width and a sixth of its depth.
    "medium": {
        **small_config(SmallSize(image_size=224)),
        "timm_model_kwargs": [{"embed_dim": 256, "depth": 5, "num_heads": 4}] * 2,
        "text_config": {
            "model_type": "llama", "vocab_size": 32064, "hidden_size": 512, "intermediate_size": 1376,
            "num_hidden_layers": 5, "num_attention_heads": 8, "pad_token_id": 32000,
        },
    },
}  # fmt: skip


def make_network(size: str) -> OpenVLA:
    if size == "small":
        return make_small_model(SmallSize(), SEED)
    torch.manual_seed(SEED)
    return OpenVLA(parse_config(SIZES[size], size))


def make_batch(config: OpenVLAConfig, count: int, device: torch.device) -> Batch:
    generator = torch.Generator().manual_seed(SEED)
    side = config.image_sizes[0]
    pixels = torch.randn((count, config.channels, side, side), generator=generator)
    prompt = torch.randint(3, 200, (count, PROMPT), generator=generator)
    ids = config.action_ids
    actions = torch.randint(ids.start, ids.stop, (count, WIDTH), generator=generator)
    token_ids = torch.cat(
        [torch.ones(count, 1, dtype=torch.long), prompt, actions, torch.full((count, 1), 2)], 1
    )
    labels = token_ids.clone()
    labels[:, : PROMPT + 1] = IGNORED
    return Batch(pixels, token_ids, labels, torch.ones(count, dtype=torch.bool)).to(device)


class PlainLoop:
    """The loop that transformers and peft give without tuning."""

    def __init__(self, network: OpenVLA, method: str) -> None:
        self.network: nn.Module = network
        self.config = network.config
        if method == "lora":
            targets = select_targets(network, None)
            options = LowRankOptions(RANK)
            config = peft.LoraConfig(
                r=RANK, lora_alpha=options.alpha, lora_dropout=0.0, target_modules=targets,
                init_lora_weights="gaussian",
            )  # fmt: skip
            self.network = peft.inject_adapter_in_model(config, network)
        self.network.train()
        trained = [value for value in self.network.parameters() if value.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=5e-4)

    def step(self, batch: Batch) -> float:
        """Take one optimizer step; return the loss before it."""
        loss, logits = self._forward(batch)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self._scores(batch, logits)
        return float(loss.detach())

    def _forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        network = self.network
        patches = network.projector(self._vision(batch.pixels))
        text = network.language_model.model.embed_tokens(batch.token_ids)
        embeddings = torch.cat([text[:, :1], patches, text[:, 1:]], dim=1)
        silent = torch.full((len(batch), patches.shape[1]), IGNORED, device=batch.labels.device)
        labels = torch.cat([batch.labels[:, :1], silent, batch.labels[:, 1:]], dim=1)
        mask = torch.ones_like(labels)
        output = network.language_model(inputs_embeds=embeddings, attention_mask=mask, labels=labels)
        return output.loss, output.logits

    def _vision(self, pixels: Tensor) -> Tensor:
        features = []
        towers = self.network.vision_backbone.towers()
        for tower, part in zip(towers, torch.chunk(pixels, len(towers), dim=1), strict=True):
            x, states = tower.embed(part), []
            for block in tower.blocks:
                x = block(x)
                states.append(x)
            features.append(states[-2][:, tower.prefix_tokens :])
        return torch.cat(features, dim=2)

    def _scores(self, batch: Batch, logits: Tensor) -> None:
        """Compute the accuracy, as the original's loop does at every step."""
        predicted = logits[:, self.config.patches : -1].argmax(dim=2)
        wanted = batch.labels[:, 1:] >= self.config.action_ids.start
        float(((predicted == batch.labels[:, 1:]) & wanted).sum() / wanted.sum())


class OurLoop:
    """The package's trainer."""

    def __init__(self, network: OpenVLA, method: str) -> None:
        network.drop_dead_weights()
        recipe = Recipe(method=method, rank=RANK, learning_rate=5e-4)
        make_trainable(network, recipe)
        self.trainer = Trainer(network, recipe, WIDTH)
        self.count = 0

    def step(self, batch: Batch) -> float:
        """Take one optimizer step; return the loss before it."""
        self.count += 1
        return self.trainer.step(batch, self.count - 1).scores.loss


def make_loop(which: str, arguments: argparse.Namespace) -> tuple[PlainLoop | OurLoop, Batch]:
    network = make_network(arguments.size).to(arguments.device)
    batch = make_batch(network.config, arguments.batch_size, torch.device(arguments.device))
    loop = OurLoop if which == "ours" else PlainLoop
    return loop(network, arguments.method), batch


def clock(device: str) -> Callable[[], float]:
    if device == "cpu":
        return time.process_time

    def synchronised() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return synchronised


def peak_bytes(device: str) -> int:
    if device == "cpu":
        # Not ru_maxrss: a child inherits its parent's.
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return torch.cuda.max_memory_allocated()


def measure_memory(which: str, arguments: argparse.Namespace) -> None:
    before = peak_bytes(arguments.device) if arguments.device == "cpu" else 0
    loop, batch = make_loop(which, arguments)
    for _ in range(3):
        loop.step(batch)
    print(json.dumps({"peak_bytes": peak_bytes(arguments.device) - before}))


def memory_of(which: str, arguments: argparse.Namespace) -> int:
    command = [
        sys.executable, __file__, "--memory", which, "--method", arguments.method, "--size", arguments.size,
        "--batch-size", str(arguments.batch_size), "--device", arguments.device,
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(folder))
    return int(json.loads(done.stdout.splitlines()[-1])["peak_bytes"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--method", default="lora", choices=("lora", "full"))
    parser.add_argument("--size", default="small", choices=tuple(SIZES))
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory", choices=("ours", "plain"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        measure_memory(arguments.memory, arguments)
        return
    repeats = 6 if arguments.quick else 30
    loops = {which: make_loop(which, arguments) for which in ("ours", "plain")}
    now, seconds = clock(arguments.device), {which: [] for which in loops}
    losses = {}
    for number in range(repeats + 2):  # the first two warm up
        for which, (loop, batch) in loops.items():
            began = now()
            loss = loop.step(batch)
            seconds[which].append(now() - began)
            if number == 0:
                losses[which] = loss
    rates = {which: arguments.batch_size / statistics.median(times[2:]) for which, times in seconds.items()}
    memory = {which: memory_of(which, arguments) for which in loops}
    unit = "CPU second" if arguments.device == "cpu" else "second"
    print(f"{'loop':8} {'samples a ' + unit:>24} {'peak memory, MB':>18} {'first loss':>12}")
    for which in loops:
        print(f"{which:8} {rates[which]:24.1f} {memory[which] / 1e6:18.0f} {losses[which]:12.5f}")
    result = {
        "benchmark": "train",
        "request": {k: v for k, v in vars(arguments).items() if k != "memory"},
        "recipe": {"rank": RANK, "scale": asdict(LowRankOptions(RANK))["alpha"] / RANK},
        "samples_per_second": rates,
        "ratio": rates["ours"] / rates["plain"],
        "goal": GOAL,
        "peak_bytes": memory,
        "memory_ratio": memory["ours"] / memory["plain"],
        "first_losses_agree": abs(losses["ours"] - losses["plain"]) < 1e-4,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
