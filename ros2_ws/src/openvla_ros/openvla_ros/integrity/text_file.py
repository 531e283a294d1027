"""Users' text files: read as UTF-8, or refused with the file, the line and the byte."""

from __future__ import annotations

from pathlib import Path

from openvla_ros.errors import OpenVLARosError


def read_text(path: Path, kind: type[OpenVLARosError]) -> str:
    """Return the text in ``path``; raises ``kind`` if it cannot be read or is not UTF-8."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise kind(f"{path} cannot be read: {error.strerror}") from error
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise kind(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} at offset {error.start} is not UTF-8; "
            "save the file as UTF-8"
        ) from error
