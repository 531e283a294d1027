"""Nanoseconds, as stamps count them, and seconds, as everything else does."""

from __future__ import annotations

from typing import cast, overload

from openvla_ros.values.arrays import Float, Int

NS_PER_S = 1_000_000_000


@overload
def seconds(ns: int) -> float: ...
@overload
def seconds(ns: Int) -> Float: ...
def seconds(ns: int | Int) -> float | Float:
    """Return nanoseconds ``ns``, a number or an array, in seconds.

    The product with 1e-9, everywhere: whoever looks at the same two stamps gets the same bits. It may differ
    from the nearest float by one unit in the last place; where a round trip must be exact, divide by
    ``NS_PER_S``.
    """
    return cast("float | Float", ns * 1e-9)


def nanoseconds(s: float) -> int:
    """Return ``s`` seconds as the nearest whole number of nanoseconds.

    Raises ``ValueError`` for NaN and ``OverflowError`` for infinity.
    """
    return round(s * NS_PER_S)
