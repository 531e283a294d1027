"""Reads the package's imports without importing it: what a module needs to be imported at all."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import openvla_ros

PACKAGE = Path(openvla_ros.__file__).parent
SOURCE = PACKAGE.parent
STANDARD = frozenset(sys.stdlib_module_names)


def path_of(module: str) -> Path | None:
    """Return the file of a module of the package, or None if it is no module (a name inside one)."""
    base = PACKAGE.parent.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def names_in(nodes: Iterator[ast.AST]) -> Iterator[str]:
    """The dotted names that the import statements among ``nodes`` may import."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def packages_of_file(path: Path) -> set[str]:
    """Every package outside the standard library that ``path`` imports, inside functions too."""
    roots = {name.split(".")[0] for name in names_in(ast.walk(tree_of(path)))}
    return roots - STANDARD - {"openvla_ros"}


def packages_to_import(module: str) -> set[str]:
    """The packages outside the standard library without which ``module`` cannot be imported."""
    roots: set[str] = set()
    waiting, seen = [module], set()
    while waiting:
        name = waiting.pop()
        path = path_of(name)
        if path is None or name in seen:
            continue
        seen.add(name)
        for imported in names_in(iter(tree_of(path).body)):
            roots.add(imported.split(".")[0])
            if imported.startswith("openvla_ros"):
                waiting.append(imported)
    return roots - STANDARD - {"openvla_ros"}
