"""The graph ``vision``: normalised pixels to the image's embeddings (both towers and the projector).

What ``model.network.vision_towers`` and ``projector`` compute, as ONNX operators.
"""

from __future__ import annotations

from openvla_ros.exporting.graph_writer import GraphWriter
from openvla_ros.exporting.network_weights import NetworkWeights
from openvla_ros.model.network.vision_towers import EPS, VisionTower

VISION = "vision"


def write_vision(graph: GraphWriter, weights: NetworkWeights) -> None:
    """Add pixels (1, 3 a tower, H, W) → image_embeddings (1, patches, H) to ``graph``."""
    config = weights.network.config
    size = config.image_sizes[0]
    pixels = graph.input("pixels", (1, config.channels, size, size))
    embeddings = image_embeddings(graph, weights, pixels)
    graph.output(embeddings, "image_embeddings", (1, config.patches, config.text_config.hidden_size))


def image_embeddings(graph: GraphWriter, weights: NetworkWeights, pixels: str) -> str:
    """Return the embeddings (1, patches, H) of ``pixels`` (1, 3 a tower, H, W)."""
    backbone = weights.network.vision_backbone
    names = ("featurizer", "fused_featurizer")
    features = [
        _tower(graph, weights, f"vision_backbone.{name}", tower, graph.slice(pixels, 3 * i, 3 * i + 3, 1))
        for i, (name, tower) in enumerate(zip(names, backbone.towers(), strict=False))
    ]
    x = features[0] if len(features) == 1 else graph.op("Concat", *features, axis=2)
    x = weights.linear(graph, "projector.fc1", x)
    for name in ("projector.fc2", "projector.fc3"):
        if f"{name}.weight" in weights:
            x = weights.linear(graph, name, graph.gelu(x))
    return x


def _tower(graph: GraphWriter, weights: NetworkWeights, name: str, tower: VisionTower, pixels: str) -> str:
    shape = tower.tower
    stride = [shape.patch_size, shape.patch_size]
    kernel = (weights.put(graph, f"{name}.patch_embed.proj.{part}") for part in ("weight", "bias"))
    x = graph.op("Conv", pixels, *kernel, strides=stride, kernel_shape=stride)
    x = graph.op("Transpose", graph.reshape(x, 1, shape.width, shape.patches), perm=[0, 2, 1])
    x = graph.op("Add", x, weights.put(graph, f"{name}.pos_embed"))
    prefix = [f"{name}.{part}" for part in ("cls_token", "reg_token") if f"{name}.{part}" in weights]
    if prefix:
        x = graph.op("Concat", *(weights.put(graph, key) for key in prefix), x, axis=1)
    tokens = tower.prefix_tokens + shape.patches
    for index in range(len(tower.live_blocks())):
        block = f"{name}.blocks.{index}"
        x = _residual(graph, weights, f"{block}.ls1", x, _attention(graph, weights, block, tower, x, tokens))
        hidden = weights.linear(graph, f"{block}.mlp.fc1", _layer_norm(graph, weights, f"{block}.norm2", x))
        hidden = weights.linear(graph, f"{block}.mlp.fc2", graph.gelu(hidden))
        x = _residual(graph, weights, f"{block}.ls2", x, hidden)
    return graph.slice(x, tower.prefix_tokens, tokens, 1)


def _attention(
    graph: GraphWriter, weights: NetworkWeights, block: str, tower: VisionTower, x: str, tokens: int
) -> str:
    width, heads = tower.tower.width, tower.tower.heads
    qkv = weights.linear(graph, f"{block}.attn.qkv", _layer_norm(graph, weights, f"{block}.norm1", x))
    parts = graph.op("Transpose", graph.reshape(qkv, tokens, 3, heads, width // heads), perm=[1, 2, 0, 3])
    query, key, value = (graph.slice(parts, i, i + 1, 0) for i in range(3))  # (1, heads, tokens, width)
    scores = graph.op("MatMul", query, graph.op("Transpose", key, perm=[0, 1, 3, 2]))
    share = graph.op("Softmax", graph.scale(scores, (width // heads) ** -0.5), axis=-1)
    mixed = graph.op("Transpose", graph.op("MatMul", share, value), perm=[0, 2, 1, 3])
    return weights.linear(graph, f"{block}.attn.proj", graph.reshape(mixed, 1, tokens, width))


def _residual(graph: GraphWriter, weights: NetworkWeights, scale: str, x: str, change: str) -> str:
    key = f"{scale}.scale_factor"
    if key in weights:
        change = graph.op("Mul", change, weights.put(graph, key))
    return graph.op("Add", x, change)


def _layer_norm(graph: GraphWriter, weights: NetworkWeights, name: str, x: str) -> str:
    parts = (weights.put(graph, f"{name}.{part}") for part in ("weight", "bias"))
    return graph.op("LayerNormalization", x, *parts, axis=-1, epsilon=EPS)
