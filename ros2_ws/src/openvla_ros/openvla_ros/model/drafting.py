"""The fast decoder: guess the whole action, let the prefill verify it, and guess again what was wrong.

The guessed tokens stand behind the prompt, so that the one pass which the prompt needs anyway also
gives the logits after each guess. Up to the first wrong guess all tokens are certain, and the token
at the wrong place is known too. The rest is guessed again from the same logits (Jacobi decoding,
arXiv 2305.10427) and verified in a short pass. At worst there are as many passes as in plain
decoding. Verification as in speculative decoding: Leviathan et al., arXiv 2211.17192; greedy, hence
the plain decoder's own tokens.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import Tensor

from openvla_ros.model.decoding import ActionTokens, action_tokens, choose
from openvla_ros.model.openvla import OpenVLA
from openvla_ros.model.static_llama import StaticLlama


@dataclass
class Acceptance:
    """How well the guesses were, since the decoder was made."""

    actions: int = 0
    passes: Counter[int] = field(default_factory=Counter)  # passes after the prefill → actions
    guessed: int = 0  # tokens guessed in prefills
    right: int = 0  # of those, the ones that stood before the first wrong one

    def note(self, extra_passes: int, guessed: int, right: int) -> None:
        """Count one action."""
        self.actions += 1
        self.passes[extra_passes] += 1
        self.guessed += guessed
        self.right += right

    @property
    def share(self) -> float:
        """Share of the guessed tokens that were accepted at once, 0..1."""
        return self.right / self.guessed if self.guessed else 0.0

    @property
    def mean_extra_passes(self) -> float:
        """Passes after the prefill that an action took on average; plain decoding takes D - 1."""
        return sum(n * count for n, count in self.passes.items()) / self.actions if self.actions else 0.0


class DraftingDecoder:
    """Decodes one action after the other; the previous one is the guess for the next."""

    def __init__(self, model: OpenVLA, only_action_tokens: bool = False) -> None:
        self._model = model
        self._llama = StaticLlama(model)
        self._only_action_tokens = only_action_tokens
        self._previous: Tensor | None = None  # (count,) tokens of the last action
        self.acceptance = Acceptance()

    @torch.inference_mode()
    def decode(self, pixels: Tensor, token_ids: Tensor, count: int) -> ActionTokens:
        """Return ``count`` tokens for one image and prompt: the plain decoder's."""
        return self.decode_embedded(self._model.embed(pixels, token_ids), count)

    @torch.inference_mode()
    def decode_embedded(self, embeddings: Tensor, count: int, guess: Tensor | None = None) -> ActionTokens:
        """Return ``count`` tokens for one embedded prompt (1, N, H).

        ``guess`` (count - 1,) token ids replaces the decoder's own guess. Raises ``ModelOutputError``
        as the plain decoder does.
        """
        length = embeddings.shape[1]
        self._llama.reserve(length + count - 1)
        guess = self._guess(count) if guess is None else guess.to(embeddings.device)
        embedded = torch.cat([embeddings, self._model.text_embeddings(guess[None])], dim=1)
        logits = self._llama.logits(embedded, start=0, rows=count)
        chosen = choose(self._model, logits, self._only_action_tokens)
        certain = right = _agreeing(chosen, guess)
        extra_passes = 0
        while certain < count - 1:
            # Row ``certain`` follows the last guess that was right, so its token is certain as well.
            # It and the new guesses behind it go through once more.
            again = chosen[certain:-1]
            fresh = self._llama.logits(
                self._model.text_embeddings(again[None]), start=length + certain, rows=len(again)
            )
            logits = torch.cat([logits[: certain + 1], fresh])
            chosen = choose(self._model, logits, self._only_action_tokens)
            certain += 1 + _agreeing(chosen[certain + 1 :], again[1:])
            extra_passes += 1
        self.acceptance.note(extra_passes, count - 1, right)
        self._previous = chosen
        return action_tokens(self._model, logits, chosen)

    def _guess(self, count: int) -> Tensor:
        """Return the previous action's tokens (count - 1,), or "no motion" before there is one."""
        if self._previous is None or len(self._previous) != count:
            ids = self._model.config.action_ids
            return torch.full((count - 1,), ids.start + len(ids) // 2, device=self._model.device)
        return self._previous[:-1]


def _agreeing(chosen: Tensor, guess: Tensor) -> int:
    """Return how many of ``guess`` (G,) are right before the first wrong one."""
    same = (chosen[: len(guess)] == guess).int()
    return int(same.cumprod(0).sum())
