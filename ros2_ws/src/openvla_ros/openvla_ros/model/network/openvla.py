"""The network: vision backbone, projector and Llama, joined as OpenVLA joins them.

The sequence is [BOS, image patches, rest of the text], causal over everything, positions 0..n.
Decoding is in ``model.decoding``, weights in ``model.checkpoints``. Paper: Kim et al., arXiv 2406.09246.
"""

from __future__ import annotations

from dataclasses import asdict

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from openvla_ros.errors import InvalidValueError
from openvla_ros.model.network.config import OpenVLAConfig, TextConfig
from openvla_ros.model.network.lora_delta import ActiveAdapter
from openvla_ros.model.network.projector import Projector
from openvla_ros.model.network.vision_towers import VisionBackbone


class OpenVLA(nn.Module):
    """The network of one checkpoint; its parameters have the published names."""

    def __init__(self, config: OpenVLAConfig) -> None:
        super().__init__()
        self.config = config
        self.adapter: ActiveAdapter | None = None  # set by AdapterSet; not in the weights themselves
        self.vision_backbone = VisionBackbone(config.towers())
        self.projector = Projector(
            self.vision_backbone.width, config.text_config.hidden_size, config.use_fused_vision_backbone
        )
        self.language_model = LlamaForCausalLM(llama_config(config.text_config))

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.language_model.lm_head.weight.device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        """The data type of activations."""
        return self.projector.fc1.bias.dtype

    @property
    def adapter_serial(self) -> int:
        """The serial number of the active adapter, 0 for none."""
        return 0 if self.adapter is None else self.adapter.serial

    def image_embeddings(self, pixels: Tensor) -> Tensor:
        """Return (B, patches, H) embeddings of (B, 3 a tower, H, W) pixels in the model's own type."""
        features = self.vision_backbone(pixels.to(self.device, self.dtype))
        embeddings: Tensor = self.projector(features)
        return embeddings

    def text_embeddings(self, token_ids: Tensor) -> Tensor:
        """Return (B, L, H) embeddings of (B, L) token ids."""
        embeddings: Tensor = self.language_model.model.embed_tokens(token_ids.to(self.device))
        return embeddings

    def join(self, image: Tensor, text: Tensor) -> Tensor:
        """Return (B, L + patches, H): the first text token (BOS), the patches, the rest of the text."""
        if image.shape[0] != text.shape[0] or text.shape[1] < 1:
            raise InvalidValueError(
                f"cannot join image embeddings {tuple(image.shape)} and text embeddings {tuple(text.shape)}"
            )
        return torch.cat([text[:, :1], image, text[:, 1:]], dim=1)

    def embed(self, pixels: Tensor, token_ids: Tensor) -> Tensor:
        """Return the joined embeddings (B, L + patches, H) of images and their prompts."""
        return self.join(self.image_embeddings(pixels), self.text_embeddings(token_ids))

    def hidden_states(self, embeddings: Tensor) -> Tensor:
        """Return the final-norm hidden states (B, N, H) of whole sequences, causal, without a cache."""
        output = self.language_model.model(inputs_embeds=embeddings, use_cache=False)
        hidden: Tensor = output.last_hidden_state
        return hidden

    def forward(self, pixels: Tensor, token_ids: Tensor) -> Tensor:
        """Return all logits (B, L + patches, vocabulary) of images and their prompts."""
        logits: Tensor = self.language_model.lm_head(self.hidden_states(self.embed(pixels, token_ids)))
        return logits

    def drop_dead_weights(self) -> None:
        """Drop the vision parameters that are never used."""
        self.vision_backbone.drop_dead_weights()

    def restore_buffers(self, device: torch.device) -> None:
        """Compute the rotary frequencies, in float32; they are in no checkpoint."""
        model = self.language_model.model
        with torch.device(device):
            model.rotary_emb = LlamaRotaryEmbedding(model.config)


def llama_config(text: TextConfig) -> LlamaConfig:
    """Return transformers' configuration of the language model, with scaled-dot-product attention."""
    values = {key: value for key, value in asdict(text).items() if value is not None}
    values.pop("model_type")
    if text.rope_parameters is not None:
        values.pop("rope_theta")
    return LlamaConfig(**values, attn_implementation="sdpa")
