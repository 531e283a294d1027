"""Reads the comments beside dataclass fields and enumeration members as their documentation.

A comment on a field's line belongs to that field; so do the comment lines directly above it. In an
enumeration the comment lines above start a group of members.
"""

from __future__ import annotations

import ast
import inspect
import textwrap


def field_comments(cls: type) -> dict[str, str]:
    """Return field → comment for the fields that have one."""
    return {name: " ".join(filter(None, (above, beside))) for name, above, beside in _commented(cls)}


def member_comments(cls: type) -> dict[str, tuple[str, str]]:
    """Return member → (its group's comment, its own)."""
    group, found = "", {}
    for name, above, beside in _commented(cls):
        group = above or group
        found[name] = (group, beside)
    return found


def _commented(cls: type) -> list[tuple[str, str, str]]:
    """Return (name, comment lines above, comment beside) of each assignment in the body of ``cls``."""
    source = textwrap.dedent(inspect.getsource(cls))
    lines = source.splitlines()
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    found = []
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
        else:
            continue
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        rest = lines[node.end_lineno - 1].encode()[node.end_col_offset :].decode()
        found.append((name, _above(lines, node.lineno - 2), rest.partition("#")[2].strip()))
    return found


def _above(lines: list[str], last: int) -> str:
    first = last
    while first >= 0 and lines[first].strip().startswith("#"):
        first -= 1
    return " ".join(line.strip().lstrip("# ") for line in lines[first + 1 : last + 1])
