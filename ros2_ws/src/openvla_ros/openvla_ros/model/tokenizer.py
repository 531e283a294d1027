"""The tokenizer of a checkpoint: text to Llama token ids, with the id that every action prompt ends in.

Reads ``tokenizer.json`` with the ``tokenizers`` library alone: exact, and no code from a checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from openvla_ros.errors import CheckpointError

BOS_ID = 1
EOS_ID = 2
# "▁", a bare word boundary. Training put it between "Out:" and the first action token, so a prompt
# without it gives other actions.
SPACE_ID = 29871


class PromptTokenizer:
    """Turns prompts into token ids, and generated ids back into text."""

    def __init__(self, tokenizer: Tokenizer, source: str) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        if tokenizer.id_to_token(SPACE_ID) != "▁":
            raise CheckpointError(
                f"{source}: token {SPACE_ID} is {tokenizer.id_to_token(SPACE_ID)!r}; in a Llama-2 "
                "vocabulary it is '▁', which ends every action prompt"
            )
        if tokenizer.encode("a").ids[:1] != [BOS_ID]:
            raise CheckpointError(f"{source}: the tokenizer does not put the BOS id {BOS_ID} first")
        self._tokenizer = tokenizer

    @classmethod
    def from_folder(cls, folder: Path) -> PromptTokenizer:
        """Return the tokenizer of the checkpoint in ``folder``; raises ``CheckpointError``."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(f"{folder} has no tokenizer.json")
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise CheckpointError(f"{path}: not a tokenizer: {error}") from error
        return cls(tokenizer, str(path))

    @property
    def size(self) -> int:
        """How many ids the vocabulary has, the added ones included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str) -> list[int]:
        """Return the ids of ``text``, BOS first."""
        return list(self._tokenizer.encode(text).ids)

    def encode_prompt(self, prompt: str) -> list[int]:
        """Return the ids of an action prompt: BOS first, ``SPACE_ID`` last."""
        ids = self.encode(prompt)
        return ids if ids[-1] == SPACE_ID else [*ids, SPACE_ID]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of generated ids, without special tokens."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))
