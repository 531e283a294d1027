"""The paper's comparison in small: several ways to learn a new task from the same few demonstrations.

Every row sees the same demonstrations of the scripted expert and the same fresh scenes in simulation:
the base untouched, the methods of the paper's fine-tuning table, the same network from scratch, a
compact Diffusion Policy, and the LoRA result in 8 and 4 bits. The table also gives the CPU seconds of
training. The expert and the base's pre-training used the simulator's ground truth; the rows here learn from
images, words and commands only.

    python benchmarks/paper_in_miniature.py [--base FOLDER] [--task lift_purple] [--quick]
        [--rows lora,scratch]
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from openvla_ros.cli.training import ProgressBar
from openvla_ros.data.datasets.open_dataset import SourceRequest
from openvla_ros.data.hdf.robomimic_writer import Hdf5Writer
from openvla_ros.evaluation.closed_loop import run_trials
from openvla_ros.evaluation.wilson import SuccessRate
from openvla_ros.manifest import Manifest, read_manifest
from openvla_ros.model.checkpoints.safetensors import SINGLE, resolve
from openvla_ros.model.inference.checkpoint_files import read_transform
from openvla_ros.model.inference.options import LoadOptions
from openvla_ros.model.network.bitsandbytes_layers import Quantization
from openvla_ros.model.network.config_file import read_config
from openvla_ros.model.network.openvla import OpenVLA
from openvla_ros.policy.openvla_policy import load_openvla_policy
from openvla_ros.policy.protocol import Policy
from openvla_ros.pretraining.diffusion_baseline import DiffusionOptions, train_diffusion
from openvla_ros.profile import RobotProfile, load_profile
from openvla_ros.resources import SMALL_BASE
from openvla_ros.sim.demonstrations import IDLE_M, IDLE_RAD, generate_demonstrations
from openvla_ros.sim.tasks import Task, find_task
from openvla_ros.sim.world import SimulatedRobot
from openvla_ros.training.data.frame_cache import open_store
from openvla_ros.training.data.selection import Selection
from openvla_ros.training.finetune import CACHE, finetune
from openvla_ros.training.recipe import Method, Recipe
from openvla_ros.training.request import FinetuneRequest, WeightedData

ROWS = (
    "base", "lora", "full", "last-layer", "frozen-vision", "sandwich", "scratch", "diffusion",
    "lora-int8", "lora-nf4",
)  # fmt: skip
FIRST_DEMONSTRATION, FIRST_TRIAL = 60_000, 70_000
# A small model needs a higher learning rate than one of seven billion parameters.
RATES: dict[str, float] = {"lora": 5e-4, "scratch": 1e-3}
OTHER_RATE = 2e-4


@dataclass
class Study:
    """The settings that all rows share."""

    base: Path
    manifest: Manifest
    profile: RobotProfile
    task: Task
    data: Path
    folder: Path
    steps: int
    batch_size: int

    def selection(self) -> Selection:
        """Return which steps are trained on."""
        return Selection(idle_m=IDLE_M, idle_rad=IDLE_RAD, validation_share=0.05)

    def trained(self, name: str, method: Method, base: Path) -> tuple[Path, float]:
        """Fine-tune; return the run's folder and the CPU seconds that it took."""
        folder, began = self.folder / name, time.process_time()
        recipe = Recipe(
            method=method,
            learning_rate=RATES.get(name, OTHER_RATE),
            batch_size=self.batch_size,
            steps=self.steps,
            augment=self.manifest.center_crop,
            warmup_steps=min(50, self.steps // 10),
            clip_norm=1.0,
            save_every=10**6,
            validate_every=10**6,
        )
        request = FinetuneRequest(
            base=str(base),
            data=(WeightedData(SourceRequest(self.data)),),
            output=folder,
            recipe=recipe,
            selection=self.selection(),
            keep_statistics=self.manifest.dataset_key,
        )
        finetune(request, ProgressBar())
        return folder, time.process_time() - began


def from_scratch(study: Study) -> Path:
    """Return a checkpoint like the base with newly initialised weights."""
    from safetensors.torch import save_file

    folder = study.folder / "random_base"
    shutil.copytree(study.base, folder)
    torch.manual_seed(0)
    network = OpenVLA(read_config(folder))
    for name, value in network.named_parameters():
        if value.ndim >= 2 and "vision" in name:
            torch.nn.init.trunc_normal_(value, std=0.02)
    weights = {name: value.detach().contiguous() for name, value in network.state_dict().items()}
    save_file(weights, folder / SINGLE, metadata={"format": "pt"})
    return folder


def loaded(study: Study, base: Path, adapter: Path | None, how: Quantization | None = None) -> Policy:
    return load_openvla_policy(
        base, study.profile, adapter=adapter, options=LoadOptions(dtype=torch.float32, quantization=how)
    )


def diffusion(study: Study) -> tuple[Policy, float]:
    began = time.process_time()
    transform = read_transform(study.base)
    store = open_store(
        study.folder / "diffusion" / CACHE, [SourceRequest(study.data).open()], transform, study.selection()
    )
    # As many examples as in the other rows.
    options = DiffusionOptions(steps=max(1, study.steps * study.batch_size // DiffusionOptions().batch_size))
    policy = train_diffusion(store, study.manifest.statistics.action, options, transform)
    return policy, time.process_time() - began


def make_row(study: Study, name: str) -> tuple[Policy, float]:
    """Return the policy of a row, and the CPU seconds of its training."""
    match name:
        case "base":
            return loaded(study, study.base, None), 0.0
        case "lora":
            folder, seconds = study.trained("lora", "lora", study.base)
            return loaded(study, study.base, folder), seconds
        case "lora-int8" | "lora-nf4":
            how: Quantization = "int8" if name == "lora-int8" else "nf4"
            return loaded(study, study.base, study.folder / "lora", how), 0.0
        case "scratch":
            folder, seconds = study.trained("scratch", "full", from_scratch(study))
            return loaded(study, folder, None), seconds
        case "diffusion":
            return diffusion(study)
        case "full" | "last-layer" | "frozen-vision" | "sandwich":
            folder, seconds = study.trained(name, name, study.base)
            return loaded(study, folder, None), seconds
        case _:
            raise ValueError(f"row {name!r} is none of {', '.join(ROWS)}")


def demonstrate(profile: RobotProfile, task: Task, count: int, path: Path) -> None:
    with Hdf5Writer(path) as writer:
        for done in generate_demonstrations(
            profile, task, range(FIRST_DEMONSTRATION, FIRST_DEMONSTRATION + count)
        ):
            writer.add(done.episode)


def success(study: Study, policy: Policy, trials: int) -> SuccessRate:
    with SimulatedRobot(study.profile, study.task) as robot:
        seeds = range(FIRST_TRIAL, FIRST_TRIAL + trials)
        done = [trial.success for trial in run_trials(policy, robot, seeds)]
    return SuccessRate(sum(done), trials)


def run(study: Study, rows: list[str], trials: int, say: Callable[[str], None]) -> dict[str, object]:
    """Return each row's success rate and training time; print each as it arrives."""
    results: dict[str, object] = {}
    for name in rows:
        policy, seconds = make_row(study, name)
        rate = success(study, policy, trials)
        policy.close()
        say(f"{name:14} {rate!s:48} {seconds:8.0f} CPU s")
        results[name] = {**rate.to_json(), "training_cpu_s": seconds}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default=SMALL_BASE, help="folder; default the small model of the package")
    parser.add_argument("--task", default="lift_purple")
    parser.add_argument("--demonstrations", type=int, default=50)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.demonstrations, arguments.steps, arguments.trials = 3, 4, 2
    base = resolve(arguments.base)
    manifest = read_manifest(base)
    profile, task = load_profile(manifest.robot), find_task(arguments.task)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "demonstrations.hdf5"
        demonstrate(profile, task, arguments.demonstrations, data)
        study = Study(
            base, manifest, profile, task, data, Path(folder), arguments.steps, arguments.batch_size
        )
        results = run(study, arguments.rows.split(","), arguments.trials, print)
    request = {name: str(value) for name, value in vars(arguments).items()}
    print(json.dumps({"benchmark": "paper_in_miniature", "request": request, "rows": results}))


if __name__ == "__main__":
    main()
