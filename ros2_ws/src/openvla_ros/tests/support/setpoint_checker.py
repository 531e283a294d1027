"""An independent eye where the driver sits: what arrives there, differentiated and held to the limits.

How time is counted. A driver that is fed single setpoints goes to each as it arrives. The check counts
setpoints that follow each other within ``GAP_S`` as one period apart: the jitter of an ordinary kernel,
some milliseconds, is smoothed by the arm's own servo and is not what is looked for here. After a longer
gap the driver has held the last setpoint, and the arm stands there; that it was stopped so suddenly is
the driver's doing and no setpoint's. So the next one must be reachable from rest there: the held setpoint
is taken as having come three times more. The same goes for the very first one.

Between processes the time is the one at which a setpoint left its process, as the middleware stamps it:
the looker may be late itself. A gap in these times is not exactly the one that the sender measured. So a
gap that is within ``doubt_s`` of ``GAP_S`` may be either; there a run ends, and the next one is looked at
by itself.

Rates are finite differences, which are means of the derivatives of any motion through the setpoints: none
is above its limit if the motion keeps the limits. Nothing of the package is used for them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

GAP_S = 0.04
# What the limiter leaves room for (1e-5), and the rounding of positions, magnified by the third difference.
TOLERANCE = 5e-5
RATES = ("velocity", "acceleration", "jerk")


@dataclass
class SetpointCheck:
    """Setpoints in the order of their arrival, and the limits that they are held to."""

    lower: np.ndarray
    upper: np.ndarray
    limits: tuple[np.ndarray, np.ndarray, np.ndarray]  # rad/s, rad/s², rad/s³
    period_s: float
    doubt_s: float = 0.0
    quantum_rad: float = 1e-9  # to what positions are rounded on their way
    arrived: list[tuple[float, np.ndarray]] = field(default_factory=list)
    worst: dict[str, float] = field(default_factory=dict)  # shares of the limits, once they were looked at

    @classmethod
    def of(cls, profile, **changes) -> SetpointCheck:
        limits = profile.limits
        rates = (limits.joint_velocity, limits.joint_acceleration, limits.joint_jerk)
        return cls(
            np.array(limits.joint_lower), np.array(limits.joint_upper), tuple(map(np.array, rates)),
            1.0 / profile.control.rate_hz, **changes,
        )  # fmt: skip

    def arrive(self, time_s: float, setpoint: np.ndarray) -> None:
        self.arrived.append((time_s, np.array(setpoint, dtype=np.float64)))

    def violations(self) -> list[str]:
        """Return what is wrong, the worst of each kind."""
        if not self.arrived:
            return ["nothing arrived"]
        times = np.array([time for time, _ in self.arrived])
        rows = np.array([row for _, row in self.arrived])
        found = []
        if not np.isfinite(rows).all():
            return ["a setpoint is not finite"]
        beyond = np.maximum(self.lower - rows, rows - self.upper).max()
        if beyond > self.quantum_rad + 1e-8:
            found.append(f"position: {beyond:.6f} rad beyond its limit")
        gaps = np.diff(times)
        starts = [0, *(np.flatnonzero(gaps > GAP_S + 1e-6 - self.doubt_s) + 1), len(rows)]
        worst = dict.fromkeys(RATES, 0.0)
        where = dict.fromkeys(RATES, 0.0)
        for first, end in pairwise(starts):
            run = rows[first:end]
            if first == 0 or gaps[first - 1] > GAP_S + 1e-6 + self.doubt_s:
                run = np.vstack([np.repeat(rows[None, max(0, first - 1)], 3, axis=0), run])
            for order, (name, limit) in enumerate(zip(RATES, self.limits, strict=True), start=1):
                if len(run) <= order:
                    continue
                rate = np.abs(np.diff(run, n=order, axis=0)) - self.quantum_rad * 2**order
                share = rate / self.period_s**order / limit
                if share.max() > worst[name]:
                    worst[name] = float(share.max())
                    where[name] = float(times[min(end - 1, first + int(share.max(axis=1).argmax()))])
        self.worst = worst
        return found + [
            f"{name}: {share:.3f} times its limit at {where[name]:.3f} s"
            for name, share in worst.items()
            if share > 1.0 + TOLERANCE
        ]
