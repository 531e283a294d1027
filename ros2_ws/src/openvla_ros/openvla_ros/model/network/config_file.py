"""Reads a checkpoint's ``config.json``, strictly: invalid values are reported with their choices.

Published files have many keys without effect on the network; they are ignored, except among the sizes of
a reduced tower. Knows nothing of weights or devices.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from openvla_ros.errors import CheckpointError
from openvla_ros.integrity.checksums import verify
from openvla_ros.integrity.validation_errors import validation_lines
from openvla_ros.model.network.config import OpenVLAConfig

_ADAPTER = TypeAdapter(OpenVLAConfig)


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in ``path``; raises ``CheckpointError`` naming the file.

    Its checksum is verified first, if it has one.
    """
    if path.is_file():
        verify(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.parent} is not a checkpoint: it has no {path.name}") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: invalid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: must contain a JSON object; it contains a {type(value).__name__}")
    return value


def read_config(folder: Path) -> OpenVLAConfig:
    """Return the configuration in ``folder/config.json``; ``CheckpointError`` names key and value."""
    return parse_config(read_json(folder / "config.json"), str(folder / "config.json"))


def parse_config(data: Mapping[str, Any], source: str) -> OpenVLAConfig:
    """Return the configuration in ``data``; ``source`` names it in errors."""
    try:
        return _ADAPTER.validate_json(json.dumps(dict(data)), strict=True)
    except ValidationError as error:
        raise CheckpointError(f"{source}: " + "; ".join(validation_lines(error, "config"))) from error
