"""ROS message definitions as recordings embed them (``ros2msg``), without ROS.

A definition is the ``.msg`` file followed by those of every nested type, each after a line of eighty
``=`` and ``MSG: package/Type``. The files come from the sourced ROS installation or from the message
wheels; types that neither has come from ``rosbags``.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from rosbags.typesys import Stores, get_typestore

from openvla_ros.errors import DatasetError

SEPARATOR = "=" * 80
_FIELD = re.compile(
    r"^\s*([A-Za-z][A-Za-z0-9_]*(?:/[A-Za-z][A-Za-z0-9_]*)?)\s*(?:<=\d+)?(?:\[[^\]]*\])?\s+[A-Za-z]"
)
_BUILTIN = frozenset(
    ["bool", "byte", "char", "float32", "float64", "string", "wstring"]
    + [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
)


def share_folders() -> tuple[Path, ...]:
    """Return the share folders of message packages: sourced workspaces first, then this Python's."""
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    return tuple(Path(prefix) / "share" for prefix in (*prefixes, sys.prefix))


@cache
def message_definition(type_name: str) -> str:
    """Return the whole definition of ``package/msg/Type``.

    Raises ``DatasetError`` naming the type and the folders that were searched.
    """
    package, _, name = type_name.replace("/msg/", "/").partition("/")
    path = _find(package, name)
    if path is None:
        return _known_definition(type_name)
    parts = [path.read_text(encoding="utf-8")]
    todo, seen = list(_inner_types(parts[0], package)), set()
    while todo:
        inner = todo.pop(0)
        if inner in seen:
            continue
        seen.add(inner)
        inner_path = _find(*inner)
        if inner_path is None:
            raise DatasetError(f"{type_name} contains {'/'.join(inner)}, whose .msg file is not installed")
        text = inner_path.read_text(encoding="utf-8")
        parts.append(f"{SEPARATOR}\nMSG: {'/'.join(inner)}\n{text}")
        todo += _inner_types(text, inner[0])
    return "\n".join(part.rstrip("\n") for part in parts) + "\n"


def _find(package: str, name: str) -> Path | None:
    candidates = (folder / package / "msg" / f"{name}.msg" for folder in share_folders())
    return next((path for path in candidates if path.is_file()), None)


def _inner_types(text: str, package: str) -> Iterable[tuple[str, str]]:
    for line in text.splitlines():
        match = _FIELD.match(line.partition("#")[0])
        if match is None or match[1] in _BUILTIN:
            continue
        owner, _, name = match[1].rpartition("/")
        yield (owner or ("std_msgs" if name == "Header" and package != "std_msgs" else package), name)


def _known_definition(type_name: str) -> str:
    store = get_typestore(Stores.ROS2_KILTED)
    if type_name not in store.types:
        folders = ", ".join(map(str, share_folders()))
        raise DatasetError(
            f"no definition of {type_name!r} found in {folders}; source the workspace that defines it"
        )
    text, _ = store.generate_msgdef(type_name, ros_version=2)
    return str(text)
