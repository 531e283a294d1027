"""The steady decoder: token by token like the plain one, but as a single stage of constant duration.

The prompt's pass and the passes for all tokens but the last are one stage: on a CUDA device one graph,
with one transfer at its end. Use it where the fast decoder's guesses are poor, or where constant latency
matters more than speed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openvla_ros.model.decoding.engine import Engine, PromptKey
from openvla_ros.model.decoding.greedy import COLUMNS, ActionTokens, action_table, choose, read_table
from openvla_ros.model.decoding.staged_decoder import StagedDecoder


class SteadyDecoder(StagedDecoder["_Action"]):
    """Decodes every action with the same number of passes."""

    @torch.inference_mode()
    def decode_embedded(self, embeddings: Tensor, count: int) -> ActionTokens:
        """Return ``count`` tokens for one embedded prompt (1, N, H).

        Raises ``ModelOutputError`` as the plain decoder does.
        """
        action = self.prompts.of(embeddings.shape[1], count)
        action.prompt.copy_(embeddings[0])
        action.run()
        return read_table(self.engine.stages.read(action.table))

    def lay_out(self, key: PromptKey) -> _Action:
        """Return the tensors and the stage of one length of prompt."""
        return _Action(self.engine, key, self.only_action_tokens)


class _Action:
    """The tensors and the one stage of one prompt length."""

    def __init__(self, engine: Engine, key: PromptKey, only_action_tokens: bool) -> None:
        model = engine.model
        self._engine, self._key = engine, key
        self._only_action_tokens = only_action_tokens
        self._maps = engine.llama.maps  # captured stages keep reading these tensors
        width = model.config.text_config.hidden_size
        self.prompt = torch.zeros(key.length, width, dtype=model.dtype, device=model.device)
        self.table = torch.zeros(key.count, COLUMNS, dtype=torch.float64, device=model.device)
        self.run = engine.stages.prepare(self._decode)

    def _decode(self) -> None:
        engine, key = self._engine, self._key
        rows = [engine.llama.logits(self.prompt, start=0, rows=1)]
        chosen = [choose(engine.model, rows[-1], self._only_action_tokens)]
        while len(chosen) < key.count:
            embedded = engine.model.text_embeddings(chosen[-1])
            place = key.length + len(chosen) - 1
            rows.append(engine.llama.logits(embedded, start=place, rows=1))
            chosen.append(choose(engine.model, rows[-1], self._only_action_tokens))
        logits, ids = torch.cat(rows), torch.cat(chosen)
        self.table.copy_(action_table(engine.model, logits, ids, engine.centers))
