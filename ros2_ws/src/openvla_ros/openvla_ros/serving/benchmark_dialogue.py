"""vla-eval's protocol: its runner steps a benchmark, and asks for one action at each step.

vla-eval's client takes whatever answer comes next for the answer to its last question: after a time-out, or
an error that it did not read, every action would belong to the question before. So each question gets at most
one answer, and none once the client has asked the next one.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from openvla_ros import __version__
from openvla_ros.errors import InvalidValueError, OpenVLARosError
from openvla_ros.policy.protocol import Policy, Trained
from openvla_ros.protocols import vla_eval_codec
from openvla_ros.protocols.array_bytes import image_from_array
from openvla_ros.protocols.benchmark_actions import (
    ActionTranslation,
    BenchmarkActions,
    benchmark_of_class,
    benchmark_table,
)
from openvla_ros.protocols.vla_eval_codec import EvaluationMessage, Kind
from openvla_ros.values.arrays import Float, Image
from openvla_ros.values.observation import Observation

SERVER = f"openvla_ros {__version__}"
REFUSED = 1008  # a websocket's close code: policy violation
LONGEST_REASON = 123  # bytes of a websocket's close reason
# vla-eval's names for what is sent; with each, how many numbers.
DIMENSIONS = {"position": 3, "rotation": 3, "gripper": 1}
IMAGE, LANGUAGE = "rgb_hwc_uint8", "language"
ROLES = {ours for entry in benchmark_table().values() for ours in entry.images.values()}
UNREADABLE = "__unreadable__"  # what was wrong with a message
WORDS, IMAGES, RESTART = "task_description", "images", "episode_restart"

_LOG = logging.getLogger(__name__)


class Link(Protocol):
    """What is needed of a websocket."""

    def recv(self, timeout: float | None = None) -> str | bytes:
        """Return the next message; raises ``TimeoutError`` if there is none in time."""
        ...

    def send(self, message: bytes) -> None:
        """Send a message."""
        ...

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close."""
        ...


class NotedLink:
    """A websocket that calls ``heard`` for every message that has come."""

    def __init__(self, link: Link, heard: Callable[[], None]) -> None:
        self._link, self._heard = link, heard

    def recv(self, timeout: float | None = None) -> str | bytes:
        """As ``Link.recv``."""
        data = self._link.recv(timeout)
        self._heard()
        return data

    def send(self, message: bytes) -> None:
        """As ``Link.send``."""
        self._link.send(message)

    def close(self, code: int = 1000, reason: str = "") -> None:
        """As ``Link.close``."""
        self._link.close(code, reason)


