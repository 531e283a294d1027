"""Joining the CRC-32s of two pieces.

A checksum is a remainder of polynomials over GF(2), hence linear: the register after the first piece,
advanced over as many zero bytes as the second piece has, adds to the checksum of the second.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]

_BITS = np.uint32(1) << np.arange(32, dtype=np.uint32)


def _apply(matrix: Words, values: Words) -> Words:
    """Return ``matrix`` (32 columns) times each bit vector of ``values``."""
    selected = np.where(values[:, None] & _BITS, matrix, np.uint32(0))
    joined: Words = np.bitwise_xor.reduce(selected, axis=1)
    return joined


_CRC32 = 0xEDB88320  # zlib's polynomial, bit-reversed


@lru_cache(maxsize=64)
def _append_zeros_crc32(exponent: int) -> Words:
    """Return the matrix (32,) that advances a CRC-32 register over 2^``exponent`` zero bytes."""
    if exponent == 0:
        table = np.arange(256, dtype=np.uint32)
        for _ in range(8):
            table = np.where(table & 1, (table >> 1) ^ np.uint32(_CRC32), table >> 1).astype(np.uint32)
        advanced: Words = table[_BITS & np.uint32(0xFF)] ^ (_BITS >> np.uint32(8))
        return advanced
    half = _append_zeros_crc32(exponent - 1)
    return _apply(half, half)


def join_crc32(first: int, second: int, length: int) -> int:
    """Return ``zlib.crc32`` of two pieces from that of each; ``length``: bytes of the second."""
    register = np.array([first], np.uint32)
    for exponent in range(length.bit_length()):
        if length >> exponent & 1:
            register = _apply(_append_zeros_crc32(exponent), register)
    return int(register[0]) ^ second
