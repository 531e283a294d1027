"""The plain greedy decoder: the reference for every faster one.

One prefill over [BOS, patches, text], then one pass per token with a growing key-value cache. The
argmax runs over the whole vocabulary, as in the original. Also here: the model's confidence, over
the action bins alone, and text generation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from openvla_ros.errors import ModelOutputError
from openvla_ros.model.network.openvla import OpenVLA
from openvla_ros.model.network.tokenizer import EOS_ID
from openvla_ros.preprocessing.action_tokens import ActionCodec
from openvla_ros.values.arrays import Float, Int, read_only

COLUMNS = 5  # of an action table


@dataclass(frozen=True, eq=False)
class ActionTokens:
    """The tokens of one action (or several consecutive ones), and the model's confidence in each."""

    token_ids: Int  # (N,)
    probability: Float  # (N,) of the chosen bin, among the action bins, 0..1
    entropy: Float  # (N,) of the distribution over the action bins, nats
    normalised: Float  # (N,) what the tokens mean: bin centers, -1..1


class Decoder(Protocol):
    """Turns one transformed image and one tokenised prompt into action tokens."""

    @property
    def only_action_tokens(self) -> bool:
        """Whether the argmax runs over the action bins only, see ``decode_greedily``."""
        ...

    def decode(self, pixels: Tensor, token_ids: Tensor, count: int) -> ActionTokens:
        """Return ``count`` tokens for pixels (1, 3 a tower, H, W) and prompt ids (1, L).

        Raises ``ModelOutputError`` if the output is not an action.
        """
        ...

    def prepare(self, text_tokens: int, count: int) -> bool:
        """Prepare (on CUDA: capture) the stages for prompts of this length.

        Returns True if something had to be captured.
        """
        ...

    def forget(self) -> None:
        """Reset the decoder: forget the previous actions."""
        ...


@dataclass(frozen=True, eq=False)
class GreedyDecoder:
    """The reference decoder: embed, prefill, one pass a token."""

    model: OpenVLA
    only_action_tokens: bool = False  # see decode_greedily

    @torch.inference_mode()
    def decode(self, pixels: Tensor, token_ids: Tensor, count: int) -> ActionTokens:
        """Return ``count`` tokens for one image and prompt."""
        embeddings = self.model.embed(pixels, token_ids)
        return decode_greedily(self.model, embeddings, count, only_action_tokens=self.only_action_tokens)

    def prepare(self, text_tokens: int, count: int) -> bool:
        """Do nothing: this decoder needs no preparation."""
        return False

    def forget(self) -> None:
        """Do nothing: this decoder keeps no state between actions."""


def prefill(model: OpenVLA, embeddings: Tensor) -> tuple[Tensor, DynamicCache]:
    """Return the next token's logits (B, vocabulary) after ``embeddings`` (B, N, H), and the cache."""
    cache = DynamicCache(config=model.language_model.config)
    return _advance(model, embeddings, cache), cache


def step(model: OpenVLA, token_ids: Tensor, cache: DynamicCache) -> Tensor:
    """Append ``token_ids`` (B, 1) to ``cache`` and return the next token's logits (B, vocabulary)."""
    return _advance(model, model.text_embeddings(token_ids), cache)


def _advance(model: OpenVLA, embeddings: Tensor, cache: DynamicCache) -> Tensor:
    output = model.language_model.model(inputs_embeds=embeddings, past_key_values=cache, use_cache=True)
    logits: Tensor = model.language_model.lm_head(output.last_hidden_state[:, -1])
    return logits


@torch.inference_mode()
def decode_greedily(
    model: OpenVLA, embeddings: Tensor, count: int, *, only_action_tokens: bool = False
) -> ActionTokens:
    """Return ``count`` tokens for one embedded prompt (1, N, H).

    ``only_action_tokens`` takes the argmax over the action bins instead of the whole vocabulary; the
    result then is always an action, but not always the original's.
    Raises ``ModelOutputError`` on non-finite logits and if the sequence ends before the last token.
    """
    logits, cache = prefill(model, embeddings)
    rows, chosen = [logits], [choose(model, logits, only_action_tokens)]
    while len(chosen) < count:
        logits = step(model, chosen[-1][:, None], cache)
        rows.append(logits)
        chosen.append(choose(model, logits, only_action_tokens))
    return action_tokens(model, torch.cat(rows), torch.cat(chosen))


