"""The graphs ``prefill`` and ``decode``: Llama with a cache of fixed size that goes in and comes out.

Prefill takes the image's embeddings and the prompt and returns the logits of the first token and the cache.
Decode takes one token, its position and the cache, and returns the next token's logits and the new cache.
The arithmetic is that of ``model.kernels.static_llama``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from openvla_ros.exporting.graph_writer import GraphWriter
from openvla_ros.exporting.network_weights import NetworkWeights
from openvla_ros.model.kernels.torch_kernels import LlamaShape

PREFILL, DECODE = "prefill", "decode"
_MODEL = "language_model.model"
_LOWEST = float(np.finfo(np.float32).min)  # a score of this much has no share after the softmax


@dataclass(frozen=True, eq=False)
class LanguageGraph:
    """One of the two graphs under construction."""

    graph: GraphWriter
    weights: NetworkWeights
    shape: LlamaShape
    capacity: int  # positions of the cache

    @classmethod
    def of(cls, graph: GraphWriter, weights: NetworkWeights, capacity: int) -> LanguageGraph:
        """Return an empty graph for the language model of ``weights``."""
        shape = LlamaShape.of(weights.network.language_model.config)
        return cls(graph, weights, shape, capacity)

    @property
    def layers(self) -> int:
        """Number of layers."""
        return len(self.weights.network.language_model.model.layers)

    @property
    def cache_shape(self) -> tuple[int, int, int, int]:
        """The shape of one layer's keys, and of its values."""
        return 1, self.shape.groups, self.capacity, self.shape.head_width

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return self.weights.network.config.text_config.vocab_size

    def embeddings(self, token_ids: str) -> str:
        """Return the embeddings (1, L, H) of token ids (1, L)."""
        table = self.weights.put(self.graph, f"{_MODEL}.embed_tokens.weight")
        return self.graph.op("Gather", table, token_ids, axis=0)

    def angles(self) -> tuple[str, str]:
        """Return the cosines and sines (capacity, head width) of the rotary embedding."""
        rotary = self.weights.network.language_model.model.rotary_emb
        with torch.inference_mode():
            tables = rotary(torch.zeros(1), torch.arange(self.capacity)[None])
        cos, sin = (
            self.graph.weight(f"rotary.{name}", table[0].float().numpy())
            for name, table in zip(("cos", "sin"), tables, strict=True)
        )
        return cos, sin

    def norm(self, name: str, x: str) -> str:
        """Return the RMS norm ``name`` of ``x`` (1, N, H)."""
        graph = self.graph
        mean = graph.op("ReduceMean", graph.op("Mul", x, x), axes=[-1], keepdims=1)
        root = graph.op("Sqrt", graph.op("Add", mean, graph.constant(self.shape.eps, np.float32)))
        return graph.op("Mul", graph.op("Div", x, root), self.weights.put(graph, f"{name}.weight"))

    def heads(self, name: str, x: str, heads: int) -> str:
        """Return the projection ``name`` of ``x`` as (1, heads, N, head width)."""
        flat = self.weights.linear(self.graph, name, x)
        split = self.graph.reshape(flat, 1, -1, heads, self.shape.head_width)
        return self.graph.op("Transpose", split, perm=[0, 2, 1, 3])

    def rotate(self, x: str, cos: str, sin: str) -> str:
        """Return ``x`` (1, heads, N, head width) with the rotary embedding applied."""
        graph, half = self.graph, self.shape.head_width // 2
        first, second = graph.slice(x, 0, half, 3), graph.slice(x, half, 2 * half, 3)
        turned = graph.op("Concat", graph.op("Neg", second), first, axis=3)
        return graph.op("Add", graph.op("Mul", x, cos), graph.op("Mul", turned, sin))

    def attend(self, query: str, cache: Sequence[str], allowed: str) -> str:
        """Return the attention output (1, N, heads · head width).

        ``cache`` is keys and values, each (1, groups, M, head width); ``allowed`` is a bool (N, M).
        """
        graph, shape = self.graph, self.shape
        key, value = cache
        shared = shape.heads // shape.groups
        if shared > 1:  # several heads look at the same keys: (1, groups, shared, N, head width)
            query = graph.reshape(query, 1, shape.groups, shared, -1, shape.head_width)
            key, value = (graph.op("Unsqueeze", part, graph.constant([2])) for part in (key, value))
        axes = list(range(5 if shared > 1 else 4))
        turned = graph.op("Transpose", key, perm=[*axes[:-2], axes[-1], axes[-2]])
        scores = graph.scale(graph.op("MatMul", query, turned), shape.head_width**-0.5)
        scores = graph.op("Where", allowed, scores, graph.constant(_LOWEST, np.float32))
        mixed = graph.op("MatMul", graph.op("Softmax", scores, axis=-1), value)
        if shared > 1:
            mixed = graph.reshape(mixed, 1, shape.heads, -1, shape.head_width)
        mixed = graph.op("Transpose", mixed, perm=[0, 2, 1, 3])
        return graph.reshape(mixed, 1, -1, shape.heads * shape.head_width)

    def feed_forward(self, layer: str, x: str) -> str:
        """Return the output of the MLP of ``layer`` for ``x`` (1, N, H)."""
        gate, up = (self.weights.linear(self.graph, f"{layer}.mlp.{name}_proj", x) for name in ("gate", "up"))
        gated = self.graph.op("Mul", self.graph.silu(gate), up)
        return self.weights.linear(self.graph, f"{layer}.mlp.down_proj", gated)

    def logits(self, x: str) -> str:
        """Return the logits (1, vocabulary) of ``x`` (1, 1, H)."""
        head = self.weights.linear(self.graph, "language_model.lm_head", self.norm(f"{_MODEL}.norm", x))
        return self.graph.reshape(head, 1, self.vocabulary)


