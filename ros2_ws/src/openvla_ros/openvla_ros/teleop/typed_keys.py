"""The letters that a person typed, without the sequences that a terminal sends for other keys.

A terminal sends an arrow, Home, Delete or F1 as an escape character followed by ordinary characters: the
down arrow is ``ESC [ B`` (ECMA-48; F1 to F4 and keypads ``ESC O x``, F1 to F5 of the Linux console
``ESC [ [ A``). Read as letters, an arrow would hand the arm back to the policy.
"""

from __future__ import annotations

import re

ESCAPE = "\x1b"
# A sequence that is cut in two arrives within this time; what comes later was typed by a person.
CUT_S = 0.05
_WHOLE = re.compile(r"\x1b(?:\[\[[A-E]|\[[0-?]*[ -/]*[@-Z\\-~]|O[0-9;]*[@-~])")
_BEGUN = re.compile(r"\x1b(?:\[\[?|\[[0-?]+[ -/]*|\[[ -/]+|O[0-9;]*)?$")


class TypedKeys:
    """Removes escape sequences from what a terminal sends, one read after another."""

    def __init__(self) -> None:
        self._begun = ""  # a sequence whose end has not arrived
        self._begun_at_s = 0.0

    def feed(self, text: str, now_s: float) -> str:
        """Return the keys in ``text``, read at ``now_s`` of a steady clock.

        The Escape key itself is returned as ``ESCAPE``, at once: if it turns out to begin a sequence, the
        rest of that is removed.
        """
        begun = self._begun if now_s - self._begun_at_s <= CUT_S else ""
        whole = begun + text
        if not text:
            self._begun = begun
            return ""
        cut = _BEGUN.search(whole)
        self._begun = "" if cut is None else cut[0]
        self._begun_at_s = now_s
        keys = _WHOLE.sub("", whole[: cut.start()] if cut else whole)
        # An Escape that was returned already is not returned again.
        if begun == ESCAPE and keys.startswith(ESCAPE):
            keys = keys[1:]
        alone = self._begun == ESCAPE and begun != ESCAPE
        return keys + (ESCAPE if alone else "")
