"""Entry points for your own scripts: load a policy by name, open a dataset by path.

Import them from ``openvla_ros`` directly. One call builds what the nodes and the ``openvla`` program
build from parameters; the work is done in ``policy.factory`` and ``data.datasets``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from openvla_ros.data.datasets.open_dataset import SourceRequest, detect_format
from openvla_ros.data.episodes.episode_source import EpisodeSource
from openvla_ros.errors import CheckpointError, DatasetError, InvalidValueError
from openvla_ros.policy import factory
from openvla_ros.policy.factory import PolicyOptions
from openvla_ros.policy.protocol import Policy
from openvla_ros.profile import RobotProfile, load_profile
from openvla_ros.resources import SMALL_BASE, shipped_checkpoints
from openvla_ros.values.scene import Scene

# The arguments of each policy, in addition to ``robot``.
ARGUMENTS = {
    "openvla": (
        "adapter", "unnorm_key", "center_crop", "decoder", "quantization", "device", "dtype", "offline",
    ),
    "remote": ("token_file", "fingerprint", "timeout_s", "observation_map", "unnorm_key"),
    "replay": ("dataset", "episode"),
    "expert": ("scene",),
    "hold": (),
}  # fmt: skip
REMOTE_SCHEMES = ("ws", "wss", "openpi", "openpis", "act+http", "act+https")
_DEFAULTS = PolicyOptions("")


def load_policy(
    name: str | Path = SMALL_BASE,
    robot: str | Path | RobotProfile = "sim_widowx",
    *,
    adapter: str | Path = "",
    unnorm_key: str = "",
    center_crop: bool = _DEFAULTS.center_crop,
    decoder: str = _DEFAULTS.decoder,
    quantization: str = _DEFAULTS.quantization,
    device: str = _DEFAULTS.device,
    dtype: str = _DEFAULTS.dtype,
    offline: bool = _DEFAULTS.offline,
    token_file: str | Path = "",
    fingerprint: str = "",
    timeout_s: float = _DEFAULTS.timeout_s,
    observation_map: str | Path = "",
    dataset: str | Path = "",
    episode: int = _DEFAULTS.episode,
    scene: Callable[[], Scene] | None = None,
) -> Policy:
    """Return the policy called ``name``, for ``robot``.

    Example: ``load_policy("openvla/openvla-7b", robot="widowx", unnorm_key="bridge_orig")``.

    Args:
        name: A checkpoint (one of the package's own such as ``small_base``, a folder, or a hub id such as
            ``openvla/openvla-7b``), the address of a policy server (``ws://host:8765`` of ``openvla serve``,
            ``openpi://host:8000``, ``act+http://host:8000/act`` of OpenVLA's own), ``replay`` (an
            episode's actions), ``expert`` (rules on a simulator's ground truth) or ``hold`` (no motion).
        robot: A profile's name, the path of its YAML file, or the profile itself.
        adapter: Folder of a LoRA adapter on top of the checkpoint.
        unnorm_key: Which dataset's statistics apply, where the checkpoint has more than one.
        center_crop: Whether the model was trained with random crops; not needed if it has a manifest.
        decoder: ``fast``, ``steady`` or ``plain``; all give the same tokens.
        quantization: ``none``, or the inexact ``int8``, ``nf4``, ``int8wo``, ``int4wo``, ``fp8``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: ``auto``, ``bf16``, ``fp16`` or ``fp32``.
        offline: Never contact the hub.
        token_file: File with the token of a remote policy.
        fingerprint: SHA-256 of the certificate of a remote policy's server, if it uses TLS.
        timeout_s: How long to wait for each reply from a remote policy, seconds.
        observation_map: Which keys an openpi server is sent: a name or a YAML file. Default: those that the
            server of a LeRobot policy states, else the profile's.
        dataset: The dataset whose episode is replayed.
        episode: Index of the episode to replay, from 0.
        scene: For ``expert``: returns the simulator's ground truth, such as ``SimulatedRobot.scene``.

    Returns:
        A policy whose chunks hold actions (T, D) in the robot's own action space
        (``profile.space()``: metres, radians, gripper 0..1). Close it when done.

    Raises:
        ProfileError: There is no such robot, or its profile is wrong.
        CheckpointError: There is no such checkpoint, or it is damaged; ``ManifestError`` if it was made
            for another robot.
        StatisticsError: ``unnorm_key`` is missing or unknown; lists the choices.
        InvalidValueError: An argument has a wrong value, or does not belong to this policy.
        PolicyError: The policy's action space does not match the robot's, or a remote policy's server
            cannot be reached.
    """
    profile = _profile(robot)
    kind = _kind(str(name))
    if kind == "expert" and scene is None:
        raise InvalidValueError("policy 'expert' needs scene=, such as the method scene of a SimulatedRobot")
    given: dict[str, Any] = {
        "adapter": str(adapter), "unnorm_key": unnorm_key, "center_crop": center_crop, "decoder": decoder,
        "quantization": quantization, "device": device, "dtype": dtype, "offline": offline,
        "token_file": str(token_file), "fingerprint": fingerprint, "timeout_s": timeout_s,
        "observation_map": str(observation_map), "dataset": str(dataset), "episode": episode,
    }  # fmt: skip
    changed = [key for key, value in given.items() if value != getattr(_DEFAULTS, key)]
    _check_arguments(kind, str(name), [*changed, *(["scene"] if scene is not None else [])])
    options = PolicyOptions(
        policy=kind,
        checkpoint=str(name) if kind == "openvla" else "",
        address=str(name) if kind == "remote" else "",
        **given,
    )
    return factory.load_policy(options, profile, scene or _no_scene)


def open_dataset(
    path: str | Path,
    robot: str | Path | RobotProfile | None = None,
    split: str | None = None,
    convention: str | None = None,
    rate_hz: float | None = None,
) -> EpisodeSource:
    """Return the dataset at ``path``; its format (bag, RLDS, LeRobot, HDF5) is detected.

    Example: ``open_dataset("recordings/widowx")[0].actions``.

    Args:
        path: Folder or file of the dataset.
        robot: The profile (name, YAML file or value) of the robot that the actions are for. It defines the
            actions of a LeRobot dataset; in any other format, the first episode must have its action space.
        split: Only this split of an RLDS dataset, such as ``train``.
        convention: How to interpret an RLDS dataset's numbers, such as ``bridge_orig``.
        rate_hz: Compose consecutive deltas into steps of this rate; the dataset's must be a multiple of it.

    Returns:
        A sequence of episodes: ``len(dataset)``, ``dataset[i]``. Actions are (T, D) in ``episode.space``
        (metres, radians, gripper 0..1); images are decoded on access.

    Raises:
        DatasetError: No dataset of a known format was found, its first episode cannot be read, an option
            does not apply to the format, or the actions do not match the robot's.
        ProfileError: There is no such robot.
    """
    profile = None if robot is None else _profile(robot)
    folder = Path(path).expanduser()
    # A LeRobot dataset needs the profile to be read; any other says itself what is compared below.
    space = profile.space() if profile is not None and detect_format(folder) == "lerobot" else None
    source = SourceRequest(folder, split, convention, space, rate_hz).open()
    if profile is not None and len(source):
        lines = profile.space().differences(source[0].space)
        if lines:
            raise DatasetError(
                f"{source.path}: its actions do not match robot {profile.name}: " + "; ".join(lines)
            )
    return source


def _profile(robot: str | Path | RobotProfile) -> RobotProfile:
    return robot if isinstance(robot, RobotProfile) else load_profile(robot)


def _kind(name: str) -> str:
    """Return the entry of ``policy.factory.POLICIES`` that ``name`` stands for, else ``CheckpointError``."""
    if name.startswith(tuple(f"{scheme}://" for scheme in REMOTE_SCHEMES)):
        return "remote"
    if name in ("expert", "hold", "replay"):
        return name
    shipped = shipped_checkpoints()
    # A hub id is owner/name; only the hub knows whether it exists.
    if name in shipped or Path(name).exists() or "/" in name:
        return "openvla"
    raise CheckpointError(
        f"no policy {name!r}, and no such folder; choose one of the package's own checkpoints "
        f"({', '.join(sorted(shipped))}), a folder, a hub id (owner/name), the address of a policy "
        "server, 'expert', 'replay' or 'hold'"
    )


def _check_arguments(kind: str, name: str, given: list[str]) -> None:
    """Raise ``InvalidValueError`` for an argument that the policy would ignore."""
    for argument in given:
        if argument not in ARGUMENTS[kind]:
            takes = ", ".join(ARGUMENTS[kind]) or "only robot"
            raise InvalidValueError(f"{argument} is not an argument of policy {name!r}, which takes {takes}")


def _no_scene() -> Scene:
    raise InvalidValueError("this policy was given no scene")
