"""OpenVLA-OFT once more, straight from the weights: literal, and sharing no code with the package."""

from __future__ import annotations

import math

import torch
from torch.nn.functional import gelu, layer_norm, linear, relu, silu


def attend(query, key, value):
    weights = (query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])).softmax(dim=-1)
    return weights @ value


def heads_of(x, heads):
    return x.view(len(x), heads, -1).transpose(0, 1)


def affine(w, name, x):
    return linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def norm(w, name, x, eps=1e-6):
    return layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)


def tower(w, prefix, pixels, *, heads, depth, language=None, film=None):
    """Patch features (N, C) of one image (3, H, W); ``film`` holds each block's scale and shift."""
    kernel = w[f"{prefix}.patch_embed.proj.weight"]
    columns = torch.nn.functional.unfold(pixels[None], kernel.shape[-1], stride=kernel.shape[-1])[0].T
    x = columns @ kernel.flatten(1).T + w[f"{prefix}.patch_embed.proj.bias"] + w[f"{prefix}.pos_embed"][0]
    first = 0
    if f"{prefix}.cls_token" in w:
        x = torch.cat([w[f"{prefix}.cls_token"][0], w[f"{prefix}.reg_token"][0], x])
        first = 1 + w[f"{prefix}.reg_token"].shape[1]
    for block in range(depth - 1):
        name = f"{prefix}.blocks.{block}"
        query, key, value = affine(w, f"{name}.attn.qkv", norm(w, f"{name}.norm1", x)).chunk(3, dim=-1)
        out = attend(*(heads_of(part, heads) for part in (query, key, value)))
        out = affine(w, f"{name}.attn.proj", out.transpose(0, 1).flatten(1))
        x = x + out * w.get(f"{name}.ls1.scale_factor", 1.0)
        if film is not None:
            scale, shift = (affine(film, f"{block}.{part}", language) for part in ("scale", "shift"))
            x = x * (1 + scale) + shift
        out = affine(w, f"{name}.mlp.fc2", gelu(affine(w, f"{name}.mlp.fc1", norm(w, f"{name}.norm2", x))))
        x = x + out * w.get(f"{name}.ls2.scale_factor", 1.0)
    return x[first:]


def rms(x, weight):
    return x * (x.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt() * weight


def rotate(x):
    """Rotary positions 0..n of (heads, n, d), in Llama's half-split form."""
    length, width = x.shape[1:]
    frequency = 10000.0 ** (-torch.arange(0, width, 2) / width)
    angle = torch.arange(length)[:, None] * frequency
    cos, sin = angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-right, left], dim=-1) * sin


def language_model(w, x, *, heads, layers):
    """Final-norm hidden states (N, H), every position attending to every other."""
    prefix = "language_model.model"
    for layer in range(layers):
        name = f"{prefix}.layers.{layer}"
        y = rms(x, w[f"{name}.input_layernorm.weight"])
        parts = (y @ w[f"{name}.self_attn.{part}_proj.weight"].T for part in "qkv")
        query, key, value = (heads_of(part, heads) for part in parts)
        out = attend(rotate(query), rotate(key), value).transpose(0, 1).flatten(1)
        x = x + out @ w[f"{name}.self_attn.o_proj.weight"].T
        y = rms(x, w[f"{name}.post_attention_layernorm.weight"])
        gate, up = (y @ w[f"{name}.mlp.{part}_proj.weight"].T for part in ("gate", "up"))
        x = x + (silu(gate) * up) @ w[f"{name}.mlp.down_proj.weight"].T
    return rms(x, w[f"{prefix}.norm.weight"])


def projector(w, x):
    x = affine(w, "projector.fc2", gelu(affine(w, "projector.fc1", x)))
    return affine(w, "projector.fc3", gelu(x)) if "projector.fc3.weight" in w else x


def regression_head(w, hidden, chunk):
    x = norm(w, "model.layer_norm1", hidden.reshape(chunk, -1), 1e-5)
    x = relu(affine(w, "model.fc1", x))
    for block in range(2):
        name = f"model.mlp_resnet_blocks.{block}.ffn"
        x = x + relu(affine(w, f"{name}.1", norm(w, f"{name}.0", x, 1e-5)))
    return affine(w, "model.fc2", norm(w, "model.layer_norm2", x, 1e-5))
