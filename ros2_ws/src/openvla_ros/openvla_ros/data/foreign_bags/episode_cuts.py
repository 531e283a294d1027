"""Where a recording is cut into episodes, and why there.

Times are nanoseconds of the recorder's clock, which the headers' stamps were compared with. Pure
functions of what was read; knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from openvla_ros.data.bags.resampling import newest_before
from openvla_ros.data.foreign_bags.service_calls import ServiceCall
from openvla_ros.data.foreign_bags.times_file import TimesRow
from openvla_ros.errors import DatasetError
from openvla_ros.profile import GripperProfile
from openvla_ros.values.arrays import Float, Int
from openvla_ros.values.time import NS_PER_S

_GRID_S = 0.1  # motion is looked for in steps of this length


@dataclass(frozen=True)
class Cut:
    """One stretch of a recording, both ends included."""

    start_ns: int
    end_ns: int
    why: str
    words: str = ""


def whole(first_ns: int, last_ns: int) -> list[Cut]:
    """Return the recording as one episode."""
    return [Cut(first_ns, last_ns, "the whole recording")]


def by_value(name: str, values: Sequence[tuple[int, Any]], last_ns: int) -> list[Cut]:
    """Return an episode for each stretch in which a topic's value stays the same and means "on".

    ``values`` are (receipt, value of ``data``) in order: True, a number that is not 0, or a text, whose words
    are the episode's. Raises ``DatasetError`` for another kind of value, or if it is never on.
    """
    cuts: list[Cut] = []
    begun: tuple[int, Any] | None = None
    for at_ns, value in [*values, (last_ns, None)]:
        if value is not None and not isinstance(value, (bool, int, str, np.bool_, np.integer)):
            raise DatasetError(f"{name}: cannot cut by {value!r}; it must be a bool, an integer or a string")
        if begun is not None and value != begun[1]:
            if at_ns > begun[0]:
                text = begun[1].strip() if isinstance(begun[1], str) else ""
                until = "to its end" if value is None else f"until {_shown(value)}"
                cuts.append(Cut(begun[0], at_ns, f"{name} {_shown(begun[1])} {until}", text))
            begun = None
        if begun is None and value is not None and _on(value):
            begun = (at_ns, value)
    if not cuts:
        seen = ", ".join(sorted({_shown(value) for _, value in values})) or "nothing"
        raise DatasetError(f"{name} never begins an episode: {len(values)} messages say {seen}")
    return cuts


def _on(value: Any) -> bool:
    return bool(value.strip()) if isinstance(value, str) else bool(value)


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, str) else str(value)


def by_calls(
    name: str, starts: Sequence[ServiceCall], stops: Sequence[ServiceCall] | None, last_ns: int
) -> list[Cut]:
    """Return an episode from each call of a service to the next call of ``stops``, or of itself without.

    A call of SetBool begins an episode with true and ends it with false. Calls that failed count for
    nothing. Raises ``DatasetError`` if there is no call that begins one.
    """
    done = [(call.received_ns, call.value is not False) for call in starts if call.success is not False]
    done += [(call.received_ns, False) for call in stops or () if call.success is not False]
    cuts: list[Cut] = []
    begun: int | None = None
    again = stops is None and all(call.value is None for call in starts)  # a second call ends the first
    for at_ns, start in sorted(done):
        if begun is not None and (not start or again):
            cuts.append(Cut(begun, at_ns, f"{name} called"))
            begun = None
        if start and begun is None:
            begun = at_ns
    if begun is not None and last_ns > begun:
        cuts.append(Cut(begun, last_ns, f"{name} called, to the recording's end"))
    if not cuts:
        failed = sum(call.success is False for call in starts)
        raise DatasetError(f"{name}: {len(starts)} calls, {failed} of them failed; none begins an episode")
    return cuts


def by_times(rows: Sequence[TimesRow], name: str) -> list[Cut]:
    """Return the episodes that a file of times names."""
    return [Cut(row.start_ns, row.end_ns, f"{name}:{row.line}", row.words) for row in rows]


def by_pauses(
    stamps_ns: Int, positions: Float, gripper: GripperProfile, pause_s: float, speed: float
) -> list[Cut]:
    """Return the stretches of motion between pauses of at least ``pause_s``, half a pause on each side.

    ``positions`` (N, J+1) are arm (radians) and gripper at ``stamps_ns`` (N,). The arm moves while a joint is
    faster than ``speed`` (rad/s), the gripper while its opening changes by more than a tenth a second; where
    no state is recorded nothing moves. Raises ``DatasetError`` if nothing moves at all.
    """
    count = int((stamps_ns[-1] - stamps_ns[0]) / NS_PER_S / _GRID_S) + 1
    grid = stamps_ns[0] + np.round(np.arange(count + 1) * _GRID_S * NS_PER_S).astype(np.int64)
    at = newest_before(stamps_ns, grid)
    scale = np.full(positions.shape[1], speed)
    scale[-1] = 0.1 * abs(gripper.open_m - gripper.closed_m)
    rate = np.abs(np.diff(positions[at], axis=0)) / _GRID_S
    moving = np.flatnonzero((rate > scale).any(axis=1))
    if not len(moving):
        raise DatasetError(f"no joint moves faster than {speed:g} rad/s, so there are no pauses to cut by")
    cuts = []
    half = round(pause_s / 2 * NS_PER_S)
    breaks = np.flatnonzero(np.diff(moving) * _GRID_S > pause_s)
    for run in np.split(moving, breaks + 1):
        start = max(int(grid[run[0]]) - half, int(stamps_ns[0]))
        end = min(int(grid[run[-1] + 1]) + half, int(stamps_ns[-1]))
        cuts.append(Cut(start, end, f"motion between pauses of {pause_s:g} s"))
    return cuts
