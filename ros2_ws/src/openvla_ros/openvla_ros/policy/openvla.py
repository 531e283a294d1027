"""The OpenVLA policy: an observation to a chunk of actions, through one loaded checkpoint.

Chooses the pictures and the state that the model looks at and gives its numbers the robot's action
space. Everything about the network is in ``model``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from openvla_ros.action import ActionChunk, ActionSpace
from openvla_ros.arrays import Float, Image
from openvla_ros.errors import ManifestError, PolicyError
from openvla_ros.manifest import Manifest, manifest_path, read_manifest
from openvla_ros.model.checkpoint import resolve
from openvla_ros.model.loading import load_action_predictor
from openvla_ros.model.predictor import ActionPredictor
from openvla_ros.model.quantization import Quantization
from openvla_ros.model.vision_language import read_transform
from openvla_ros.observation import Observation
from openvla_ros.policy.proprioception import StateLayout, state_reader
from openvla_ros.profile import RobotProfile
from openvla_ros.prompt import PromptStyle


class OpenVLAPolicy:
    """A policy that runs a checkpoint in this process."""

    def __init__(
        self,
        predictor: ActionPredictor,
        space: ActionSpace,
        *,
        cameras: Sequence[str],
        description: str,
        state: Callable[[Observation], Float] | None = None,
    ) -> None:
        """Bind ``predictor`` to a robot's ``space`` and to its ``cameras``, in the model's order.

        ``state`` reads the proprioception off an observation, for models that take it. Raises
        ``StatisticsError`` if the model's actions are not as wide as the space, and ``PolicyError``
        if it takes another number of pictures or a state that is not given.
        """
        predictor.statistics.check_space(space, description)
        if len(cameras) != predictor.image_count:
            raise PolicyError(
                f"{description} takes {predictor.image_count} images; "
                f"{len(cameras)} cameras were given: {', '.join(cameras) or 'none'}"
            )
        if predictor.proprio_width is not None and state is None:
            raise PolicyError(f"{description} takes proprioception of width {predictor.proprio_width}")
        self._predictor: ActionPredictor | None = predictor
        self._state = state if predictor.proprio_width is not None else None
        self._space = space
        self._cameras = tuple(cameras)
        self._description = description

    @property
    def space(self) -> ActionSpace:
        """The meaning of the actions that ``infer`` returns."""
        return self._space

    @property
    def description(self) -> str:
        """One line for people: which checkpoint this is."""
        return self._description

    def infer(self, observation: Observation) -> ActionChunk:
        """Return the model's actions; raises ``PolicyError`` and ``ModelOutputError``."""
        if self._predictor is None:
            raise PolicyError(f"{self._description} is closed")
        proprio = None if self._state is None else self._state(observation)
        prediction = self._predictor.predict(self._images(observation), observation.instruction, proprio)
        return ActionChunk(
            actions=prediction.actions,
            observation_stamp_ns=observation.stamp_ns,
            space=self._space,
            probability=prediction.probability,
            entropy=prediction.entropy,
        )

    def reset(self) -> None:
        """Nothing is carried from one instruction to the next."""

    def close(self) -> None:
        """Let go of the weights. Safe to call twice."""
        self._predictor = None

    def _images(self, observation: Observation) -> list[Image]:
        missing = [name for name in self._cameras if name not in observation.images]
        if missing:
            raise PolicyError(
                f"{self._description} needs camera {missing[0]!r}; the observation has "
                f"{', '.join(observation.images)}"
            )
        return [observation.images[name] for name in self._cameras]


@dataclass(frozen=True)
class PolicyChoices:
    """How a checkpoint is used; ``None`` leaves it to the checkpoint's manifest or, without one, the default.

    The defaults are the checkpoint's only dataset, no center crop, the profile's first cameras and the
    prompt of the checkpoint's language model.
    """

    unnorm_key: str | None = None
    center_crop: bool | None = None
    cameras: tuple[str, ...] | None = None
    prompt_style: PromptStyle | None = None
    state: StateLayout = "pose_gripper"  # for checkpoints that take proprioception


def load_openvla_policy(
    checkpoint: str | Path,
    profile: RobotProfile,
    *,
    adapter: str | Path | None = None,
    choices: PolicyChoices | None = None,
    dtype: torch.dtype = torch.bfloat16,
    device: str | torch.device = "cpu",
    quantization: Quantization | None = None,
    offline: bool = False,
) -> OpenVLAPolicy:
    """Return the policy of a local folder or hub id, and of a LoRA adapter on top, for one robot.

    If there is a manifest beside the adapter or the checkpoint it is checked before any weights are
    read. Raises ``ManifestError`` naming every line that differs, ``CheckpointError`` and
    ``StatisticsError``.
    """
    manifest = None if adapter is None else _manifest_beside(Path(adapter))
    revision = None if manifest is None else manifest.base_revision
    folder = resolve(checkpoint, offline=offline, revision=revision)
    described = folder if adapter is None else Path(adapter)
    manifest = manifest or _manifest_beside(described)
    choices = choices or PolicyChoices()
    statistics = None
    if manifest is not None:
        manifest.check(profile)
        manifest.check_adapter(described)
        _check_base(manifest, checkpoint, folder, described)
        choices = _agreed(choices, manifest, str(manifest_path(described)))
        statistics = {manifest.dataset_key: manifest.statistics}
    predictor = load_action_predictor(
        folder,
        adapter=adapter,
        unnorm_key=choices.unnorm_key,
        center_crop=bool(choices.center_crop),
        prompt_style=choices.prompt_style,
        statistics=statistics,
        dtype=dtype,
        device=device,
        quantization=quantization,
        offline=offline,
    )
    names = tuple(camera.name for camera in profile.cameras)
    return OpenVLAPolicy(
        predictor,
        profile.space(),
        cameras=choices.cameras or names[: predictor.image_count],
        description=str(checkpoint) if adapter is None else f"{checkpoint} with {adapter}",
        state=state_reader(choices.state, profile),
    )


def _manifest_beside(folder: Path) -> Manifest | None:
    return read_manifest(folder) if manifest_path(folder).is_file() else None


def _check_base(manifest: Manifest, checkpoint: str | Path, folder: Path, described: Path) -> None:
    """Raise ``ManifestError`` unless ``folder`` is what the manifest was written for.

    A folder of one's own may hold any copy of a hub model: only two hub ids can be told apart.
    """
    origin = manifest_path(described)
    on_hub = manifest.base_revision is not None and not Path(checkpoint).is_dir()
    if manifest.adapter_sha256 is not None and on_hub and str(checkpoint) != manifest.base_model:
        raise ManifestError(f"{origin}: base_model is {manifest.base_model!r}; {checkpoint!r} was given")
    if manifest.image_transform != read_transform(folder):
        raise ManifestError(f"{origin}: image_transform is not that of {folder / 'preprocessor_config.json'}")


def _agreed(choices: PolicyChoices, manifest: Manifest, origin: str) -> PolicyChoices:
    """Return the manifest's choices; raises ``ManifestError`` if others were asked for."""
    stated: dict[str, Any] = {
        "unnorm_key": manifest.dataset_key,
        "center_crop": manifest.center_crop,
        "cameras": manifest.cameras,
        "prompt_style": manifest.prompt_style,
    }
    for name, value in stated.items():
        if getattr(choices, name) not in (None, value):
            raise ManifestError(f"{origin}: {name} is {value!r}; {getattr(choices, name)!r} was asked for")
    return replace(choices, **stated)
