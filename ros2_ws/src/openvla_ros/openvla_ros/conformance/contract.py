"""Reports a violated contract: what it says, what happened instead, and where it is written."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from openvla_ros.errors import ConformanceError, OpenVLARosError

T = TypeVar("T")


@dataclass(frozen=True)
class Contract:
    """An implementation, and the protocol that it must satisfy."""

    protocol: type  # where the contract is written
    implementation: str  # the class that is checked

    def require(self, holds: bool, member: str, says: str, got: str) -> None:
        """Raise ``ConformanceError`` unless ``holds``; ``says`` completes "the contract says that"."""
        if not holds:
            raise self.broken(member, says, got)

    def broken(self, member: str, says: str, got: str) -> ConformanceError:
        """Return the error for ``member`` of the implementation."""
        written = f"{self.protocol.__module__}.{self.protocol.__qualname__}.{member}"
        return ConformanceError(
            f"{self.implementation}.{member}: the contract says that {says}; got: {got} (see {written})"
        )

    def check_members(self, subject: object, attributes: Mapping[str, bool]) -> None:
        """Require every attribute (name → whether it is a method). Properties are not evaluated."""
        for name, is_method in attributes.items():
            there = hasattr(type(subject), name) or name in getattr(subject, "__dict__", {})
            kind = "method" if is_method else "attribute"
            self.require(there, name, f"there is the {kind} {name!r}", f"no {name!r}")
            if is_method:
                self.require(
                    callable(getattr(subject, name)), name, f"{name!r} is a method", "something not callable"
                )

    def call(
        self, member: str, action: Callable[[], T], allowed: tuple[type[OpenVLARosError], ...] = ()
    ) -> T:
        """Return the result of ``action``; errors of types that are not ``allowed`` violate the contract."""
        try:
            return action()
        except allowed:
            raise
        except Exception as error:
            names = " or ".join(kind.__name__ for kind in allowed)
            says = f"it raises nothing but {names}" if names else "it does not raise here"
            raise self.broken(member, says, f"{type(error).__name__}: {error}") from error

    def check_text(self, member: str, read: Callable[[], Any]) -> None:
        """Require one non-empty line of text."""
        text = self.call(member, read)
        is_line = isinstance(text, str) and bool(text.strip()) and "\n" not in text
        self.require(is_line, member, "it is one line of readable text", repr(text))

    def check_close(self, close: Callable[[], object]) -> None:
        """Require that ``close`` can be called twice."""
        self.call("close", close)
        try:
            close()
        except Exception as error:
            raise self.broken(
                "close", "it is safe to call twice", f"the second call raised {type(error).__name__}: {error}"
            ) from error


def timed(action: Callable[[], T]) -> tuple[T, float]:
    """Return the result of ``action`` and how long it took, seconds."""
    started = time.monotonic()
    value = action()
    return value, time.monotonic() - started
