"""The fast decoder: guess the whole action, verify it in the prefill, and guess the wrong part again.

The guessed tokens are appended to the prompt, so that the pass that the prompt needs anyway also computes
the logits after each guess. Up to the first wrong guess all tokens are verified, and the token at that
position is known too. The rest is guessed again from the same logits (Jacobi decoding,
arXiv 2305.10427) and verified in a short pass. At worst it takes as many passes as plain decoding; where
a pass over more tokens takes longer (on a CPU), guessing ends after a second guess that was all wrong, and
the rest is decoded token by token. Verification as in speculative decoding: Leviathan et al.,
arXiv 2211.17192; greedy, hence the plain decoder's own tokens.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from openvla_ros.model.decoding.engine import Engine, PromptKey
from openvla_ros.model.decoding.greedy import COLUMNS, ActionTokens, action_table, choose, read_table
from openvla_ros.model.decoding.staged_decoder import StagedDecoder
from openvla_ros.model.kernels.cuda_graphs import Work
from openvla_ros.model.network.openvla import OpenVLA


@dataclass
class Acceptance:
    """Acceptance of the guesses since the decoder was created or reset."""

    actions: int = 0
    passes: Counter[int] = field(default_factory=Counter)  # passes after the prefill → actions
    guessed: int = 0  # tokens guessed in prefills
    right: int = 0  # those before the first wrong one

    def note(self, extra_passes: int, guessed: int, right: int) -> None:
        """Count one action."""
        self.actions += 1
        self.passes[extra_passes] += 1
        self.guessed += guessed
        self.right += right

    @property
    def share(self) -> float:
        """Fraction of guessed tokens that were accepted immediately, 0..1."""
        return self.right / self.guessed if self.guessed else 0.0

    @property
    def mean_extra_passes(self) -> float:
        """Average number of passes per action after the prefill; plain decoding takes D - 1."""
        return sum(n * count for n, count in self.passes.items()) / self.actions if self.actions else 0.0


class DraftingDecoder(StagedDecoder["Draft"]):
    """Decodes actions in sequence; the previous one is the guess for the next."""

    def __init__(
        self, model: OpenVLA, only_action_tokens: bool = False, engine: Engine | None = None
    ) -> None:
        super().__init__(model, only_action_tokens, engine)
        self.forget()

    def forget(self) -> None:
        """Reset the previous action and the counts."""
        self._previous: Tensor | None = None  # (count,) tokens of the last action
        self.acceptance = Acceptance()

    @property
    def last(self) -> Tensor | None:
        """The last action's tokens (count,), which the next ones are guessed from; another's may be set."""
        return self._previous

    @last.setter
    def last(self, tokens: Tensor | None) -> None:
        self._previous = None if tokens is None else tokens.to(self.model.device)

    @torch.inference_mode()
    def decode_embedded(self, embeddings: Tensor, count: int, guess: Tensor | None = None) -> ActionTokens:
        """Return ``count`` tokens for one embedded prompt (1, N, H).

        ``guess`` (count - 1,) token ids replaces the decoder's own guess. Raises ``ModelOutputError``
        as the plain decoder does.
        """
        draft = self.prompts.of(embeddings.shape[1], count)
        draft.prompt.copy_(embeddings[0])
        draft.guess.copy_(self._guess(count) if guess is None else guess)
        draft.first()
        extra_passes, result = 0, self.engine.stages.read(draft.result)
        right = certain = int(result[-1])
        while certain < count - 1:
            before = certain
            draft.again(certain)
            extra_passes, result = extra_passes + 1, self.engine.stages.read(draft.result)
            certain = int(result[-1])
            if certain == before + 1 < count - 1 and not self.engine.stages.fixed:
                extra_passes += draft.one_by_one(certain)
                result, certain = self.engine.stages.read(draft.result), count - 1
        self.acceptance.note(extra_passes, count - 1, right)
        self._previous = draft.chosen.clone()
        return read_table(result[:-1].view(count, COLUMNS))

    def lay_out(self, key: PromptKey) -> Draft:
        """Return the tensors and the stages of one length of prompt."""
        return Draft(self.engine, key, self.only_action_tokens)

    def _guess(self, count: int) -> Tensor:
        """Return the previous action's tokens (count - 1,), or "no motion" before there is one."""
        if self._previous is None or len(self._previous) != count:
            ids = self.model.config.action_ids
            return torch.full((count - 1,), ids.start + len(ids) // 2, device=self.model.device)
        return self._previous[:-1]


class Draft:
    """The tensors and the stages of one prompt length.

    ``result`` contains the action table, row by row, followed by the number of verified guesses: those
    before the first wrong one.
    """

    def __init__(self, engine: Engine, key: PromptKey, only_action_tokens: bool) -> None:
        model, length, count = engine.model, key.length, key.count
        self._engine, self._length, self._count = engine, length, count
        self._only_action_tokens = only_action_tokens
        self._places = torch.arange(count, device=model.device)
        self._maps = engine.llama.maps  # captured stages keep reading these tensors
        text = model.config.text_config
        self.prompt = torch.zeros(length, text.hidden_size, dtype=model.dtype, device=model.device)
        self.guess = torch.zeros(count - 1, dtype=torch.int64, device=model.device)
        self.chosen = torch.zeros(count, dtype=torch.int64, device=model.device)
        self.result = torch.zeros(count * COLUMNS + 1, dtype=torch.float64, device=model.device)
        self._certain = torch.zeros((), dtype=torch.int64, device=model.device)
        self._logits = torch.zeros(count, text.vocab_size, dtype=model.dtype, device=model.device)
        self.first = engine.stages.prepare(self._first)
        self._agains: dict[int, Work] = {}
        if engine.stages.fixed:
            self._agains[count - 1] = engine.stages.prepare(partial(self._again, count - 1))

    def again(self, certain: int) -> None:
        """Verify the chosen tokens once more, given that the first ``certain`` + 1 are verified.

        A captured stage always processes all of them: that costs the same, and verified rows do not change.
        """
        tokens = self._count - 1 if self._engine.stages.fixed else self._count - 1 - certain
        if tokens not in self._agains:
            self._agains[tokens] = self._engine.stages.prepare(partial(self._again, tokens))
        self._agains[tokens]()

    def one_by_one(self, certain: int) -> int:
        """Decode the tokens after the first ``certain`` + 1, one per pass; return the number of passes."""
        model, steps = self._engine.model, range(certain, self._count - 1)
        for place in steps:
            embedded = model.text_embeddings(self.chosen[place : place + 1])
            follows = slice(place + 1, place + 2)
            self._logits[follows] = self._engine.llama.logits(embedded, start=self._length + place, rows=1)
            self.chosen[follows] = choose(model, self._logits[follows], self._only_action_tokens)
        self._certain.fill_(self._count - 1)
        self._tell()
        return len(steps)

    def _first(self) -> None:
        """The prompt and the guess in one pass: logits after the prompt and after each guessed token."""
        guessed = self._engine.model.text_embeddings(self.guess)
        embedded = torch.cat([self.prompt, guessed])
        self._logits.copy_(self._engine.llama.logits(embedded, start=0, rows=self._count))
        self.chosen.copy_(choose(self._engine.model, self._logits, self._only_action_tokens))
        self._certain.copy_(_leading(self.chosen[:-1] == self.guess))
        self._tell()

    def _again(self, tokens: int) -> None:
        """The last ``tokens`` of the chosen tokens but one, as new guesses, in a short pass.

        Row ``certain`` follows the last correct guess, so its token is verified as well.
        """
        model, places = self._engine.model, self._places
        guess = self.chosen[:-1].clone()
        fresh = self._engine.llama.logits(
            model.text_embeddings(guess[-tokens:]), start=self._length + self._count - 1 - tokens, rows=tokens
        )
        keep = (places[-tokens:] <= self._certain)[:, None]
        self._logits[-tokens:] = torch.where(keep, self._logits[-tokens:], fresh)
        self.chosen.copy_(choose(model, self._logits, self._only_action_tokens))
        same = (self.chosen[:-1] == guess) | (places[:-1] <= self._certain)
        self._certain.copy_(_leading(same))
        self._tell()

    def _tell(self) -> None:
        table = action_table(self._engine.model, self._logits, self.chosen, self._engine.centers)
        self.result[:-1] = table.flatten()
        self.result[-1] = self._certain


def _leading(right: Tensor) -> Tensor:
    """Return how many of ``right`` (G,) are true before the first that is not."""
    return right.long().cumprod(0).sum()
