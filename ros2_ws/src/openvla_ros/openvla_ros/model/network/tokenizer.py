"""A checkpoint's tokenizer: text to Llama token ids, with the id that ends every action prompt.

Reads ``tokenizer.json`` with the ``tokenizers`` library alone: exact, and no code from a checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from openvla_ros.errors import CheckpointError
from openvla_ros.integrity.checksums import verify

BOS_ID = 1
EOS_ID = 2
# A bare word boundary. Training put it between "Out:" and the first action token, so a prompt without
# it gives other actions.
SPACE = "▁"
# Its id in Llama-2's vocabulary of 32000 pieces, which every published checkpoint has. A small model
# with a vocabulary of its own has it elsewhere.
LLAMA_SIZE, LLAMA_SPACE_ID = 32000, 29871


class PromptTokenizer:
    """Turns prompts into token ids, and generated ids back into text."""

    def __init__(self, tokenizer: Tokenizer, source: str) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.space_id = _space_id(tokenizer, source)
        if tokenizer.encode("a").ids[:1] != [BOS_ID]:
            raise CheckpointError(f"{source}: the tokenizer does not put the BOS id {BOS_ID} first")
        self._tokenizer = tokenizer

    @classmethod
    def from_folder(cls, folder: Path) -> PromptTokenizer:
        """Return the tokenizer of the checkpoint in ``folder``; raises ``CheckpointError``."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(f"{folder} has no tokenizer.json")
        verify(path)
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise CheckpointError(f"{path}: not a tokenizer: {error}") from error
        return cls(tokenizer, str(path))

    @property
    def size(self) -> int:
        """Size of the vocabulary, added tokens included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str) -> list[int]:
        """Return the ids of ``text``, BOS first."""
        return list(self._tokenizer.encode(text).ids)

    def encode_prompt(self, prompt: str) -> list[int]:
        """Return the ids of an action prompt: BOS first, ``space_id`` last."""
        ids = self.encode(prompt)
        return ids if ids[-1] == self.space_id else [*ids, self.space_id]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of generated ids, without special tokens."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))


def _space_id(tokenizer: Tokenizer, source: str) -> int:
    space_id = tokenizer.token_to_id(SPACE)
    if space_id is None:
        raise CheckpointError(f"{source}: no token is {SPACE!r}, which ends every action prompt")
    if tokenizer.get_vocab_size(with_added_tokens=False) >= LLAMA_SIZE and space_id != LLAMA_SPACE_ID:
        raise CheckpointError(
            f"{source}: {SPACE!r}, which ends every action prompt, is token {space_id}; in Llama-2's "
            f"vocabulary it is {LLAMA_SPACE_ID}"
        )
    return int(space_id)
