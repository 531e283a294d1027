"""Messages for invalid keys in users' files: one wording for every validated file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError


def validation_lines(error: ValidationError, whole: str) -> list[str]:
    """Return one line for each invalid key: its dotted name, what is wrong, and its value.

    Args:
        error: The error from pydantic.
        whole: Name of the file's top level, used if no single key is at fault, such as "profile".
    """
    return [
        f"{'.'.join(map(str, item['loc'])) or whole}: {_explain(item)}"
        for item in error.errors(include_url=False)
    ]


def _explain(item: Mapping[str, Any]) -> str:
    match item["type"]:
        case "missing":
            return "this key is missing"
        case "unexpected_keyword_argument" | "extra_forbidden":
            return "unknown key"
        case "value_error":
            return str(item["ctx"]["error"])
        case _:
            return f"{item['msg']} (the value is {item['input']!r})"
