"""Validation on held-out episodes: scores, and the model's open-loop actions along an episode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from openvla_ros.model.decoding.greedy import prefill, step
from openvla_ros.model.network.openvla import OpenVLA
from openvla_ros.preprocessing.action_tokens import unnormalise
from openvla_ros.preprocessing.dataset_statistics import FieldStatistics
from openvla_ros.training.data.batch import Batch
from openvla_ros.training.data.batch_order import in_order
from openvla_ros.training.data.example_maker import ExampleMaker
from openvla_ros.values.arrays import Float, Int

BATCH = 32  # examples at once, unless training takes fewer
LONGEST = 512  # steps per validation, spread over all held-out ones


@dataclass(frozen=True, eq=False)
class OpenLoop:
    """One episode: the commanded and the predicted actions."""

    id: str
    instruction: str
    commanded: Float  # (T, D) in the action space's units
    predicted: Float  # (T, D)


def validation_batches(maker: ExampleMaker, rank: int, count: int, size: int) -> Iterator[tuple[Batch, bool]]:
    """Yield this process's part of the held-out steps in batches of up to ``size``, the same every time.

    Every process gets the same number of batches, since the wrappers synchronise in every forward pass; the
    flag is false for a filler batch that must not be counted.
    """
    rows = maker.store.rows(held_out=True)
    if len(rows) > LONGEST:
        rows = rows[np.linspace(0, len(rows) - 1, LONGEST).astype(np.int64)]
    for part in in_order(rows, size * count):
        mine = part[rank::count]
        yield maker.validation_batch((mine if len(mine) else part[:1]).tolist()), bool(len(mine))


@torch.no_grad()
def open_loop(
    network: OpenVLA, maker: ExampleMaker, statistics: FieldStatistics, rows: Int, size: int
) -> Float:
    """Return the actions (T, D) decoded greedily at ``rows`` of one instruction, robot units.

    ``size`` of them are decoded at once.

    The argmax is over the whole vocabulary, as in deployment; ids other than actions count as the end bin
    that they decode to.
    """
    network.eval()
    width, codec = statistics.width, maker.codec
    parts = []
    for part in in_order(rows, size):
        batch = maker.validation_batch(part.tolist())
        prompt = batch.token_ids[:, : -(width + 1)]
        logits, cache = prefill(network, network.embed(batch.pixels, prompt))
        chosen = [logits.argmax(dim=-1)]
        while len(chosen) < width:
            chosen.append(step(network, chosen[-1][:, None], cache).argmax(dim=-1))
        ids = torch.stack(chosen, dim=1).cpu().numpy()
        parts.append(unnormalise(codec.decode(ids), statistics))
    return np.concatenate(parts)


def open_loop_episodes(
    network: OpenVLA, maker: ExampleMaker, statistics: FieldStatistics, most: int, size: int
) -> list[OpenLoop]:
    """Return up to ``most`` held-out episodes, or training episodes if none are held out."""
    store = maker.store
    spans = [span for span in store.spans if span.held_out] or list(store.spans)
    episodes = []
    for span in spans[:most]:
        rows = np.arange(span.start, span.stop)
        predicted = open_loop(network, maker, statistics, rows, size)
        episodes.append(OpenLoop(span.id, store.instruction(span.start), store.actions[rows], predicted))
    return episodes
