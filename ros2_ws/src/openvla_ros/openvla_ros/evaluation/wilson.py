"""Confidence interval of a success rate: the Wilson score interval.

E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
Unlike the normal approximation it stays within 0 .. 1 and holds near both ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from openvla_ros.errors import InvalidValueError

Z95 = 1.959963984540054  # quantile of the normal distribution at 97.5%


@dataclass(frozen=True)
class SuccessRate:
    """Successes among trials."""

    successes: int
    trials: int

    def __post_init__(self) -> None:
        if not 0 <= self.successes <= self.trials or self.trials < 1:
            raise InvalidValueError(
                f"{self.successes} successes in {self.trials} trials; there must be at least one trial"
            )

    @property
    def rate(self) -> float:
        """The share of successes, 0..1."""
        return self.successes / self.trials

    def interval(self, z: float = Z95) -> tuple[float, float]:
        """Return the Wilson score interval of the true rate.

        (p + z²/2n ± z √(p (1 - p)/n + z²/4n²)) / (1 + z²/n), with n trials and the observed rate p.

        Args:
            z: Quantile of the normal distribution; the default gives 95%.

        Returns:
            Both ends, 0 .. 1.
        """
        n, p = self.trials, self.rate
        center = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        # Without a success, or without a failure, that end is 0 or 1 but for rounding.
        low = center - half if self.successes else 0.0
        high = center + half if self.successes < n else 1.0
        return low, high

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as JSON values."""
        return {"successes": self.successes, "trials": self.trials, "interval": list(self.interval())}

    def __str__(self) -> str:
        low, high = self.interval()
        return f"{self.successes} of {self.trials} ({self.rate:.0%}, 95% interval {low:.0%} to {high:.0%})"