class BenchmarkDialogue:
    """One client of vla-eval: a benchmark's runner, for which ``policy`` acts."""

    def __init__(self, policy: Policy, link: Link, expected: BenchmarkActions | None = None) -> None:
        """Serve whatever benchmark the client names, or only the ``expected`` one."""
        self._policy, self._link, self._expected = policy, link, expected
        self._waiting: deque[EvaluationMessage] = deque()
        self._translation: ActionTranslation | None = None
        self._left: deque[Float] = deque()  # actions of the last chunk
        self._instruction: str | None = None
        self._live = False  # the client steps on without waiting for answers
        self.dropped = 0  # answers that came too late

    def run(self) -> None:
        """Answer until the client goes, which raises the websocket's ``ConnectionClosed``."""
        while True:
            message = self._waiting.popleft() if self._waiting else self._next(None)
            match message.kind:
                case "hello":
                    self._greet(message)
                case "episode_start":
                    self._begin(message)
                case "observation":
                    self._act(message)
                case "error":
                    _LOG.warning("vla-eval's client: %s", repr(message.payload.get("error"))[:200])
                case "episode_end" | "action":
                    pass

    def refuse(self, error: OpenVLARosError) -> None:
        """Close the connection; vla-eval shows the reason, and nothing of a message before its greeting."""
        reason = str(error).encode()[:LONGEST_REASON].decode(errors="ignore")
        self._link.close(REFUSED, reason)

    def _begin(self, message: EvaluationMessage) -> None:
        """Begin an episode; nothing is answered, because it would be read as the answer to a question."""
        self._live = message.payload.get("mode") == "live"
        self._forget()
        if self._translation is not None:
            self._translation.begin()

    def _greet(self, message: EvaluationMessage) -> None:
        name = message.payload.get("benchmark")
        try:
            if not isinstance(name, str):
                raise InvalidValueError("the client does not name its benchmark; vla-eval 0.8 does")
            spoken = message.payload.get("protocol_version", vla_eval_codec.PROTOCOL)
            if spoken != vla_eval_codec.PROTOCOL:
                raise InvalidValueError(
                    f"the client speaks version {str(spoken)[:20]} of vla-eval's protocol, this server "
                    f"{vla_eval_codec.PROTOCOL}"
                )
            found = benchmark_of_class(name)
            if self._expected is not None and found.name != self._expected.name:
                raise InvalidValueError(
                    f"the client runs {found.name}; this server was started for {self._expected.name}"
                )
            self._translation = ActionTranslation(found, self._policy.space)
            self._check_cameras(found)
        except OpenVLARosError as error:
            _LOG.warning("a client of vla-eval is refused: %s", error)
            self.refuse(error)
            return
        self._send("hello", self._greeting(found), message)

    def _greeting(self, benchmark: BenchmarkActions) -> dict[str, Any]:
        actions = {
            part: {"name": part, "dims": DIMENSIONS[part], "format": form}
            for part, form in benchmark.declares.items()
        }
        seen = {there: {"name": "image", "dims": 0, "format": IMAGE} for there in self._cameras(benchmark)}
        words = {"language": {"name": "language", "dims": 0, "format": LANGUAGE}}
        wrist = benchmark.parameters.get("wrist", {}) if "wrist" in self._roles(benchmark) else {}
        return {
            "harness_version": SERVER,
            "protocol_version": vla_eval_codec.PROTOCOL,
            "model_server": SERVER,
            "policy": self._policy.description,
            "capabilities": {},
            "observation_params": {**benchmark.parameters.get("always", {}), **wrist},
            "action_spec": actions,
            "observation_spec": {**seen, **words},
        }

    def _roles(self, benchmark: BenchmarkActions) -> tuple[str, ...]:
        """Return the policy's cameras; one that names none sees the main one."""
        cameras = self._policy.cameras if isinstance(self._policy, Trained) else ()
        return cameras or (next(iter(benchmark.images.values())),)

    def _cameras(self, benchmark: BenchmarkActions) -> dict[str, str]:
        """Return the benchmark's name of each of the policy's cameras.

        They go by what they are called here; an only one of another name is the main one.
        """
        roles, main = self._roles(benchmark), next(iter(benchmark.images))
        if len(roles) == 1 and roles[0] not in ROLES:
            return {main: roles[0]}
        here = {ours: theirs for theirs, ours in benchmark.images.items()}
        return {here[role]: role for role in roles if role in here}

    def _check_cameras(self, benchmark: BenchmarkActions) -> None:
        if missing := set(self._roles(benchmark)) - set(self._cameras(benchmark).values()):
            raise InvalidValueError(
                f"the policy needs camera {min(missing)!r}; vla-eval's {benchmark.name} has "
                f"{', '.join(benchmark.images.values())}"
            )

    def _act(self, message: EvaluationMessage) -> None:
        """Answer one question with an action or an error, unless the client has asked the next one."""
        self._look()
        if self._is_superseded(message, ("episode_start", "observation")):
            return
        problem: OpenVLARosError | None = None
        try:
            translation = self._prepare(message)
        except OpenVLARosError as error:
            problem = error
        self._look()
        # A client that does not wait takes every answer as it comes.
        newer: tuple[Kind, ...] = ("episode_start",) if self._live else ("episode_start", "observation")
        if self._is_superseded(message, newer):
            self._left.clear()  # computed for a moment that is over
            return
        try:
            if problem is not None:
                raise problem
            action = translation.to_benchmark(self._left.popleft(), message.payload)
        except OpenVLARosError as error:
            self._forget()
            self._send("error", {"error": f"{type(error).__name__}: {error}"}, message)
        else:
            self._send("action", {"actions": action}, message)

    def _prepare(self, message: EvaluationMessage) -> ActionTranslation:
        """Let the policy act if nothing is left of its last chunk; raises what is wrong with the question."""
        if UNREADABLE in message.payload:
            raise InvalidValueError(str(message.payload[UNREADABLE]))
        translation = self._translation
        if translation is None:
            raise InvalidValueError("an observation came before the greeting")
        words = message.payload.get(WORDS)
        if not isinstance(words, str) or not words.strip():
            raise InvalidValueError(f"{WORDS!r} is {repr(words)[:80]}; it must be the instruction")
        if restart := bool(message.payload.get(RESTART)):
            translation.begin()
        if restart or words != self._instruction:
            self._forget()
            self._instruction = words
        if not self._left:
            observation = self._observation(translation.benchmark, message.payload, words)
            self._left.extend(self._policy.infer(observation).actions)
        return translation

    def _observation(self, benchmark: BenchmarkActions, sent: dict[str, Any], words: str) -> Observation:
        images: dict[str, Image] = {}
        given = sent.get(IMAGES)
        for theirs, ours in self._cameras(benchmark).items():
            if not isinstance(given, dict) or theirs not in given:
                has = ", ".join(map(str, given)) if isinstance(given, dict) else type(given).__name__
                raise InvalidValueError(f"{IMAGES} lacks {theirs!r}; it has {has or 'nothing'}")
            images[ours] = image_from_array(theirs, given[theirs])
        return Observation(stamp_ns=time.time_ns(), images=images, instruction=words)

    def _is_superseded(self, message: EvaluationMessage, newer: tuple[Kind, ...]) -> bool:
        """Return whether something ``newer`` has come, so that an answer would be taken for that to it."""
        if not any(waiting.kind in newer for waiting in self._waiting):
            return False
        self.dropped += 1
        if not self._live:
            _LOG.warning("question %d is not answered: the client has given it up", message.number)
        return True

    def _look(self) -> None:
        """Take what has arrived meanwhile."""
        with suppress(TimeoutError):
            while True:
                self._waiting.append(self._next(0.0))

    def _next(self, timeout_s: float | None) -> EvaluationMessage:
        """Return the next message; one that cannot be read counts as a question, and gets an error."""
        data = self._link.recv(timeout_s)
        try:
            return vla_eval_codec.unpack(data)
        except InvalidValueError as error:
            return EvaluationMessage("observation", {UNREADABLE: str(error)})

    def _forget(self) -> None:
        self._left.clear()
        if self._instruction is not None:
            self._policy.reset()
            self._instruction = None

    def _send(self, kind: Kind, payload: dict[str, Any], to: EvaluationMessage) -> None:
        self._link.send(vla_eval_codec.pack(EvaluationMessage(kind, payload, to.number)))
