"""The fast decoder for several robots at once: one prefill and a few short passes for all of them.

As in ``speculative``, each sequence is its prompt followed by a guess of the action, verified in the prefill
and, where it was wrong, guessed again from the same logits. Later passes are over the sequences that are not
certain yet. Every sequence gets the tokens that it gets alone, up to
ties within rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from openvla_ros.errors import ModelOutputError
from openvla_ros.model.decoding.engine import Engine
from openvla_ros.model.decoding.greedy import COLUMNS, ActionTokens, action_table, choose, read_table
from openvla_ros.model.kernels.batched_llama import BatchedLlama
from openvla_ros.model.network.lora_delta import ActiveAdapter
from openvla_ros.model.network.pixels import upload


@dataclass(frozen=True, eq=False)
class Sequel:
    """What is known of one sequence besides its image."""

    token_ids: Tensor  # (L,) of the prompt, BOS first
    adapter: ActiveAdapter | None
    last: Tensor | None = None  # (count,) on the CPU, the robot's last action: the guess for this one


@dataclass(frozen=True, eq=False)
class DecodedAction:
    """One sequence's action."""

    tokens: ActionTokens | ModelOutputError
    chosen: Tensor  # (count,) the ids, for the next guess
    accepted: int  # tokens of the guess that were right from the first on


class BatchedDecoder:
    """Decodes the actions of several sequences together, on the weights of ``engine``."""

    def __init__(self, engine: Engine, only_action_tokens: bool = False) -> None:
        self._engine, self._only_action_tokens = engine, only_action_tokens
        self._llama = BatchedLlama(engine.model, engine.llama)

    @torch.inference_mode()
    def decode(self, image: Tensor, sequels: Sequence[Sequel], count: int) -> list[DecodedAction]:
        """Return ``count`` tokens for each of R sequences, in their order.

        ``image`` (R, patches, H) are the images' embeddings. A sequence whose output is not an action has its
        ``ModelOutputError`` in place of tokens; the others are not affected.
        """
        model, device = self._engine.model, image.device
        maps = self._llama.maps([sequel.adapter for sequel in sequels])
        guesses = [self._guess(sequel, count) for sequel in sequels]
        guess = upload(torch.stack(guesses), device)
        ids = [torch.cat([sequel.token_ids, row]) for sequel, row in zip(sequels, guesses, strict=True)]
        lengths = upload(torch.tensor([len(s.token_ids) for s in sequels]), device) + image.shape[1]
        embedded = model.join(image, model.text_embeddings(upload(pad_sequence(ids, True), device)))
        logits = self._llama.begin(maps, embedded, lengths, count - 1)
        chosen, places = self._choose(logits), torch.arange(count, device=device)
        certain = _leading(chosen[:, :-1] == guess)
        accepted = certain.clone()
        while open_rows := [row for row, known in enumerate(certain.tolist()) if known < count - 1]:
            rows = None if len(open_rows) == len(sequels) else upload(torch.tensor(open_rows), device)
            picked = slice(None) if rows is None else rows
            known, guess = certain[picked], chosen[picked]
            least = int(known.min())
            maps = self._llama.maps([sequels[row].adapter for row in open_rows])
            again = model.text_embeddings(guess[:, least:-1])
            fresh = self._llama.go_on(maps, again, least, rows)
            later = slice(least + 1, None)  # the tokens that this pass has logits for
            keep = places[later] <= known[:, None]
            after = torch.where(keep, guess[:, later], self._choose(fresh))
            right = keep[:, :-1] | (after[:, :-1] == guess[:, least + 1 : -1])
            logits[picked, later] = torch.where(keep[..., None], logits[picked, later], fresh)
            chosen[picked, later], certain[picked] = after, least + 1 + _leading(right)
        table = action_table(model, logits.flatten(0, 1), chosen.flatten(), self._engine.centers)
        tables = self._engine.stages.read(table).view(len(sequels), count, COLUMNS)
        return [
            DecodedAction(_tokens(table), ids, right)
            for table, ids, right in zip(tables, chosen.cpu(), accepted.tolist(), strict=True)
        ]

    def _guess(self, sequel: Sequel, count: int) -> Tensor:
        """Return the last action's tokens (count - 1,) on the CPU, or "no motion" before there is one."""
        if sequel.last is None or len(sequel.last) != count:
            ids = self._engine.model.config.action_ids
            return torch.full((count - 1,), ids.start + len(ids) // 2)
        return sequel.last[:-1]

    def _choose(self, logits: Tensor) -> Tensor:
        chosen = choose(self._engine.model, logits.flatten(0, 1), self._only_action_tokens)
        return chosen.view(logits.shape[:2])


def _leading(right: Tensor) -> Tensor:
    """Return how many of ``right`` (R, G) are true before the first of its row that is not (R,)."""
    return right.long().cumprod(1).sum(1)


def _tokens(table: Tensor) -> ActionTokens | ModelOutputError:
    try:
        return read_table(table)
    except ModelOutputError as error:
        return error
