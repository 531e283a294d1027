"""Formats tables, types and values for the reference pages; used by ``write_reference.py``."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    lines += [f"| {' | '.join(cell(value) for value in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def cell(text: str) -> str:
    """Return ``text`` as a table cell: one line, with bars escaped."""
    return " ".join(text.replace("|", "\\|").replace("``", "`").split())


def parts_of(hint: Any) -> list[type]:
    """Return the dataclasses in a type, such as the one in ``tuple[CameraProfile, ...]``."""
    if isinstance(hint, type) and is_dataclass(hint):
        return [hint]
    return [part for argument in typing.get_args(hint) for part in parts_of(argument)]


def constraints(hint: Any) -> Iterator[str]:
    """Yield the constraints in the annotations inside ``hint``."""
    if typing.get_origin(hint) is typing.Literal:
        yield ", ".join(f"`{value}`" for value in typing.get_args(hint))
        return
    for note in getattr(hint, "__metadata__", ()):
        for limit in getattr(note, "metadata", ()):
            for sign, name in (("> ", "gt"), ("≥ ", "ge"), ("< ", "lt"), ("≤ ", "le")):
                if hasattr(limit, name):
                    yield f"{sign}{getattr(limit, name):g}"
            if pattern := getattr(limit, "pattern", None):
                yield f"`{pattern}`"
    for argument in typing.get_args(hint):
        if not isinstance(argument, (str, int)):
            yield from constraints(argument)


def plain_type(hint: Any) -> str:
    """Return a type in the words of somebody who writes YAML."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return plain_type(arguments[0])
    if origin is typing.Literal:
        return type(arguments[0]).__name__
    if origin is tuple:
        inner = plain_type(arguments[0])
        return f"list of {inner}" if arguments[-1] is Ellipsis else f"{len(arguments)} × {inner}"
    if arguments:
        return " or ".join("null" if part is type(None) else plain_type(part) for part in arguments)
    return "mapping" if is_dataclass(hint) else getattr(hint, "__name__", str(hint))


def first_line(text: str | None) -> str:
    """Return the first paragraph of a docstring in one line."""
    return " ".join(inspect.cleandoc(text or "").split("\n\n")[0].split())


def type_name(annotation: Any) -> str:
    """Return an annotation as written."""
    return annotation if isinstance(annotation, str) else annotation.__name__


def shown(value: Any) -> str:
    """Return a default as the table shows it; empty if there is none."""
    if value is None or value == "" or value == ():
        return "" if value is None else '""' if value == "" else "[]"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(map(str, value)) + "]"
    text = str(value).replace(str(Path.home()), "~").replace(str(ROOT), ".")
    return f"`{text}`"
