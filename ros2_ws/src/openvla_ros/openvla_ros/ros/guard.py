"""The guard around every callback of a node: whatever arrives, the process keeps running.

A topic, a service or an action may bring any message that its type allows, from any node of the
domain. ``GuardedNode`` and ``GuardedLifecycleNode`` create subscriptions, services and timers as rclpy
does, with the guard in between; ``GuardedExecutor`` catches what happens outside a callback, such as a
request that rclpy cannot read. A message is refused

- as ``too_large`` by its size in bytes, before it is deserialised,
- as ``unreadable`` if it cannot be deserialised,
- under the name of the ``OpenVLARosError`` that its callback raises, with its text,
- as ``callback_failed`` for any other exception, which is a bug.

Each refusal is counted in ``/diagnostics`` by topic and reason, and logged, the same one at most every few
seconds. A service answers with ``success`` false and the reason. Only ``FatalNodeError`` passes through: it
ends the process on purpose.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, TypeVar

from rclpy.executors import ExternalShutdownException
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.serialization import deserialize_message

from openvla_ros.errors import DETAIL_LENGTH, FatalNodeError, OpenVLARosError, describe, error_key
from openvla_ros.ros.executor import StaticSingleThreadedExecutor
from openvla_ros.ros.lifecycle import LifecycleNode
from openvla_ros.values.health import Health

T = TypeVar("T")
TOO_LARGE, UNREADABLE, CALLBACK_FAILED = "too_large", "unreadable", "callback_failed"
# A state of a hundred joints with long names takes 6 KB. What fits in 64 KB takes 10 ms to read at worst.
LARGEST_BYTES = 64 << 10
# Minimum interval between log lines of the same refusal.
LOG_PERIOD_S = 5.0


@dataclass(frozen=True)
class Refused:
    """Why an input was refused: a key to count by, and a text."""

    reason: str
    detail: str

    def __str__(self) -> str:
        return f"{self.reason.replace('_', ' ')}: {self.detail}"


class Guard:
    """Counts and logs one node's refusals; thread-safe."""

    def __init__(self, node_name: str) -> None:
        self._logger = get_logger(node_name)
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._fresh: Counter[str] = Counter()  # since the last report, by reason
        self._newest = ""
        self._logged: dict[str, tuple[float, int]] = {}  # when, and how many had been counted then

    def call(self, source: str, act: Callable[[], T], unexpected: str = CALLBACK_FAILED) -> T | Refused:
        """Return the result of ``act``, or why it was refused; raises only ``FatalNodeError``.

        ``source`` is the topic or service; ``unexpected`` is the reason for exceptions that are not ours.
        """
        try:
            return act()
        except (FatalNodeError, ExternalShutdownException):
            raise
        except OpenVLARosError as error:
            return self.refuse(source, Refused(error_key(error), str(error)))
        except Exception as error:  # noqa: BLE001 - the one place: counted, logged and answered
            return self.refuse(source, Refused(unexpected, describe(error)))

    def refuse(self, source: str, refused: Refused) -> Refused:
        """Count and log a refusal; returns it, its text shortened for the log."""
        if len(refused.detail) > DETAIL_LENGTH:
            refused = Refused(refused.reason, refused.detail[:DETAIL_LENGTH] + " ...")
        key = f"{source}: {refused.reason}"
        with self._lock:
            self._counts[key] += 1
            self._fresh[refused.reason] += 1
            self._newest = f"{source}: {refused}"
            count, now_s = self._counts[key], time.monotonic()
            logged_s, before = self._logged.get(key, (-LOG_PERIOD_S, 0))
            due = now_s - logged_s >= LOG_PERIOD_S
            if due:
                self._logged[key] = now_s, count
        if due:
            self._log(source, refused, count - before)
        return refused

    def health(self) -> Health:
        """Return the refusals by topic and reason; a warning if there are new ones since the last call."""
        with self._lock:
            fresh, self._fresh = self._fresh, Counter()
            values = {key: str(count) for key, count in sorted(self._counts.items())}
            newest, total = self._newest, self._counts.total()
        name = "refused messages"
        if fresh:
            level = "error" if fresh[CALLBACK_FAILED] else "warn"
            return Health(name, level, f"{fresh.total()} new; {newest}", values)  # type: ignore[arg-type]
        return Health(name, "ok", f"{total} in total", values)

    def _log(self, source: str, refused: Refused, count: int) -> None:
        text = f"{source}: {refused}" + (f" ({count} times since the last line)" if count > 1 else "")
        # One call site per severity: rclpy does not allow changing it.
        if refused.reason == CALLBACK_FAILED:
            self._logger.error(text)
        else:
            self._logger.warning(text)


