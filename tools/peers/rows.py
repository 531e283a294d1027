"""What a comparison with a peer yields: one row of the printed table for each thing compared."""

from __future__ import annotations

from dataclasses import dataclass


class PeerError(Exception):
    """A peer cannot be had or run here; the message says what to do."""


@dataclass(frozen=True)
class Row:
    """One thing that was compared with one peer."""

    peer: str
    version: str
    compared: str
    passed: bool
    detail: str
