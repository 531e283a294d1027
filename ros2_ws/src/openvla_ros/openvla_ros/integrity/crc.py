"""CRC-32C (Castagnoli), as TFRecord files use it, in numpy; and joining the CRC-32s of two pieces.

A checksum is a remainder of polynomials over GF(2), hence linear: the data is cut into lanes that
are advanced together, byte by byte, and the lanes' remainders are joined by appending zero bytes
to the left one. Leading zeros leave a register that starts at 0 as it is, so the front is padded.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]

POLYNOMIAL = 0x82F63B78  # CRC-32C, bit-reversed
LANES = 2048  # lanes that are advanced together; a power of two
_BITS = np.uint32(1) << np.arange(32, dtype=np.uint32)


def _byte_table() -> Words:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(POLYNOMIAL), table >> 1).astype(np.uint32)
    return table


_TABLE = _byte_table()


def _apply(matrix: Words, values: Words) -> Words:
    """Return ``matrix`` (32 columns) times each bit vector of ``values``."""
    selected = np.where(values[:, None] & _BITS, matrix, np.uint32(0))
    joined: Words = np.bitwise_xor.reduce(selected, axis=1)
    return joined


@lru_cache(maxsize=4096)
def _append_zeros(count: int) -> Words:
    """Return the matrix (32,) that advances a register over ``count`` zero bytes."""
    if count == 0:
        return _BITS
    if count == 1:
        advanced: Words = _TABLE[_BITS & np.uint32(0xFF)] ^ (_BITS >> np.uint32(8))
        return advanced
    half = _append_zeros(count // 2)
    return _apply(_append_zeros(count % 2), _apply(half, half))


def crc32c(data: bytes) -> int:
    """Return the CRC-32C of ``data``."""
    if len(data) < 512:
        return _short(data)
    steps = -(-len(data) // LANES)
    padded = np.zeros(steps * LANES, np.uint8)
    padded[-len(data) :] = np.frombuffer(data, np.uint8)
    padded[len(padded) - len(data) : len(padded) - len(data) + 4] ^= 0xFF  # the register starts at all ones
    columns = np.ascontiguousarray(padded.reshape(LANES, steps).T)
    register = np.zeros(LANES, np.uint32)
    for column in columns:
        register = _TABLE[(register ^ column) & np.uint32(0xFF)] ^ (register >> np.uint32(8))
    width = steps
    while len(register) > 1:
        register = _apply(_append_zeros(width), register[0::2]) ^ register[1::2]
        width *= 2
    return int(register[0]) ^ 0xFFFFFFFF


_LIST: list[int] = _TABLE.tolist()


def _short(data: bytes) -> int:
    register = 0xFFFFFFFF
    for byte in data:
        register = _LIST[(register ^ byte) & 0xFF] ^ (register >> 8)
    return register ^ 0xFFFFFFFF


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
