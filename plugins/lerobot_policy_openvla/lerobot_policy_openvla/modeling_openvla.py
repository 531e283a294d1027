"""An OpenVLA checkpoint behind LeRobot's policy interface.

The network, its weights and its image transform are those of ``openvla_ros``; here batches become images and
words, and predictions become tensors.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE
from torch import Tensor

from lerobot_policy_openvla.configuration_openvla import FINETUNE, OpenVLAConfig
from openvla_ros import load_policy
from openvla_ros.errors import InvalidValueError
from openvla_ros.policy.openvla_policy import OpenVLAPolicy as LoadedCheckpoint
from openvla_ros.values.arrays import Image

TASK = "task"
PIXEL = 1e-3  # how far a pixel times 255 may be from a whole number


class OpenVLAPolicy(PreTrainedPolicy):
    """Runs an OpenVLA checkpoint on batches of LeRobot's observations."""

    config_class = OpenVLAConfig
    name = "openvla"

    def __init__(self, config: OpenVLAConfig, **_unused: Any) -> None:
        """Load the checkpoint that ``config`` names.

        Raises ``InvalidValueError`` if the actions or images of LeRobot's environment or dataset are not the
        checkpoint's, and whatever ``openvla_ros.load_policy`` raises.
        """
        super().__init__(config)
        config.validate_features()
        policy = load_policy(
            config.checkpoint, robot=config.robot, adapter=config.adapter, unnorm_key=config.unnorm_key,
            center_crop=config.center_crop, decoder=config.decoder, quantization=config.quantization,
            device=config.device, dtype=config.dtype, offline=config.offline,
        )  # fmt: skip
        if not isinstance(policy, LoadedCheckpoint):
            raise InvalidValueError(
                f"policy.checkpoint is {config.checkpoint!r}, which is no checkpoint; give a folder, a hub "
                "id or small_base"
            )
        self._policy = policy
        space, feature = self._policy.space, config.action_feature
        if feature is not None and feature.shape != (space.width,):
            raise InvalidValueError(
                f"LeRobot's actions have the shape {feature.shape}; those of {self._policy.description} are "
                f"{space.width}: {', '.join(space.names)}"
            )
        self._keys = self._image_keys(tuple(config.image_features))
        self.reset()

    def _image_keys(self, given: tuple[str, ...]) -> tuple[str, ...]:
        """Return the image keys in the model's order: one for each of its cameras."""
        cameras = self._policy.cameras
        if len(cameras) == len(given) == 1:
            return given
        keys = tuple(f"{OBS_IMAGES}.{camera}" for camera in cameras)
        if missing := [key for key in keys if key not in given]:
            raise InvalidValueError(
                f"{self._policy.description} needs {missing[0]!r}; the images are {', '.join(given)}; "
                "LeRobot's rename_map renames them"
            )
        return keys

    @classmethod
    def from_pretrained(
        cls, pretrained_name_or_path: str | Path, *, config: PreTrainedConfig | None = None, **kwargs: Any
    ) -> OpenVLAPolicy:
        """Return the policy of LeRobot's ``config.json`` in a folder, with the checkpoint that it names."""
        if config is None:
            config = PreTrainedConfig.from_pretrained(pretrained_name_or_path)
        policy = cls(config, **kwargs)
        policy.eval()
        return policy

    def _save_pretrained(self, save_directory: Path, state_dict: dict[str, Tensor] | None = None) -> None:
        """Save LeRobot's ``config.json``; the weights stay where ``config.checkpoint`` says."""
        del state_dict
        self.config._save_pretrained(save_directory)

    def get_optim_params(self) -> dict[str, Any]:
        """Raise ``InvalidValueError``: there is no training here."""
        raise InvalidValueError(FINETUNE)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Any] | None]:
        """Raise ``InvalidValueError``: there is no training here."""
        raise InvalidValueError(FINETUNE)

    def reset(self) -> None:
        """Forget the actions of the episode that ended."""
        self._queue: deque[Tensor] = deque()
        self._policy.reset()

    @torch.inference_mode()
    def predict_action_chunk(self, batch: dict[str, Any], **_unused: Any) -> Tensor:
        """Return actions (B, T, D) float32, in the checkpoint's units.

        Args:
            batch: Images (B, 3, H, W) of 0 .. 1 or uint8, the words ``task`` (B), and ``observation.state``
                (B, S) for a checkpoint that takes one.

        Raises:
            InvalidValueError: The words or an image are missing, or an image was normalised.
            ModelOutputError: The model's tokens are no action.
        """
        missing = [key for key in (*self._keys, TASK) if key not in batch]
        if missing:
            raise InvalidValueError(
                f"OpenVLA needs {missing[0]!r}; the batch has {', '.join(map(str, batch))}"
            )
        words = [batch[TASK]] if isinstance(batch[TASK], str) else list(batch[TASK])
        if not all(isinstance(word, str) and word.strip() for word in words):
            raise InvalidValueError(f"OpenVLA needs an instruction; {TASK!r} is {words}")
        predictor, chunks = self._policy.predictor, []
        for index, instruction in enumerate(words):
            images = [_image(key, batch[key][index]) for key in self._keys]
            state = None
            if predictor.proprio_width is not None:
                state = batch[OBS_STATE][index].to("cpu", torch.float64).numpy()
            chunks.append(predictor.predict(images, instruction, state).actions)
        return torch.from_numpy(np.stack(chunks)).to(self.config.device, torch.float32)

    @torch.inference_mode()
    def select_action(self, batch: dict[str, Any], **_unused: Any) -> Tensor:
        """Return the next action (B, D); infers when those of the chunk before are used up."""
        batch.pop(ACTION, None)
        if not self._queue:
            chunk = self.predict_action_chunk(batch)
            steps = self.config.n_action_steps or chunk.shape[1]
            self._queue.extend(chunk[:, :steps].unbind(1))
        return self._queue.popleft()


def _image(key: str, tensor: Tensor) -> Image:
    """Return an image uint8 (H, W, 3); LeRobot divides by 255, which is undone exactly."""
    rows = tensor.to("cpu").permute(1, 2, 0)
    if rows.dtype == torch.uint8:
        return np.ascontiguousarray(rows.numpy())
    scaled = rows.to(torch.float64) * 255.0
    whole = scaled.round()
    if not bool(((whole >= 0.0) & (whole <= 255.0) & ((scaled - whole).abs() < PIXEL)).all()):
        raise InvalidValueError(
            f"{key!r} is not an image of whole steps of 1/255 within 0 .. 1: OpenVLA resizes and normalises "
            "images itself"
        )
    return np.ascontiguousarray(whole.to(torch.uint8).numpy())
