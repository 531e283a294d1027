"""A batch of demonstrations, one after the other: what each key does in each state.

Pure logic: keys and times in, actions out. The terminal and the recorder are elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["pause", "ready", "recording", "over"]
Act = Literal["start", "success", "failure", "discard", "rerecord", "quit"]
HELP: dict[State, str] = {
    "pause": "reset the scene   Enter: start now   p: wait   r: re-record the last one   q: quit",
    "ready": "Enter: start   r: re-record the last one   q: quit",
    "recording": "Enter or s: success   f: failure   d: discard   r: start over   q: discard and quit",
    "over": "",
}
PROMPTS: dict[State, str] = {
    "pause": "Reset the scene",
    "ready": "Ready",
    "recording": "Go",
    "over": "Done",
}


@dataclass
class Batch:
    """``episodes`` demonstrations, with a pause of ``pause_s`` before each to reset the scene.

    A pause of 0 waits for the operator instead. Failures are kept and count: whether to train on them is
    decided later.
    """

    episodes: int
    pause_s: float
    recorded: int = 0
    state: State = "ready"
    until_s: float = 0.0  # end of the pause, on the monotonic clock

    def begin(self, now_s: float) -> None:
        """Begin with a pause."""
        self._rest(now_s)

    def left_s(self, now_s: float) -> float:
        """Seconds left of the pause."""
        return max(0.0, self.until_s - now_s) if self.state == "pause" else 0.0

    def due(self, now_s: float) -> Act | None:
        """Return what to do now without a key press: start, when the pause is over."""
        return "start" if self.state == "pause" and now_s >= self.until_s else None

    def key(self, key: str) -> Act | None:
        """Return the action of ``key`` in this state; call ``done`` once it has succeeded."""
        match self.state, key:
            case "pause", "p":
                self.state = "ready"
                return None
            case (("pause" | "ready"), ("\r" | "\n")):
                return "start"
            case (("pause" | "ready"), "r"):
                return "rerecord"
            case "recording", ("\r" | "\n" | "s"):
                return "success"
            case "recording", "f":
                return "failure"
            case "recording", "d":
                return "discard"
            case "recording", "r":
                return "rerecord"
            case _, "q":
                return "quit"
        return None

    def done(self, act: Act, now_s: float) -> None:
        """Note that ``act`` succeeded."""
        match act:
            case "start":
                self.state = "recording"
            case "rerecord":
                self.recorded -= self.state != "recording"
                self.state = "recording"
            case "success" | "failure":
                self.recorded += 1
                self._rest(now_s)
            case "discard":
                self._rest(now_s)
            case "quit":
                self.state = "over"

    def refused(self, recording: bool) -> None:
        """Note that it failed, and whether an episode is in progress."""
        self.state = "recording" if recording else "ready"

    def _rest(self, now_s: float) -> None:
        if self.recorded >= self.episodes:
            self.state = "over"
        elif self.pause_s > 0.0:
            self.state, self.until_s = "pause", now_s + self.pause_s
        else:
            self.state = "ready"
