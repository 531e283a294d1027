"""The queue in front of a policy: what several robots ask is answered together, in the order of asking.

Each robot has at most one question here, because its thread waits for the answer. So whoever asks fast comes
round no more often than the others, and a wait is bounded: by the batches before it, and by ``WAIT_S``.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from openvla_ros.errors import OpenVLARosError, PolicyError
from openvla_ros.serving.shared_policy import Answered, Session, SharedPolicy
from openvla_ros.values.action import ActionChunk, ActionSpace
from openvla_ros.values.observation import Observation

# A question that could not be begun within this time is refused: its image is too old to act on.
WAIT_S = 4.0
# How long a pass is put off for robots that may ask at the same moment, as a share of the last pass.
GATHER_SHARE = 0.2

_LOG = logging.getLogger(__name__)


class BusyError(PolicyError):
    """A question whose turn did not come in time."""


class FailedError(PolicyError):
    """A question on which the policy itself failed: a bug, which the log describes."""


class _Asked:
    """A question that waits for its answer."""

    def __init__(self, question: Any, is_wanted: Callable[[], bool]) -> None:
        self.question, self.is_wanted = question, is_wanted
        self.since = time.monotonic()
        self.answer: Answered | None = None
        self.is_done = threading.Event()

    def finish(self, answer: Answered) -> None:
        """Hand the answer to the thread that waits for it."""
        self.answer = answer
        self.is_done.set()


class Batches:
    """Answers questions to ``policy`` on one thread, up to ``most`` at a time.

    ``robots`` returns how many could be asking; a pass is not put off for more than these.
    """

    def __init__(self, policy: SharedPolicy, most: int, robots: Callable[[], int]) -> None:
        self._policy, self._most, self._robots = policy, most, robots
        self._pass_s = 0.0  # how long the last pass took
        self._waiting: deque[_Asked] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self._thread.start()

    def ask(self, question: Any, is_wanted: Callable[[], bool]) -> ActionChunk:
        """Return the answer to ``question``, which is dropped if it is not wanted when its turn comes.

        Raises the error that the policy has for it, and ``BusyError`` if its turn does not come in time.
        """
        asked = _Asked(question, is_wanted)
        with self._changed:
            if self._is_closed:
                raise PolicyError("the server is closing")
            self._waiting.append(asked)
            self._changed.notify_all()
        if not asked.is_done.wait(WAIT_S) and self._withdraw(asked):
            raise BusyError(f"not begun within {WAIT_S:g} s: the policy is busy with other robots' questions")
        asked.is_done.wait()
        assert asked.answer is not None
        if isinstance(asked.answer, OpenVLARosError):
            raise asked.answer
        return asked.answer

    def close(self) -> None:
        """Refuse what waits, and end the thread after the batch in progress."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join()

    def _withdraw(self, asked: _Asked) -> bool:
        """Take back a question; returns False if it is being answered."""
        with self._changed:
            if asked in self._waiting:
                self._waiting.remove(asked)
                return True
        return False

    def _run(self) -> None:
        while batch := self._next():
            began = time.monotonic()
            answers = self._answers(batch)
            self._pass_s = time.monotonic() - began
            for asked, answer in zip(batch, answers, strict=True):
                asked.finish(answer)
        with self._changed:
            left, self._waiting = list(self._waiting), deque()
        for asked in left:
            asked.finish(PolicyError("the server is closing"))

    def _next(self) -> list[_Asked]:
        """Return the next questions, the oldest first; none if closed."""
        while True:
            with self._changed:
                while not self._waiting and not self._is_closed:
                    self._changed.wait()
                self._gather()
                if self._is_closed:
                    return []
                batch = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
            wanted = []
            for asked in batch:
                if asked.is_wanted():
                    wanted.append(asked)
                else:
                    asked.finish(PolicyError("the robot has gone"))
            if wanted:
                return wanted

    def _gather(self) -> None:
        """Wait for others to ask too, for a small part of the time that a pass of their own would take."""
        deadline = time.monotonic() + GATHER_SHARE * self._pass_s
        while len(self._waiting) < min(self._most, self._robots()) and not self._is_closed:
            left = deadline - time.monotonic()
            if left <= 0.0 or not self._changed.wait(left):
                return

    def _answers(self, batch: list[_Asked]) -> list[Answered]:
        """Return one answer each; if the policy fails on the whole batch, each is asked alone."""
        try:
            return self._policy.answer([asked.question for asked in batch])
        except Exception:  # noqa: BLE001 - a bug in a policy ends one answer, not the server
            _LOG.exception("answering %d questions together failed", len(batch))
        if len(batch) == 1:
            return [FailedError("the policy failed; the server's log says why")]
        return [self._answers([asked])[0] for asked in batch]


class ServedPolicy:
    """A robot's session behind the queue: to a dialogue it is a policy like any other."""

    def __init__(
        self, session: Session, batches: Batches, is_wanted: Callable[[], bool] = lambda: True
    ) -> None:
        self._session, self._batches, self._is_wanted = session, batches, is_wanted

    @property
    def space(self) -> ActionSpace:
        """The meaning of the actions."""
        return self._session.space

    @property
    def description(self) -> str:
        """One line: what is served."""
        return self._session.description

    @property
    def cameras(self) -> tuple[str, ...]:
        """The cameras that the policy looks at, in its order; empty if it does not say."""
        return self._session.cameras

    @property
    def dataset_key(self) -> str:
        """The dataset whose statistics un-normalise the actions; empty if there is none."""
        return self._session.dataset_key

    def infer(self, observation: Observation) -> ActionChunk:
        """Return the actions, computed together with what other robots ask at the moment."""
        return self._batches.ask(self._session.question(observation), self._is_wanted)

    def reset(self) -> None:
        """Forget the state of this robot's instruction."""
        self._session.reset()

    def close(self) -> None:
        """Do nothing: the server closes what is shared."""