def choose(model: OpenVLA, logits: Tensor, only_action_tokens: bool) -> Tensor:
    """Return the likeliest token id (B,) of each row of ``logits`` (B, vocabulary)."""
    if not only_action_tokens:
        return logits.argmax(dim=-1)
    ids = model.config.action_ids
    return logits[:, ids.start : ids.stop].argmax(dim=-1) + ids.start


def action_tokens(model: OpenVLA, logits: Tensor, chosen: Tensor) -> ActionTokens:
    """Check ``chosen`` (N,) ids and their ``logits`` (N, vocabulary); return them with their confidence.

    All numbers come from the device in one transfer. Raises ``ModelOutputError``.
    """
    return read_table(action_table(model, logits, chosen, bin_centers(model)).cpu())


def bin_centers(model: OpenVLA) -> Tensor:
    """Return the codec's bin centers (bins - 1,) float64 on the device of ``model``."""
    codec = ActionCodec(model.config.action_vocab_size, model.config.n_action_bins)
    return torch.tensor(codec.centers, device=model.device)


def action_table(model: OpenVLA, logits: Tensor, chosen: Tensor, centers: Tensor) -> Tensor:
    """Return the action table of ``chosen`` (N,) ids and ``logits`` (N, vocabulary), float64 (N, COLUMNS).

    The columns are token id, probability, entropy, bin center and highest logit; ``centers`` are
    those of ``bin_centers``. Does not synchronise with the device.
    """
    probability, entropy = certainty(model, logits, chosen)
    highest = logits.amax(dim=-1)  # a NaN anywhere in a row becomes its maximum
    index = (model.config.action_vocab_size - 1 - chosen).clamp(0, len(centers) - 1)
    columns = (chosen, probability, entropy, centers[index], highest)
    return torch.stack([value.double() for value in columns], dim=1)


def read_table(table: Tensor) -> ActionTokens:
    """Check an action table (N, COLUMNS) that was copied from the device; raises ``ModelOutputError``."""
    rows = table.numpy()
    for position, row in enumerate(rows):
        if not np.isfinite(row).all():
            raise ModelOutputError(f"the logits of action token {position} are not finite")
    token_ids = rows[:, 0].astype(np.int64)
    early = np.flatnonzero(token_ids[:-1] == EOS_ID)
    if early.size:
        raise ModelOutputError(
            f"the model ended the sequence at action token {early[0]} of {len(token_ids)}; "
            "this prompt or image is unlike what it was trained on"
        )
    return ActionTokens(read_only(token_ids), *(read_only(rows[:, column]) for column in (1, 2, 3)))


def certainty(model: OpenVLA, logits: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Return probability (N,) of the chosen bins and entropy (N,), nats, over the action bins alone.

    An id outside the bins counts as the end bin that it decodes to.
    """
    ids = model.config.action_ids
    log_probability = logits[:, ids.start : ids.stop].float().log_softmax(dim=-1)
    bins = chosen.clamp(ids.start, ids.stop - 1) - ids.start
    probability = log_probability.gather(1, bins[:, None])[:, 0].exp()
    # xlogy keeps a bin of probability 0 at 0 instead of NaN.
    entropy = -(log_probability.exp() * log_probability.clamp_min(-1e4)).sum(dim=-1)
    return probability, entropy


@torch.inference_mode()
def generate_text(model: OpenVLA, embeddings: Tensor, max_tokens: int) -> list[int]:
    """Return the greedy continuation of one embedded prompt (1, N, H) up to the end of sequence."""
    logits, cache = prefill(model, embeddings)
    token_ids: list[int] = []
    while len(token_ids) < max_tokens:
        if not bool(logits.amax().isfinite()):
            raise ModelOutputError(f"the logits of token {len(token_ids)} are not finite")
        token = logits.argmax(dim=-1)
        if int(token) == EOS_ID:
            break
        token_ids.append(int(token))
        logits = step(model, token[:, None], cache)
    return token_ids
