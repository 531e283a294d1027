"""What of an OpenVLA checkpoint LeRobot is told; everything else is read from the checkpoint itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from lerobot.configs import NormalizationMode, PreTrainedConfig

from openvla_ros.errors import InvalidValueError

FINETUNE = "LeRobot does not train OpenVLA; use openvla finetune, which reads LeRobot datasets"


@PreTrainedConfig.register_subclass("openvla")
@dataclass
class OpenVLAConfig(PreTrainedConfig):
    """An OpenVLA checkpoint, and the robot whose action space it has.

    The fields are those of ``openvla_ros.load_policy``. The model normalises and un-normalises by itself,
    with its checkpoint's statistics: LeRobot's processors leave every number as it is.
    """

    checkpoint: str = ""  # a folder, a hub id, or small_base, which comes with openvla_ros
    robot: str = ""  # robot profile: a name or a YAML file; the checkpoint's manifest is compared with it
    adapter: str = ""  # folder of a LoRA adapter
    unnorm_key: str = ""  # the dataset whose statistics apply, if there is more than one
    center_crop: bool = False  # for checkpoints without a manifest that were trained with random crops
    dtype: str = "auto"  # auto, bf16, fp16 or fp32
    decoder: str = "fast"  # fast, steady or plain; the same tokens
    quantization: str = "none"  # none, or the inexact int8, nf4, int8wo, int4wo, fp8
    offline: bool = False  # never contact the hub
    n_action_steps: int = 0  # of a chunk, how many are executed; 0: all
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: dict.fromkeys(("VISUAL", "STATE", "ACTION"), NormalizationMode.IDENTITY)
    )

    @property
    def observation_delta_indices(self) -> None:
        """No earlier observations are used."""

    @property
    def action_delta_indices(self) -> list[int]:
        """One action for each step."""
        return [0]

    @property
    def reward_delta_indices(self) -> None:
        """No rewards are used."""

    def get_optimizer_preset(self) -> None:
        """Raise ``InvalidValueError``: there is no training here."""
        raise InvalidValueError(FINETUNE)

    def get_scheduler_preset(self) -> None:
        """Raise ``InvalidValueError``: there is no training here."""
        raise InvalidValueError(FINETUNE)

    def validate_features(self) -> None:
        """Raise ``InvalidValueError`` if the checkpoint or the robot is not named, or there is no image."""
        for name, example in (("checkpoint", "small_base"), ("robot", "sim_widowx")):
            if not getattr(self, name):
                raise InvalidValueError(f"policy.{name} is empty; give it, such as --policy.{name}={example}")
        if not self.image_features:
            raise InvalidValueError(
                f"OpenVLA needs an image; the inputs are {', '.join(self.input_features)}"
            )
        if self.n_action_steps < 0:
            raise InvalidValueError(
                f"policy.n_action_steps is {self.n_action_steps}; it must be 0 (all) or more"
            )
