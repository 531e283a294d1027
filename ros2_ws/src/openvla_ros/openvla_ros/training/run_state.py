"""The saved state of a run in one file: parameters, optimizer, random numbers and position.

Written to a temporary file, flushed to disk, then renamed, so a run that is killed at any moment leaves a
complete state. Safetensors, never a pickle.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from openvla_ros.errors import TrainingError
from openvla_ros.integrity.checksums import say_unverified
from openvla_ros.integrity.disk import writing
from openvla_ros.training.distributed import place_like, whole

STATE = "state.safetensors"
_RANDOM = "random/torch"
_OPTIMIZER = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Position:
    """The position of a run."""

    step: int  # optimizer steps that are done
    key: str  # of the request: base, names of the data, and recipe
    data: str  # of the frames that it trains on


def collect_state(
    parameters: Mapping[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Return everything that the next step depends on; all processes must call this."""
    tensors = {_RANDOM: torch.get_rng_state()}
    for name, parameter in parameters.items():
        tensors[f"parameter/{name}"] = whole(parameter)
        for part in _OPTIMIZER:
            if part in optimizer.state[parameter]:
                tensors[f"{part}/{name}"] = whole(optimizer.state[parameter][part])
        if "step" in optimizer.state[parameter]:
            tensors[f"step/{name}"] = whole(optimizer.state[parameter]["step"]).reshape(1)
    if torch.cuda.is_available():
        tensors["random/cuda"] = torch.cuda.get_rng_state()
    return tensors


def write_state(folder: Path, tensors: Mapping[str, Tensor], position: Position) -> None:
    """Write the state atomically; raises ``TrainingError`` if the disk is full, and keeps the last one."""
    unfinished = folder / f"{STATE}.part"
    text = json.dumps(asdict(position))
    try:
        with writing(folder / STATE, TrainingError):
            save_file(dict(tensors), unfinished, metadata={"position": text, "sha256": digest(tensors, text)})
            sync(unfinished)
            unfinished.replace(folder / STATE)
            sync(folder)
    except TrainingError as error:
        unfinished.unlink(missing_ok=True)
        raise TrainingError(f"{error}; once there is room, the same command resumes the run") from error


def digest(tensors: Mapping[str, Tensor], position: str) -> str:
    """Return the SHA-256 of all names, types, shapes and values, and of ``position``."""
    found = hashlib.sha256(position.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(memoryview(tensor.reshape(-1).view(torch.uint8).numpy().data))
    return found.hexdigest()


def sync(path: Path) -> None:
    """Fsync the file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_state(folder: Path) -> tuple[dict[str, Tensor], Position] | None:
    """Return the last state in ``folder``, or ``None``; raises ``TrainingError`` if it is damaged."""
    path = folder / STATE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            stated = file.metadata()
            values = json.loads(stated["position"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
        if "sha256" not in stated:
            say_unverified(str(path), "it has no checksum")
        elif digest(tensors, stated["position"]) != stated["sha256"]:
            raise TrainingError(f"{path} is damaged: its checksum is wrong; remove it to start over")
        return tensors, Position(int(values["step"]), str(values["key"]), str(values["data"]))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path}: not the saved state of a run: {error}") from error


def restore_state(
    tensors: Mapping[str, Tensor],
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Restore a state; raises ``TrainingError`` if its parameters differ."""
    names = {name.removeprefix("parameter/") for name in tensors if name.startswith("parameter/")}
    if names != set(parameters):
        raise TrainingError(
            f"the saved state trains {len(names)} parameters, this run {len(parameters)}; they differ"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(place_like(tensors[f"parameter/{name}"], parameter))
            if f"exp_avg/{name}" not in tensors:
                continue
            optimizer.state[parameter] = {
                "step": tensors[f"step/{name}"].reshape(()).to(parameter.device),
                **{part: place_like(tensors[f"{part}/{name}"], parameter) for part in _OPTIMIZER},
            }
    torch.set_rng_state(tensors[_RANDOM])
    if torch.cuda.is_available() and "random/cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random/cuda"])
