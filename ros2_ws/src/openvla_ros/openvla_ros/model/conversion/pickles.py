"""The only place that reads pickled weights: torch's restricted unpickler, which executes nothing.

Only the explicit conversion commands use it; loading a checkpoint never does.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from openvla_ros.errors import CheckpointError


def read_pickle(path: Path) -> dict[str, Any]:
    """Return the mapping in a ``.pt`` file, read with torch's restricted unpickler.

    Raises ``CheckpointError`` for a file that would run code, is damaged or contains something else.
    """
    try:
        value = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is damaged or would run code: {reason}") from error
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{path} contains a {type(value).__name__}, not a mapping of weights")
    return dict(value)
