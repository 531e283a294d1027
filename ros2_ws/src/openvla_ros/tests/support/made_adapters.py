"""LoRA adapters with random updates, written as fine-tuning writes them."""

import torch
from support.tiny_training_run import PROFILE

from openvla_ros.manifest import Manifest, sha256_of_adapter, write_manifest
from openvla_ros.model.checkpoints.safetensors import load_model
from openvla_ros.model.inference.checkpoint_files import read_transform
from openvla_ros.preprocessing.dataset_statistics import read_statistics
from openvla_ros.training.lora_layers import LowRankOptions, attach, factors, select_targets, write_adapter


def make_adapter(folder, base, seed, profile=PROFILE, std=0.5):
    """Write an adapter that changes actions, with its manifest; it adapts every linear layer."""
    folder.mkdir(parents=True)
    network = load_model(base, dtype=torch.float32, progress=False)
    targets, options = select_targets(network, None), LowRankOptions(rank=2, alpha=4.0)
    attach(network, targets, options, seed)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if name.endswith("lora_B"):
                value.normal_(std=std, generator=torch.Generator().manual_seed(seed))
    write_adapter(folder, factors(network), targets, options, str(base))
    ((key, statistics),) = read_statistics(base / "dataset_statistics.json").items()
    write_manifest(
        folder,
        Manifest(
            base_model=str(base), base_revision=None, adapter_sha256=sha256_of_adapter(folder),
            dataset_key=key, statistics=statistics,
            action_space=profile.space(), prompt_style="openvla", image_transform=read_transform(base),
            center_crop=False, cameras=("primary",), robot=profile.name,
        ),
    )  # fmt: skip
    return folder
