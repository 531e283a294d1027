"""What is wrong with a file that a person wrote, key by key: one wording for every file that is validated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError


def validation_lines(error: ValidationError, whole: str) -> list[str]:
    """Return one line for each wrong key: its dotted name, what is wrong, and the value that it has.

    Args:
        error: What pydantic found.
        whole: What to call the file's top level where no single key is at fault, such as "profile".
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
            return "this key is not known here"
        case "value_error":
            return str(item["ctx"]["error"])
        case _:
            return f"{item['msg']} (the value is {item['input']!r})"
