"""The OpenVLA policy: observation to action chunk, with one loaded checkpoint.

Selects the images and the state for the model, and returns its output in the robot's action space.
Everything about the network is in ``model``.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openvla_ros.errors import ManifestError, ModelOutputError, OpenVLARosError, PolicyError
from openvla_ros.integrity.checksums import check_present
from openvla_ros.manifest import Manifest, manifest_path, read_manifest, sha256_of_adapter, sha256_of_file
from openvla_ros.model.checkpoints.adapter_config import ADAPTER_CONFIG
from openvla_ros.model.checkpoints.lora_adapters import AdapterSet, read_adapter
from openvla_ros.model.checkpoints.safetensors import digest_of_weights, resolve
from openvla_ros.model.decoding.speculative import DraftingDecoder
from openvla_ros.model.decoding.staged_decoder import StagedDecoder
from openvla_ros.model.inference.checkpoint_files import read_transform
from openvla_ros.model.inference.inspection import kind_of
from openvla_ros.model.inference.loading import load_action_predictor
from openvla_ros.model.inference.options import DEFAULTS, LoadOptions
from openvla_ros.model.inference.out_of_memory import is_out_of_memory, loading_advice
from openvla_ros.model.inference.predictor import (
    ActionPredictor,
    OpenVLAPredictor,
    Prediction,
    read_checkpoint_statistics,
)
from openvla_ros.model.network.config_file import read_config
from openvla_ros.policy.proprioception import StateLayout, state_reader
from openvla_ros.policy.published_checkpoint import check_published, say_trained_elsewhere
from openvla_ros.preprocessing.dataset_statistics import DatasetStatistics, select_statistics
from openvla_ros.preprocessing.prompt import PromptStyle
from openvla_ros.profile import RobotProfile
from openvla_ros.values.action import ActionChunk, ActionSpace
from openvla_ros.values.arrays import Float, Image
from openvla_ros.values.observation import Observation

# The instruction of the warm-up: about as many tokens as a typical instruction.
WARM_UP_INSTRUCTION = "put the red block on the plate"
_WARM_UP_SIZE = 224, 224  # of its image, rows and columns
WITH_ACTIONS = ("openvla", "openvla-oft")  # the kinds of checkpoints that this policy loads


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

        ``state`` extracts the proprioception from an observation, for models that take it. Raises
        ``StatisticsError`` if the width of the model's actions differs from the space, and ``PolicyError``
        if the number of cameras is wrong or the model needs a ``state``.
        """
        predictor.statistics.check_space(space, description)
        if len(cameras) != predictor.image_count:
            raise PolicyError(
                f"{description} takes {predictor.image_count} images; "
                f"got {len(cameras)} cameras: {', '.join(cameras) or 'none'}"
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
        """One line of text: the checkpoint, and the adapter if any."""
        return self._description

    @property
    def cameras(self) -> tuple[str, ...]:
        """The model's cameras, in its order."""
        return self._cameras

    @property
    def dataset_key(self) -> str:
        """The dataset whose statistics un-normalise the actions: the ``unnorm_key``."""
        return self.predictor.dataset_key

    @property
    def predictor(self) -> ActionPredictor:
        """The loaded checkpoint; raises ``PolicyError`` once closed."""
        if self._predictor is None:
            raise PolicyError(f"{self._description} is closed")
        return self._predictor

    def infer(self, observation: Observation) -> ActionChunk:
        """Return the model's actions; raises ``PolicyError`` and ``ModelOutputError``."""
        predictor = self.predictor
        proprio = None if self._state is None else self._state(observation)
        prediction = predictor.predict(self.images_of(observation), observation.instruction, proprio)
        return self.chunk_of(prediction, observation)

    def chunk_of(self, prediction: Prediction, observation: Observation) -> ActionChunk:
        """Return what was predicted for ``observation`` in the robot's action space."""
        return ActionChunk(
            actions=prediction.actions,
            observation_stamp_ns=observation.stamp_ns,
            space=self._space,
            probability=prediction.probability,
            entropy=prediction.entropy,
        )

    def report(self) -> dict[str, str]:
        """Return how the decoder runs, and the fast one's acceptance rates; empty for the plain one."""
        decoder = getattr(self._predictor, "decoder", None)
        found = {}
        if isinstance(decoder, StagedDecoder):
            found = {"stages": decoder.engine.state, "stages_kept": decoder.prompts.state}
        if isinstance(decoder, DraftingDecoder):
            found["guesses_accepted"] = f"{decoder.acceptance.share:.3f}"
            found["passes_after_prefill"] = f"{decoder.acceptance.mean_extra_passes:.2f}"
        return found

    def prepare(self, instruction: str) -> bool:
        """Prepare (on CUDA: capture) the stages for this instruction; True if something was captured."""
        return self.predictor.prepare(instruction)

    def warm_up(self) -> None:
        """Run once on a black image, so that everything is initialised; discard the action."""
        predictor = self.predictor
        image = np.zeros((*_WARM_UP_SIZE, 3), dtype=np.uint8)
        width = predictor.proprio_width
        # The model may not output an action for a black image; the result does not matter.
        with suppress(ModelOutputError):
            predictor.predict(
                [image] * predictor.image_count,
                WARM_UP_INSTRUCTION,
                None if width is None else np.zeros(width),
            )
        predictor.forget()

    def reset(self) -> None:
        """Do nothing: no state is kept between instructions."""

    def close(self) -> None:
        """Free the weights. Safe to call twice."""
        self._predictor = None

    def images_of(self, observation: Observation) -> list[Image]:
        """Return the model's images, in its order; raises ``PolicyError`` if one is missing."""
        missing = [name for name in self._cameras if name not in observation.images]
        if missing:
            raise PolicyError(
                f"{self._description} needs camera {missing[0]!r}; the observation has "
                f"{', '.join(observation.images)}"
            )
        return [observation.images[name] for name in self._cameras]


@dataclass(frozen=True)
class PolicyChoices:
    """How a checkpoint is used; ``None``: as in its manifest or, without one, the default.

    The defaults are the checkpoint's only dataset, no center crop, the profile's first cameras and the prompt
    style of the checkpoint's language model.
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
    options: LoadOptions = DEFAULTS,
) -> OpenVLAPolicy:
    """Load the policy for one robot from a local folder or hub id, optionally with a LoRA adapter.

    ``options`` define how the weights are loaded, ``choices`` how they are used. The manifest of the adapter
    or the checkpoint, if any, is checked before any weights are read. Raises ``ManifestError`` naming every
    difference, ``CheckpointError`` and ``StatisticsError``, and ``PolicyError`` with advice if memory is
    short.
    """
    folder, choices, statistics = stated_choices(
        checkpoint, adapter, profile, choices or PolicyChoices(), offline=options.offline
    )
    chosen = replace(
        options,
        adapter=adapter,
        unnorm_key=choices.unnorm_key,
        center_crop=bool(choices.center_crop),
        prompt_style=choices.prompt_style,
        statistics=statistics,
    )
    description = str(checkpoint) if adapter is None else f"{checkpoint} with {adapter}"
    try:
        return _load_and_warm_up(folder, chosen, choices, profile, description)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # they hold what was loaded
        where = torch.device(options.device)
        advice = loading_advice(description, folder, where, options.dtype, options.quantization)
        raise PolicyError(advice) from error


def _load_and_warm_up(
    folder: Path, options: LoadOptions, choices: PolicyChoices, profile: RobotProfile, description: str
) -> OpenVLAPolicy:
    predictor = load_action_predictor(folder, options)
    names = tuple(camera.name for camera in profile.cameras)
    policy = OpenVLAPolicy(
        predictor,
        profile.space(),
        cameras=choices.cameras or names[: predictor.image_count],
        description=description,
        state=state_reader(choices.state, profile),
    )
    policy.warm_up()
    return policy


def swap_adapter(
    policy: OpenVLAPolicy,
    checkpoint: str | Path,
    adapter: str | Path | None,
    profile: RobotProfile,
    *,
    unnorm_key: str | None = None,
    center_crop: bool | None = None,
    offline: bool = False,
) -> OpenVLAPolicy:
    """Return a policy on the weights of ``policy`` with another adapter, or none; ``policy`` stays usable.

    ``checkpoint`` is the base that ``policy`` was loaded from. The adapter needs a manifest that matches the
    robot; its weights must match the network and use the image. ``policy`` must not be used in the meantime.
    Raises ``ManifestError``, ``CheckpointError``, ``StatisticsError`` and ``PolicyError``; the network is
    then unchanged.
    """
    predictor = policy.predictor
    if not isinstance(predictor, OpenVLAPredictor):
        raise PolicyError(f"{policy.description}: only a plain OpenVLA model supports adapters")
    if adapter is not None and not manifest_path(adapter).is_file():
        raise ManifestError(f"{adapter} has no {manifest_path(adapter).name}, so it cannot be checked")
    model = predictor.model
    asked_for = PolicyChoices(unnorm_key, center_crop)
    folder, choices, statistics = stated_choices(checkpoint, adapter, profile, asked_for, offline=offline)
    asked, there = choices.prompt_style, model.prompt_style
    if asked not in (None, there):
        raise ManifestError(f"{adapter}: prompt_style is {asked!r}, but the loaded model's is {there!r}")
    if statistics is None:
        statistics = read_checkpoint_statistics(folder, model.network.config)
    key, dataset = select_statistics(statistics, choices.unnorm_key)
    name = None if adapter is None else _load_adapter(model.adapters, Path(adapter), folder)
    new = replace(
        predictor,
        adapter=name,
        statistics=dataset.action,
        center_crop=bool(choices.center_crop),
        dataset_key=key,
    )
    try:
        model.adapters.activate(name)
        model.check_image_is_used()
        swapped = OpenVLAPolicy(
            new,
            policy.space,
            cameras=choices.cameras or policy.cameras,
            description=str(checkpoint) if adapter is None else f"{checkpoint} with {adapter}",
        )
        swapped.warm_up()
        return swapped
    except (OpenVLARosError, torch.OutOfMemoryError) as error:
        model.adapters.activate(predictor.adapter)
        unload_adapter(policy, name)
        if isinstance(error, OpenVLARosError):
            raise
        raise PolicyError(f"{adapter}: not enough memory to run the model with it") from error


def unload_adapter(policy: OpenVLAPolicy, name: str | None) -> None:
    """Unload an adapter from the network of ``policy`` unless ``policy`` itself uses it."""
    predictor = policy.predictor
    if isinstance(predictor, OpenVLAPredictor) and name is not None and name != predictor.adapter:
        predictor.model.adapters.remove(name)


def _load_adapter(adapters: AdapterSet, folder: Path, base: Path) -> str:
    """Load the adapter unless the same files are already loaded; return its name."""
    config = sha256_of_file(folder / ADAPTER_CONFIG)
    name = f"{folder}@{sha256_of_adapter(folder)[:12]}+{config[:12]}"
    if name not in adapters.names:
        try:
            adapters.add(name, read_adapter(folder, base))
        except torch.OutOfMemoryError as error:
            raise PolicyError(f"{folder}: not enough memory for it next to the loaded model") from error
    return name


def stated_choices(
    checkpoint: str | Path,
    adapter: str | Path | None,
    profile: RobotProfile | None,
    choices: PolicyChoices,
    *,
    offline: bool,
) -> tuple[Path, PolicyChoices, dict[str, DatasetStatistics] | None]:
    """Return the base's folder, and the choices and statistics, from the manifest if there is one.

    Without a ``profile``, nothing is compared with a robot.
    """
    manifest = None if adapter is None else _manifest_beside(Path(adapter))
    revision = None if manifest is None else manifest.base_revision
    folder = resolve(checkpoint, offline=offline, revision=revision)
    described = folder if adapter is None else Path(adapter)
    manifest = manifest or _manifest_beside(described)
    if manifest is None:
        if profile is not None and kind_of(folder) in WITH_ACTIONS:  # loading refuses the others
            known = read_checkpoint_statistics(folder, read_config(folder), adapter)
            check_published(choices.unnorm_key, known, profile, str(described))
        return folder, choices, None
    if profile is not None:
        manifest.check(profile)
        say_trained_elsewhere(manifest.robot, profile, str(described))
    manifest.check_adapter(described)
    manifest.check_statistics(described)
    _check_base(manifest, checkpoint, folder, described)
    agreed = _agreed(choices, manifest, str(manifest_path(described)))
    return folder, agreed, {manifest.dataset_key: manifest.statistics}


def _manifest_beside(folder: Path) -> Manifest | None:
    check_present(folder)
    return read_manifest(folder) if manifest_path(folder).is_file() else None


def _check_base(manifest: Manifest, checkpoint: str | Path, folder: Path, described: Path) -> None:
    """Raise ``ManifestError`` unless ``folder`` is what the manifest was written for.

    A local folder may be a copy of a hub model: the weights' digest decides, if the manifest has it.
    """
    origin = manifest_path(described)
    on_hub = manifest.base_revision is not None and not Path(checkpoint).is_dir()
    if manifest.adapter_sha256 is not None and on_hub and str(checkpoint) != manifest.base_model:
        raise ManifestError(f"{origin}: base_model is {manifest.base_model!r}, but got {checkpoint!r}")
    if manifest.base_weights not in (None, digest_of_weights(folder)):
        raise ManifestError(
            f"{origin}: the adapter was trained on other weights than those of {checkpoint} "
            f"(its base_model is {manifest.base_model!r})"
        )
    if manifest.image_transform != read_transform(folder):
        raise ManifestError(f"{origin}: image_transform differs from {folder / 'preprocessor_config.json'}")


def _agreed(choices: PolicyChoices, manifest: Manifest, origin: str) -> PolicyChoices:
    """Return the manifest's choices; raises ``ManifestError`` if ``choices`` differ."""
    stated: dict[str, Any] = {
        "unnorm_key": manifest.dataset_key,
        "center_crop": manifest.center_crop,
        "cameras": manifest.cameras,
        "prompt_style": manifest.prompt_style,
    }
    for name, value in stated.items():
        if getattr(choices, name) not in (None, value):
            raise ManifestError(f"{origin}: {name} is {value!r}, not {getattr(choices, name)!r} as requested")
    return replace(choices, **stated)
