"""Values that a person must put into a file before it may be used, and how those that are left are found.

A placeholder is a text that begins with ``FILL IN``, wherever a value stands; what follows says what belongs
there. It is looked for before anything else is checked, so that it can never pass as a topic or a name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

MARK = "FILL IN"


def placeholder(what: str) -> str:
    """Return the value that stands for ``what`` until a person fills it in."""
    return f"{MARK}: {what}"


def unfilled(data: Any) -> list[str]:
    """Return one line for each placeholder in ``data`` (mappings, lists, values): dotted key and text."""
    return [f"{'.'.join(key)}: {text}" for key, text in _placeholders(data, ())]


def _placeholders(data: Any, key: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(data, str) and data.startswith(MARK):
        yield key, data
    elif isinstance(data, Mapping):
        for name, value in data.items():
            yield from _placeholders(value, (*key, str(name)))
    elif isinstance(data, (list, tuple)):
        for index, value in enumerate(data):
            yield from _placeholders(value, (*key, str(index)))
