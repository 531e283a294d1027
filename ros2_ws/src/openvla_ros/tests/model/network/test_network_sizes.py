"""Any width and depth that a config states: saved, loaded, and decoded as a network without a cache would."""

import json

import pytest
import torch
from safetensors.torch import save_file

from openvla_ros.errors import CheckpointError, ModelOutputError
from openvla_ros.model.checkpoints.safetensors import load_model, skeleton
from openvla_ros.model.decoding.greedy import decode_greedily
from openvla_ros.model.network.config_file import parse_config

DINOV2, SIGLIP, SIGLIP_384 = (
    "vit_large_patch14_reg4_dinov2.lvd142m",
    "vit_so400m_patch14_siglip_224",
    "vit_so400m_patch14_siglip_384",
)
TEXT = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2}
TEXT |= {"num_attention_heads": 4}


def config(towers, image_size=224, **text):
    ids = [name for name, _ in towers]
    return {
        "model_type": "openvla",
        "arch_specifier": "no-align+fused-gelu-mlp" if len(ids) == 2 else "no-align+gelu-mlp",
        "use_fused_vision_backbone": len(ids) == 2,
        "image_sizes": [image_size] * len(ids),
        "timm_model_ids": ids,
        "timm_model_kwargs": [sizes for _, sizes in towers],
        "pad_to_multiple_of": 16,
        "n_action_bins": 64,
        "text_config": TEXT | text,
    }


SMALL = {"embed_dim": 16, "depth": 2, "num_heads": 2}
CASES = {
    "two unequal towers": config([(DINOV2, {"embed_dim": 24, "depth": 4, "num_heads": 3}), (SIGLIP, SMALL)]),
    "towers the other way round": config([(SIGLIP, SMALL), (DINOV2, SMALL)]),
    "one DINOv2 tower": config([(DINOV2, SMALL)]),
    "384 pixels": config([(SIGLIP_384, SMALL)], image_size=384),
    "another MLP ratio": config([(SIGLIP, SMALL | {"mlp_ratio": 2.5})]),
    "grouped queries": config([(SIGLIP, SMALL)], num_key_value_heads=2),
    "wide heads": config([(SIGLIP, SMALL)], head_dim=16),
    "biases": config([(SIGLIP, SMALL)], attention_bias=True, mlp_bias=True),
    "tied embeddings": config([(SIGLIP, SMALL)], tie_word_embeddings=True),
    "another rotary base": config([(SIGLIP, SMALL)], rope_theta=500000, rms_norm_eps=1e-5),
}


@pytest.mark.parametrize("values", CASES.values(), ids=CASES)
def test_saved_loaded_and_decoded(tmp_path, values):
    generator = torch.Generator().manual_seed(1)
    tied = values["text_config"].get("tie_word_embeddings", False)
    keys = skeleton(parse_config(values, "test")).state_dict()
    tensors = {
        key: torch.randn(value.shape, generator=generator) * 0.2
        for key, value in keys.items()
        if not (tied and key == "language_model.lm_head.weight")
    }
    head = "language_model.model.embed_tokens.weight" if tied else "language_model.lm_head.weight"
    tensors[head][2] = 0.0  # the end of sequence never is the likeliest
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(values))
    model = load_model(tmp_path, dtype=torch.float32)

    size, channels = model.config.image_sizes[0], model.config.channels
    pixels = torch.randn(1, channels, size, size, generator=generator)
    ids = torch.randint(3, 300, (1, 9), generator=generator)
    with torch.inference_mode():
        embeddings = model.embed(pixels, ids)
    assert embeddings.shape == (1, 9 + (size // 14) ** 2, 32)
    expected = []
    with torch.inference_mode():
        for _ in range(4):
            logits = model.language_model.lm_head(model.hidden_states(embeddings))[:, -1]
            expected.append(int(logits.argmax()))
            token = model.text_embeddings(torch.tensor([expected[-1:]]))
            embeddings = torch.cat([embeddings, token], dim=1)
    assert 2 not in expected
    tokens = decode_greedily(model, model.embed(pixels, ids), 4)
    assert tokens.token_ids.tolist() == expected
    assert model.config.action_ids == range(320, 384)


def test_an_end_of_sequence_in_the_last_place_still_is_an_action():
    """The original clips it to an end bin; before the last place there are too few tokens."""
    values = CASES["one DINOv2 tower"]
    generator = torch.Generator().manual_seed(2)
    model = skeleton(parse_config(values, "test")).to_empty(device="cpu")
    for parameter in model.parameters():
        with torch.no_grad():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    model.restore_buffers(torch.device("cpu"))
    with torch.inference_mode():
        embeddings = model.embed(torch.randn(1, 3, 224, 224, generator=generator), torch.tensor([[1, 5]]))
        hidden = model.hidden_states(embeddings)[0, -1]
    with torch.no_grad():
        model.language_model.lm_head.weight[2] = 100 * hidden / hidden.norm()
    assert decode_greedily(model, embeddings, 1).token_ids.tolist() == [2]
    with pytest.raises(ModelOutputError, match="action token 0 of 2"):
        decode_greedily(model, embeddings, 2)


@pytest.mark.parametrize("value", [10**12, 2**20 + 1])
@pytest.mark.parametrize(
    ("part", "field"),
    [
        *(("timm_model_kwargs", name) for name in ("depth", "embed_dim", "num_heads", "mlp_ratio")),
        *(("text_config", name) for name in (*TEXT, "pad_token_id")),
    ],
)
def test_sizes_of_a_damaged_file_are_refused_before_anything_is_built(part, field, value):
    """So many layers would be built without end, and torch cannot count so many elements."""
    damaged = config([(DINOV2, dict(SMALL))])
    sizes = damaged[part][0] if part == "timm_model_kwargs" else damaged[part]
    sizes[field] = value
    with pytest.raises(CheckpointError, match=rf"{field} is .*at most"):
        parse_config(damaged, "config.json")
