"""Creates the policy for a name, and checks that it matches the robot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from openvla_ros.dependencies import needed_for
from openvla_ros.errors import InvalidValueError, PolicyError
from openvla_ros.integrity.text_file import read_text
from openvla_ros.manifest import read_manifest
from openvla_ros.policy.expert import ScriptedExpert
from openvla_ros.policy.hold import HoldPolicy
from openvla_ros.policy.protocol import Policy
from openvla_ros.policy.replay_policy import ReplayPolicy
from openvla_ros.profile import RobotProfile
from openvla_ros.values.action import ActionSpace
from openvla_ros.values.scene import Scene

if TYPE_CHECKING:
    from openvla_ros.model.inference.options import LoadOptions
    from openvla_ros.policy.openvla_policy import PolicyChoices

POLICIES = ("openvla", "expert", "replay", "remote", "hold")
# As in ``model.inference.options`` and ``model.network.bitsandbytes_layers``, which take seconds to import.
DECODERS = ("fast", "steady", "plain")
# What ``address`` of a remote policy may be, and whose server that is.
REMOTE_ADDRESSES = {
    "ws://host:8765": "openvla serve",
    "openpi://host:8000": "openpi, or a LeRobot policy",
    "act+http://host:8000/act": "OpenVLA's deploy.py",
}
QUANTIZATIONS = ("none", "int8", "nf4", "int8wo", "int4wo", "fp8")


@dataclass(frozen=True)
class PolicyOptions:
    """The options for starting a policy; each policy reads those that concern it."""

    policy: str  # one of POLICIES
    checkpoint: str = ""  # openvla: model folder or hub id; openpi and act+http: a folder with its manifest
    unnorm_key: str = ""  # openvla and act+http: dataset statistics to use, if there is more than one
    device: str = "auto"  # openvla: auto, cpu, cuda or cuda:N
    dtype: str = "auto"  # openvla: auto, bf16, fp16, fp32
    center_crop: bool = False  # openvla: for models trained with random crops
    offline: bool = False  # openvla: never contact the hub
    dataset: str = ""  # replay: the dataset
    episode: int = 0  # replay: episode number, from 0
    adapter: str = ""  # openvla: folder of a LoRA adapter on top of the checkpoint
    address: str = ""  # remote: one of REMOTE_ADDRESSES
    token_file: str = ""  # remote: file with the server's token
    fingerprint: str = ""  # remote, with wss://, openpis:// or act+https://: of the server's certificate
    timeout_s: float = 5.0  # remote: timeout of one answer, seconds
    decoder: str = "fast"  # openvla: fast, steady or plain; the same tokens
    quantization: str = "none"  # openvla: one of QUANTIZATIONS; with any other than none some tokens differ
    observation_map: str = (
        ""  # openpi: which keys the server is sent; empty: as it states, else the profile's
    )


def load_policy(options: PolicyOptions, profile: RobotProfile, scene: Callable[[], Scene]) -> Policy:
    """Return the policy for ``options``; ``scene`` provides the expert's ground truth.

    Raises ``InvalidValueError`` for an unknown policy, ``PolicyError`` if its action space does not match
    the robot's, ``MissingDependencyError`` if a package that it imports is not installed, and whatever
    loading it raises.
    """
    with needed_for(f"policy {options.policy!r}"):
        policy = _choose(options, profile, scene)
    lines = profile.space().differences(policy.space)
    if lines:
        policy.close()
        raise PolicyError(f"{policy.description} does not match robot {profile.name}: " + "; ".join(lines))
    return policy


def _choose(options: PolicyOptions, profile: RobotProfile, scene: Callable[[], Scene]) -> Policy:
    match options.policy:
        case "openvla":
            return _openvla(options, profile)
        case "expert":
            return ScriptedExpert.for_profile(profile, scene)
        case "replay":
            return _replay(options, profile)
        case "remote":
            return _remote(options, profile)
        case "hold":
            return HoldPolicy(profile.space())
        case _:
            raise InvalidValueError(f"policy {options.policy!r} is not one of {', '.join(POLICIES)}")


def _openvla(options: PolicyOptions, profile: RobotProfile) -> Policy:
    if not options.checkpoint:
        raise InvalidValueError("policy 'openvla' needs a checkpoint: a model folder or a hub id")
    # Importing torch takes seconds: only for the policy that needs it.
    from openvla_ros.policy.openvla_policy import load_openvla_policy

    choices, loading = loading_options(options)
    return load_openvla_policy(
        options.checkpoint, profile, adapter=options.adapter or None, choices=choices, options=loading
    )


def loading_options(options: PolicyOptions) -> tuple[PolicyChoices, LoadOptions]:
    """Return how the checkpoint of ``options`` is used, and how its weights are loaded.

    Raises ``InvalidValueError`` naming the choices of an option, and if there is no such device.
    """
    from openvla_ros.model.inference.options import LoadOptions, select_decoder
    from openvla_ros.model.inference.vision_language import select_device, select_dtype
    from openvla_ros.model.network.bitsandbytes_layers import select_quantization
    from openvla_ros.policy.openvla_policy import PolicyChoices

    device = select_device(options.device)
    loading = LoadOptions(
        decoder=select_decoder(options.decoder),
        dtype=select_dtype(None if options.dtype == "auto" else options.dtype, device),
        device=device,
        quantization=None if options.quantization == "none" else select_quantization(options.quantization),
        offline=options.offline,
    )
    # The checkpoint's manifest decides what is not set.
    return PolicyChoices(options.unnorm_key or None, options.center_crop or None), loading


def _remote(options: PolicyOptions, profile: RobotProfile) -> Policy:
    choices = ", ".join(f"{address} ({whose})" for address, whose in REMOTE_ADDRESSES.items())
    if not options.address:
        raise InvalidValueError(f"policy 'remote' needs an address: {choices}")
    token, timeout_s, fingerprint = read_token(options.token_file), options.timeout_s, options.fingerprint
    match options.address.partition("://")[0]:
        case "ws" | "wss":
            from openvla_ros.policy.remote import RemotePolicy

            return RemotePolicy(options.address, token, timeout_s, fingerprint)
        case "openpi" | "openpis":
            return _openpi(options, profile, token)
        case "act+http" | "act+https":
            from openvla_ros.policy.act_remote import ActPolicy

            space, camera = _stated_meaning(options, profile)
            key = options.unnorm_key
            return ActPolicy(options.address, space, camera, key, token, timeout_s, fingerprint)
        case _:
            raise InvalidValueError(f"address {options.address!r}; expected something like {choices}")


def _openpi(options: PolicyOptions, profile: RobotProfile, token: str) -> Policy:
    from openvla_ros.policy.openpi_remote import OpenpiPolicy
    from openvla_ros.protocols.observation_map import load_observation_map

    space, _ = _stated_meaning(options, profile)
    keys = load_observation_map(options.observation_map, profile) if options.observation_map else None
    timeout_s, fingerprint = options.timeout_s, options.fingerprint
    return OpenpiPolicy(options.address, profile, space, keys, token, timeout_s, fingerprint)


def _stated_meaning(options: PolicyOptions, profile: RobotProfile) -> tuple[ActionSpace, str]:
    """Return the action space and the first camera of a server that states neither.

    They are those of the manifest in the folder ``checkpoint``, which must match the robot, else the
    profile's.
    """
    if not options.checkpoint:
        return profile.space(), profile.cameras[0].name
    manifest = read_manifest(Path(options.checkpoint).expanduser())
    manifest.check(profile)
    return manifest.action_space, manifest.cameras[0]


def read_token(path: str) -> str:
    """Return the token in the file ``path``, or none if ``path`` is empty; raises ``InvalidValueError``."""
    if not path:
        return ""
    token = read_text(Path(path).expanduser(), InvalidValueError).strip()
    if not token:
        raise InvalidValueError(f"the token file {path} is empty")
    return token


def _replay(options: PolicyOptions, profile: RobotProfile) -> Policy:
    if not options.dataset:
        raise InvalidValueError("policy 'replay' needs a dataset")
    from openvla_ros.data.datasets.open_dataset import SourceRequest

    source = SourceRequest(Path(options.dataset).expanduser()).open()
    if not 0 <= options.episode < len(source):
        raise InvalidValueError(
            f"{source.path} has no episode {options.episode}; it has {len(source)}, numbered from 0"
        )
    return ReplayPolicy(source[options.episode], profile.space())
