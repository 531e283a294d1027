"""The graph ``policy``: a whole prediction of fixed shapes, from a resized image and a padded prompt.

For runtimes that run one graph a tick: the decoding steps are written out, each weight is stored once. An
action that a robot must not follow is NaN: for a prompt that is not one, an early end of the sequence, or
logits that are not finite.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto

from openvla_ros.errors import InvalidValueError
from openvla_ros.exporting.graph_writer import GraphWriter
from openvla_ros.exporting.language_graphs import LanguageGraph, decode_step, prefill_step
from openvla_ros.exporting.network_weights import NetworkWeights
from openvla_ros.exporting.policy_source import PolicySource
from openvla_ros.exporting.vision_graph import image_embeddings
from openvla_ros.model.network.tokenizer import BOS_ID, EOS_ID
from openvla_ros.preprocessing.action_tokens import ActionCodec, unnormalise
from openvla_ros.preprocessing.dataset_statistics import FieldStatistics
from openvla_ros.values.arrays import Float

POLICY = "policy"
IMAGE, TOKEN_IDS, PROMPT_LENGTH = "image", "token_ids", "prompt_length"
ACTION, ACTION_TOKEN_IDS = "action", "action_token_ids"
_HIGHEST = float(np.finfo(np.float32).max)


def write_policy(
    graph: GraphWriter, source: PolicySource, weights: NetworkWeights, prompt_tokens: int, capacity: int
) -> None:
    """Add image (1, H, W, 3) uint8, token_ids (1, T), prompt_length (1,) → action and action_token_ids (D,).

    The image is what the image transform resizes to. Raises ``InvalidValueError`` if the towers take
    differently resized images.
    """
    transform, patches = source.files.transform, source.files.config.patches
    if len({(tower.size, tower.crop, tower.resampling) for tower in transform.towers}) > 1:
        raise InvalidValueError(f"{source.name}: its vision towers take images of different sizes")
    statistics = source.statistics[source.widest].action
    image = graph.input(IMAGE, (1, *transform.size, 3), np.uint8)
    token_ids = graph.input(TOKEN_IDS, (1, prompt_tokens), np.int64)
    stated = graph.input(PROMPT_LENGTH, (1,), np.int64)
    prompt_length = _clamped(graph, stated, 1, prompt_tokens)
    language = LanguageGraph.of(graph, weights, capacity)
    embeddings = image_embeddings(graph, weights, _pixels(graph, source, image))
    logits, cache = prefill_step(language, embeddings, token_ids, prompt_length)
    rows, chosen = [logits], [_highest(graph, logits)]
    for step in range(statistics.width - 1):
        position = graph.op("Add", prompt_length, graph.constant([patches + step]))
        logits, cache = decode_step(language, graph.reshape(chosen[-1], 1, 1), position, cache)
        rows.append(logits)
        chosen.append(_highest(graph, logits))
    tokens = graph.op("Concat", *chosen, axis=0)
    checks = (
        graph.op("Equal", stated, prompt_length),
        *_prompt_checks(graph, source, token_ids, prompt_length),
        *_output_checks(graph, tokens, graph.op("Concat", *rows, axis=0), statistics.width),
    )
    valid = checks[0]
    for check in checks[1:]:
        valid = graph.op("And", valid, check)
    action = graph.op("Where", valid, _action(graph, source, statistics, tokens), _float(graph, np.nan))
    graph.output(action, ACTION, (statistics.width,))
    graph.output(tokens, ACTION_TOKEN_IDS, (statistics.width,), np.int64)


def _pixels(graph: GraphWriter, source: PolicySource, image: str) -> str:
    towers = source.files.transform.towers
    levels = graph.op("Transpose", graph.op("Cast", image, to=TensorProto.FLOAT), perm=[0, 3, 1, 2])
    scaled = graph.op("Div", levels, _float(graph, 255.0))
    mean, std = (
        _float(graph, np.array([getattr(tower, name) for tower in towers]).reshape(1, -1, 1, 1))
        for name in ("mean", "std")
    )
    stacked = graph.op("Concat", *([scaled] * len(towers)), axis=1)
    return graph.op("Div", graph.op("Sub", stacked, mean), std)


def _highest(graph: GraphWriter, logits: str) -> str:
    """Return the likeliest id (1,) of logits (1, vocabulary)."""
    return graph.op("ArgMax", logits, axis=1, keepdims=0)


def _action(graph: GraphWriter, source: PolicySource, statistics: FieldStatistics, tokens: str) -> str:
    """Return the action (D,) of token ids (D,): looked up in a table of what each bin means."""
    table, last_id = action_table(source, statistics)
    bins = table.shape[1]
    index = _clamped(graph, graph.op("Sub", graph.constant([last_id]), tokens), 0, bins - 1)
    rows = graph.op("Add", graph.constant(bins * np.arange(statistics.width)), index)
    return graph.op("Gather", _float(graph, table.reshape(-1)), rows, axis=0)


def action_table(source: PolicySource, statistics: FieldStatistics) -> tuple[Float, int]:
    """Return what each bin means in each dimension (D, bins), counted down from the last id, and that id."""
    config = source.files.config
    codec = ActionCodec(config.action_vocab_size, config.n_action_bins)
    centers = codec.decode(codec.last_id - np.arange(codec.bins))
    rows = unnormalise(np.repeat(centers[:, None], statistics.width, axis=1), statistics)
    return np.ascontiguousarray(rows.T), codec.last_id


def _prompt_checks(
    graph: GraphWriter, source: PolicySource, token_ids: str, prompt_length: str
) -> tuple[str, str]:
    """Return whether the prompt begins and ends as one, each a bool (1,)."""
    prompt = graph.op("Squeeze", token_ids, graph.constant([0]))
    last = graph.op("Sub", prompt_length, graph.constant([1]))
    end = graph.op("GatherElements", prompt, last, axis=0)
    return (
        graph.op("Equal", graph.slice(prompt, 0, 1, 0), graph.constant([BOS_ID])),
        graph.op("Equal", end, graph.constant([source.files.tokenizer.space_id])),
    )


def _output_checks(graph: GraphWriter, tokens: str, logits: str, width: int) -> tuple[str, str]:
    """Return whether all logits are finite, and whether the sequence did not end early, each a bool (1,)."""
    finite = graph.op("LessOrEqual", graph.op("Abs", logits), _float(graph, _HIGHEST))  # false for NaN
    least = graph.op("ReduceMin", graph.op("Cast", finite, to=TensorProto.INT32), keepdims=0)
    ended = graph.op("Equal", graph.slice(tokens, 0, width - 1, 0), graph.constant([EOS_ID]))
    count = graph.op("ReduceSum", graph.op("Cast", ended, to=TensorProto.INT64), graph.constant([0]))
    return (
        graph.op("Cast", graph.reshape(least, 1), to=TensorProto.BOOL),
        graph.op("Equal", count, graph.constant([0])),
    )


def _clamped(graph: GraphWriter, value: str, low: int, high: int) -> str:
    """Return an int64 ``value`` within ``low`` and ``high``."""
    return graph.op("Min", graph.op("Max", value, graph.constant([low])), graph.constant([high]))


def _float(graph: GraphWriter, values: Any) -> str:
    return graph.constant(values, np.float32)