def cache_names(layers: int, prefix: str) -> list[str]:
    """Return the names of the cache's tensors: ``PREFIX.0.key``, ``PREFIX.0.value``, ``PREFIX.1.key``, ..."""
    return [f"{prefix}.{layer}.{part}" for layer in range(layers) for part in ("key", "value")]


def write_prefill(language: LanguageGraph) -> None:
    """Add the image and the prompt → logits of the first token, and the cache.

    Inputs: image_embeddings (1, patches, H); token_ids (1, text) with BOS first; prompt_length (1,), the
    number of them that are the prompt: those after it are padding, which nothing looks at.
    """
    graph, config = language.graph, language.weights.network.config
    image = graph.input("image_embeddings", (1, config.patches, config.text_config.hidden_size))
    token_ids = graph.input("token_ids", (1, "text"), np.int64)
    prompt_length = graph.input("prompt_length", (1,), np.int64)
    _add_outputs(language, *prefill_step(language, image, token_ids, prompt_length))


def write_decode(language: LanguageGraph) -> None:
    """Add a token → the logits of the next one, and the cache with this token in it.

    Inputs: token_id (1, 1); position (1,), where it stands: patches + prompt_length for the first; the cache.
    """
    graph = language.graph
    token_id = graph.input("token_id", (1, 1), np.int64)
    position = graph.input("position", (1,), np.int64)
    past = [graph.input(name, language.cache_shape) for name in cache_names(language.layers, "past")]
    _add_outputs(language, *decode_step(language, token_id, position, past))


def prefill_step(
    language: LanguageGraph, image: str, token_ids: str, prompt_length: str
) -> tuple[str, list[str]]:
    """Return the logits (1, vocabulary) after the prompt, and the cache: each layer's keys and values."""
    graph, patches = language.graph, language.weights.network.config.patches
    text = language.embeddings(token_ids)
    bos, rest = graph.slice(text, 0, 1, 1), graph.slice(text, 1, language.capacity, 1)
    x = graph.op("Concat", bos, image, rest, axis=1)
    count = graph.slice(graph.op("Shape", x), 1, 2, 0)
    cos, sin = (graph.slice(table, 0, count, 0) for table in language.angles())
    positions = graph.slice(graph.constant(range(language.capacity)), 0, count, 0)
    causal = graph.op("LessOrEqual", positions, graph.op("Unsqueeze", positions, graph.constant([1])))
    free = graph.op("Sub", graph.constant([language.capacity]), count)
    pads = graph.op("Concat", graph.constant([0] * 6), free, graph.constant([0]), axis=0)
    cache: list[str] = []
    for index in range(language.layers):
        layer = f"{_MODEL}.layers.{index}"
        query, key, value = _projected(language, layer, x, cos, sin)
        cache += [graph.op("Pad", part, pads) for part in (key, value)]
        x = _finished(language, layer, x, language.attend(query, (key, value), causal))
    last = graph.op("Add", prompt_length, graph.constant([patches - 1]))
    return language.logits(graph.op("Gather", x, last, axis=1)), cache


def decode_step(
    language: LanguageGraph, token_id: str, position: str, past: Sequence[str]
) -> tuple[str, list[str]]:
    """Return the logits (1, vocabulary) after ``token_id`` (1, 1) at ``position`` (1,), and the new cache."""
    graph = language.graph
    x = language.embeddings(token_id)
    cos, sin = (graph.op("Gather", table, position, axis=0) for table in language.angles())
    positions = graph.constant(range(language.capacity))
    allowed = graph.op("LessOrEqual", positions, position)
    here = graph.reshape(graph.op("Equal", positions, position), 1, 1, language.capacity, 1)
    cache: list[str] = []
    for index in range(language.layers):
        layer = f"{_MODEL}.layers.{index}"
        query, *new = _projected(language, layer, x, cos, sin)
        old = past[2 * index : 2 * index + 2]
        kept = [graph.op("Where", here, row, before) for row, before in zip(new, old, strict=True)]
        cache += kept
        x = _finished(language, layer, x, language.attend(query, kept, allowed))
    return language.logits(x), cache


def _add_outputs(language: LanguageGraph, logits: str, cache: Sequence[str]) -> None:
    graph = language.graph
    graph.output(logits, "logits", (1, language.vocabulary))
    for name, part in zip(cache_names(language.layers, "present"), cache, strict=True):
        graph.output(part, name, language.cache_shape)


def _projected(language: LanguageGraph, layer: str, x: str, cos: str, sin: str) -> tuple[str, str, str]:
    """Return the rotated queries, the rotated keys and the values of the rows ``x``."""
    normed, shape = language.norm(f"{layer}.input_layernorm", x), language.shape
    query = language.heads(f"{layer}.self_attn.q_proj", normed, shape.heads)
    key, value = (language.heads(f"{layer}.self_attn.{n}_proj", normed, shape.groups) for n in "kv")
    return language.rotate(query, cos, sin), language.rotate(key, cos, sin), value


def _finished(language: LanguageGraph, layer: str, x: str, attended: str) -> str:
    """Return the layer's output: the attended rows and the MLP, each added to what it started from."""
    graph = language.graph
    x = graph.op("Add", x, language.weights.linear(graph, f"{layer}.self_attn.o_proj", attended))
    return graph.op(
        "Add", x, language.feed_forward(layer, language.norm(f"{layer}.post_attention_layernorm", x))
    )
