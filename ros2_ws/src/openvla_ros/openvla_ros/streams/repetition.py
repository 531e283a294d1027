"""Tells words that a program repeats on the instruction topic from words that a person gives again.

``ros2 topic pub`` without ``--once``, or a page that publishes once a second, goes on saying what was said
before the arm had to stop. That is no new instruction: after the stop is reset the arm must wait for one.
"""

from __future__ import annotations

# The same words within this time are a repetition, whether or not the first were carried out.
SOON_S = 3.0
# So far apart while they are carried out, they are repeated; a person who says them again waits longer.
LONGEST_PERIOD_S = 10.0
# A repetition is over when the words have stayed away for this many of their periods.
PERIODS = 2.0


class Repetition:
    """Follows the words of one topic; times are in seconds of a steady clock."""

    def __init__(self) -> None:
        self._words, self._heard_s = "", 0.0
        self._period_s: float | None = None  # the longest so far; None: not repeated

    def heard(self, words: str, acting: bool, now_s: float) -> str:
        """Note ``words``; return why they are only a repetition, or an empty string.

        ``acting``: an instruction is being carried out, so that the same words change nothing.
        """
        gap_s, same = now_s - self._heard_s, words == self._words
        self._words, self._heard_s = words, now_s
        if not same:
            self._period_s = None
            return ""
        known_s = self._period_s
        over = known_s is not None and gap_s > max(SOON_S, PERIODS * known_s)
        repeats = gap_s <= (LONGEST_PERIOD_S if acting else SOON_S)
        if over or not (repeats or known_s is not None):
            self._period_s = None
            return ""
        self._period_s = max(gap_s, known_s or 0.0)
        quiet_s = max(SOON_S, PERIODS * self._period_s)
        return (
            f"the same words are being repeated (the last time {gap_s:.1f} s ago); say something else, or "
            f"stop repeating them for {quiet_s:.0f} s"
        )
