"""How far the robot's clock and ours are apart, from the stamps of what arrives.

A message arrives after it was stamped. So the youngest age on arrival is the quickest transport plus how far
the robot's clock is behind ours; where that is below zero, the robot's clock is ahead by at least as much.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from openvla_ros.profile import RobotProfile
from openvla_ros.programs.finding import Finding

# Transport on one machine or in one network takes less; what is more may be the clock.
TRANSPORT_S = 0.02
FIX = "synchronise the clocks (chrony, PTP), or set arm_backend.lookahead_s to 0: points are then due at once"


def check_clock(profile: RobotProfile, subject: str, ages_s: Sequence[float]) -> Iterator[Finding]:
    """Compare the clocks by the ages on arrival of what ``subject`` sent."""
    if not ages_s:
        return
    lookahead_s = profile.arm_backend.lookahead_s if profile.arm_backend.brakes_by_itself else 0.0
    ahead_s = -min(ages_s)
    where = f"judging by the stamps of {subject}, the robot's clock is"
    if ahead_s > 0.0 and 0.0 < lookahead_s <= ahead_s:
        text = (
            f"{where} at least {1e3 * ahead_s:.0f} ms ahead of ours, beyond arm_backend.lookahead_s "
            f"({1e3 * lookahead_s:.0f} ms): every point is already in the past when it arrives"
        )
        yield Finding("error", "clocks", text, FIX)
    elif ahead_s > 0.0:
        share = f"; arm_backend.lookahead_s is {1e3 * lookahead_s:.0f} ms" if lookahead_s else ""
        text = f"{where} at least {1e3 * ahead_s:.1f} ms ahead of ours{share}"
        yield Finding("warn" if 2.0 * ahead_s > lookahead_s > 0.0 else "ok", "clocks", text, FIX)
    elif -ahead_s > max(TRANSPORT_S, lookahead_s):
        text = f"{where} up to {-1e3 * ahead_s:.0f} ms behind ours, or messages take that long to arrive"
        yield Finding("warn", "clocks", text, "synchronise the clocks (chrony, PTP), or look at the network")
    else:
        yield Finding("ok", "clocks", f"{where} {-1e3 * ahead_s:.1f} ms behind ours at most")
