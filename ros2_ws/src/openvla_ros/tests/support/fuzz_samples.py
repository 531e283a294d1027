"""Small data of every format that is read, and what each way in returns of it, as digests."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import save_torch_state_dict
from PIL import Image as PILImage
from safetensors.torch import load_file
from support.fake_recording import PROFILE, steady_run
from support.generated_episodes import make_episode
from support.tiny_training_run import make_base
from typer.testing import CliRunner

from openvla_ros.cli.program import app
from openvla_ros.data.datasets.conversion import ConversionRequest, convert
from openvla_ros.data.datasets.open_dataset import SourceRequest
from openvla_ros.data.hdf.robomimic_writer import Hdf5Writer
from openvla_ros.manifest import Manifest, sha256_of_adapter
from openvla_ros.model.checkpoints.merge import merge_adapter
from openvla_ros.model.checkpoints.safetensors import load_model
from openvla_ros.model.inference.checkpoint_files import read_transform
from openvla_ros.model.inference.inspection import describe
from openvla_ros.model.inference.loading import load_action_predictor
from openvla_ros.model.inference.options import LoadOptions
from openvla_ros.policy.openvla_policy import load_openvla_policy, swap_adapter
from openvla_ros.preprocessing.dataset_statistics import read_statistics
from openvla_ros.training.checkpoint_export import write_description
from openvla_ros.training.lora_layers import LowRankOptions, attach, factors, select_targets, write_adapter

SUMS = "SHA256SUMS"
EPISODES = 3
Values = list[str]  # one digest an episode, or one for a model's answer
FLOAT32 = LoadOptions(dtype=torch.float32, offline=True)


@dataclass(frozen=True)
class Sample:
    """One format: a folder whose files are damaged, and the way in that reads it.

    ``read`` returns what a user gets, and whether something was reported as damaged besides.
    """

    name: str
    folder: Path
    read: Callable[[Path], tuple[Values, bool]]
    damaged: str = "*"  # which files; the others stay as they are
    checksums: bool = True  # whether what is read carries checksums


def make_samples(root: Path) -> list[Sample]:
    """Write one sample of every format below ``root``."""
    return [*_datasets(root), *_models(root), *_images(root)]


def _datasets(root: Path) -> list[Sample]:
    source = root / "source" / "set.hdf5"
    source.parent.mkdir(parents=True)
    with Hdf5Writer(source) as writer:
        for seed in range(EPISODES):
            writer.add(make_episode(seed, jpeg=True, size=32))
    samples = []
    for name, target, storage in (
        ("bag, exported", "bag", "image"),
        ("rlds", "rlds", "image"),
        ("lerobot, images", "lerobot", "image"),
        ("lerobot, video", "lerobot", "h264"),
        ("hdf5", "hdf5", "image"),
    ):
        folder = root / name.replace(", ", "_")
        convert(ConversionRequest(SourceRequest(source), folder, target, storage=storage, group_size=2))
        samples.append(Sample(name, folder, read_dataset))
    recordings = root / "recordings"
    for seed in range(2):
        steady_run(0.5 + 0.1 * seed, seed=seed).write(recordings / f"episode_{seed:06d}")
    samples.append(Sample("bag, recorded", recordings, read_dataset))
    samples.append(Sample("metadata.yaml", recordings, read_dataset, damaged="metadata.yaml"))
    for name in ("rlds", "lerobot, images", "lerobot, video", "hdf5"):
        folder = root / name.replace(", ", "_")
        bare = root / f"{folder.name}_without"
        shutil.copytree(folder, bare, ignore=shutil.ignore_patterns(SUMS))
        samples.append(Sample(f"{name}, of others", bare, read_dataset, checksums=False))
    return samples


def read_dataset(folder: Path) -> tuple[Values, bool]:
    """Read every number and pixel of every episode, then list them as a user does."""
    from openvla_ros.errors import DatasetError, InvalidValueError

    values, reported = [], False
    source = SourceRequest(folder).open()
    for index in range(len(source)):
        try:
            values.append(_digest_of_episode(source[index]))
        except (DatasetError, InvalidValueError):
            reported = True
    listed = CliRunner().invoke(app, ["episodes", str(folder), "--json"])
    if listed.exception is not None and not isinstance(listed.exception, SystemExit):
        raise listed.exception
    return values, reported or listed.exit_code != 0


def _digest_of_episode(episode: Any) -> str:
    digest = hashlib.sha256()
    said = (episode.id, episode.instruction, episode.rate_hz, episode.outcome, vars(episode.space))
    digest.update(repr(said).encode())
    for name in ("stamps_ns", "actions", "joint_positions", "poses", "gripper", "intervention"):
        digest.update(np.asarray(getattr(episode, name)).tobytes())
    for name, images in episode.images.items():
        digest.update(name.encode())
        for index in range(len(images)):
            digest.update(np.ascontiguousarray(images[index]).tobytes())
    return digest.hexdigest()


def _models(root: Path) -> list[Sample]:
    base = make_base(root / "base")
    weights = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()
    save_torch_state_dict(weights, base, max_shard_size="300KB")
    (base / SUMS).unlink(missing_ok=True)
    first = _adapter(root / "adapters" / "first", base, 1)
    _adapter(root / "adapters" / "second", base, 2)
    merged = root / "merged"
    merge_adapter(base, first, merged)
    other = root / "published"
    shutil.copytree(merged, other, ignore=shutil.ignore_patterns(SUMS))
    swap = _swap(base)
    return [
        Sample("checkpoint", merged, read_checkpoint),
        Sample("dataset_statistics.json", merged, read_checkpoint, damaged="dataset_statistics.json"),
        Sample("adapter", root / "adapters", swap),
        Sample("openvla_manifest.json", root / "adapters", swap, damaged="openvla_manifest.json"),
        Sample("checkpoint, of others", other, read_checkpoint, checksums=False),
    ]


def _adapter(folder: Path, base: Path, seed: int) -> Path:
    folder.mkdir(parents=True)
    network = load_model(base, dtype=torch.float32, progress=False)
    targets, options = select_targets(network, None), LowRankOptions(rank=2, alpha=4.0)
    attach(network, targets, options, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if name.endswith("lora_B"):
                value.normal_(std=0.5, generator=generator)
    write_adapter(folder, factors(network), targets, options, str(base))
    manifest = Manifest(
        base_model=str(base), base_revision=None, adapter_sha256=sha256_of_adapter(folder),
        dataset_key="base", statistics=read_statistics(base / "dataset_statistics.json")["base"],
        action_space=PROFILE.space(), prompt_style="openvla", image_transform=read_transform(base),
        center_crop=False, cameras=("primary",), robot=PROFILE.name,
    )  # fmt: skip
    write_description(folder, manifest)
    return folder


def read_checkpoint(folder: Path) -> tuple[Values, bool]:
    """Inspect, load and ask for an action; the digest is over all weights and the answer."""
    describe(folder)
    predictor = load_action_predictor(folder, FLOAT32)
    digest = hashlib.sha256()
    for name, value in sorted(predictor.model.network.state_dict().items()):  # type: ignore[attr-defined]
        digest.update(name.encode() + value.contiguous().view(torch.uint8).numpy().tobytes())
    _add_answer(digest, predictor.predict([_image()], "put the block on the plate"))
    return [digest.hexdigest()], False


def _swap(base: Path) -> Callable[[Path], tuple[Values, bool]]:
    """Return a reader that deploys one adapter, exchanges it for the other, and predicts with each."""

    def read(folder: Path) -> tuple[Values, bool]:
        first, second = folder / "first", folder / "second"
        policy = load_openvla_policy(base, PROFILE, adapter=first, options=FLOAT32)
        swapped = swap_adapter(policy, base, second, PROFILE, offline=True)
        observation = make_episode(2).observation(0)
        values = [policy_digest(chosen.infer(observation).actions) for chosen in (policy, swapped)]
        for adapter in (first, second):
            describe(adapter)
            predictor = load_action_predictor(base, replace(FLOAT32, adapter=adapter))
            digest = hashlib.sha256()
            _add_answer(digest, predictor.predict([_image()], "put the block on the plate"))
            values.append(digest.hexdigest())
        return values, False

    return read


def policy_digest(actions: Any) -> str:
    """Return a digest of the actions that a policy gave."""
    return hashlib.sha256(np.asarray(actions).tobytes()).hexdigest()


def _add_answer(digest: Any, prediction: Any) -> None:
    for value in (prediction.actions, prediction.probability, prediction.entropy):
        digest.update(np.asarray(value).tobytes())


def _image() -> Any:
    return np.random.default_rng(5).integers(0, 255, (32, 32, 3), dtype=np.uint8)


def _images(root: Path) -> list[Sample]:
    samples = []
    base = root / "base"
    for kind, options in (("PNG", {}), ("JPEG", {"quality": 95})):
        folder = root / kind.lower()
        folder.mkdir()
        smooth = np.kron(_image()[:8, :8], np.ones((8, 8, 1), np.uint8))
        PILImage.fromarray(smooth).save(folder / f"image.{kind.lower()}", **options)
        samples.append(
            Sample(
                f"{kind} to predict",
                folder,
                _predict(base, f"image.{kind.lower()}"),
                checksums=kind == "PNG",
            )
        )
    return samples


def _predict(base: Path, name: str) -> Callable[[Path], tuple[Values, bool]]:
    def read(folder: Path) -> tuple[Values, bool]:
        arguments = [
            "predict",
            str(base),
            str(folder / name),
            "lift",
            "--json",
            "--offline",
            "--dtype",
            "fp32",
        ]
        done = CliRunner().invoke(app, arguments)
        if done.exception is not None:
            raise done.exception
        found = json.loads(done.stdout.splitlines()[-1])
        return [policy_digest(found["actions"]) + policy_digest(found["confidence"])], False

    return read
