"""Describes an unexpected exception."""

from __future__ import annotations

from pathlib import Path
from traceback import extract_tb

# A reason may quote the input; it is cut to this length.
DETAIL_LENGTH = 300


def describe(error: BaseException) -> str:
    """Return an exception's type, text and location."""
    frames = extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno} in {frames[-1].name})" if frames else ""
    return f"{type(error).__name__}: {str(error)[:DETAIL_LENGTH]}{place}"