class _Guarded:
    """Creates subscriptions, services and timers as a node does, with the guard in between."""

    def __init__(self, *arguments: Any, guard: Guard | None = None, **options: Any) -> None:
        """As in rclpy; ``guard`` is that of another node in the same process, which then counts for both."""
        if guard is not None:
            self.__dict__["_the_guard"] = guard
        super().__init__(*arguments, **options)
        for service in self.services:  # type: ignore[attr-defined]  # the lifecycle's
            _guard_service(self.guard, service)

    @property
    def guard(self) -> Guard:
        """The guard of this node. The node's own set-up needs it before ``__init__`` has finished."""
        guard: Guard | None = self.__dict__.get("_the_guard")
        if guard is None:
            guard = self.__dict__["_the_guard"] = Guard(self.get_name())  # type: ignore[attr-defined]
        return guard

    def create_subscription(
        self,
        msg_type: Any,
        topic: str,
        callback: Callable[..., None],
        qos_profile: Any,
        *,
        raw: bool = False,
        largest_bytes: int | None = None,
        refused: Callable[[Refused], None] | None = None,
        **options: Any,
    ) -> Any:
        """As in rclpy, with two more options.

        ``largest_bytes`` limits the size of a serialised message (default: ``LARGEST_BYTES``; for raw ones no
        limit). ``refused`` is called with every refusal.
        """
        guard, limit = self.guard, LARGEST_BYTES if largest_bytes is None and not raw else largest_bytes

        def tell(outcome: Any) -> None:
            if isinstance(outcome, Refused) and refused is not None:
                guard.call(topic, partial(refused, outcome))

        @wraps(callback)
        def hear(data: bytes, *info: Any) -> None:
            if limit is not None and len(data) > limit:
                words = f"a {msg_type.__name__} of {len(data)} bytes; the limit is {limit}"
                tell(guard.refuse(topic, Refused(TOO_LARGE, words)))
                return
            message: Any = data
            if not raw:
                message = guard.call(topic, partial(deserialize_message, data, msg_type), UNREADABLE)
            if isinstance(message, Refused):
                tell(message)
            else:
                tell(guard.call(topic, partial(callback, message, *info)))

        # Always raw: the size is checked before deserialising.
        return super().create_subscription(  # type: ignore[misc]
            msg_type, topic, hear, qos_profile, raw=True, **options
        )

    def create_service(self, *arguments: Any, **options: Any) -> Any:
        """As in rclpy; if the callback raises, the response has the reason."""
        service = super().create_service(*arguments, **options)  # type: ignore[misc]
        _guard_service(self.guard, service)
        return service

    def create_timer(self, period_s: float, callback: Callable[..., None], **options: Any) -> Any:
        """As rclpy's."""
        guard, name = self.guard, f"timer {getattr(callback, '__name__', 'callback').strip('_')}"

        @wraps(callback)
        def tick(*arguments: Any) -> None:
            guard.call(name, partial(callback, *arguments))

        return super().create_timer(period_s, tick, **options)  # type: ignore[misc]


class GuardedNode(_Guarded, Node):
    """A node whose callbacks are guarded."""


class GuardedLifecycleNode(_Guarded, LifecycleNode):
    """A lifecycle node whose callbacks and transitions are guarded."""


class _GuardedService:
    """The callback of one service."""

    def __init__(self, guard: Guard, name: str, callback: Callable[[Any, Any], Any]) -> None:
        self._guard, self._name, self._callback = guard, name, callback

    def __call__(self, request: Any, response: Any) -> Any:
        answer = self._guard.call(self._name, partial(self._callback, request, response))
        return refusal(type(response), request, answer) if isinstance(answer, Refused) else answer


def _guard_service(guard: Guard, service: Any) -> None:
    if not isinstance(service.callback, _GuardedService):
        service.callback = _GuardedService(guard, service.srv_name, service.callback)


def refusal(kind: type, request: Any, refused: Refused) -> Any:
    """Return a negative response of type ``kind``, with the reason if it has a field for it."""
    response: Any = kind()
    if hasattr(response, "success"):
        response.success = False
    if isinstance(getattr(response, "message", None), str):
        response.message = str(refused)
    for name in ("result", "results"):  # of set_parameters and set_parameters_atomically
        if not hasattr(response, name):
            continue
        if name == "result":
            _refuse_parameter(response.result, refused)
        else:
            from rcl_interfaces.msg import SetParametersResult

            response.results = [SetParametersResult() for _ in getattr(request, "parameters", ())]
            for result in response.results:
                _refuse_parameter(result, refused)
    return response


def _refuse_parameter(result: Any, refused: Refused) -> None:
    if hasattr(result, "successful"):
        result.successful, result.reason = False, str(refused)


class GuardedExecutor(StaticSingleThreadedExecutor):
    """Runs callbacks on one thread; exceptions outside of them are counted by the node's guard."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._node_guard = Guard("openvla_ros")

    def add_node(self, node: Node) -> bool:
        """As rclpy's; what happens from now on is counted by ``node``."""
        self._node_guard = getattr(node, "guard", self._node_guard)
        return bool(super().add_node(node))

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """As rclpy's."""
        self._node_guard.call("executor", partial(super().spin_once, timeout_sec))

    def _spin_once_until_future_complete(self, future: Any, timeout_sec: Any = None) -> None:
        wait = super()._spin_once_until_future_complete
        self._node_guard.call("executor", partial(wait, future, timeout_sec))
