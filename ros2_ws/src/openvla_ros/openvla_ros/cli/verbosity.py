"""How much ``openvla`` prints: ``-v`` and ``-q``, which every verb takes.

Results and errors are always printed. ``-q`` leaves out the progress, ``-v`` adds every step and what the
package logs. In a terminal the steps of a running instruction share one line; in a file or a pipe only
what is out of the ordinary gets a line.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import IntEnum
from typing import Annotated, Any

import typer
from rich.console import Console

ORDINARY_STEPS = ("", "ok", "waiting")  # verdicts on a motion as it should be


class Verbosity(IntEnum):
    """What is printed beside results and errors."""

    QUIET = 0  # nothing
    NORMAL = 1  # progress
    VERBOSE = 2  # every step, and the package's log


LOG_LEVELS = {
    Verbosity.QUIET: logging.ERROR,
    Verbosity.NORMAL: logging.WARNING,
    Verbosity.VERBOSE: logging.DEBUG,
}
_CURRENT = ContextVar("verbosity", default=Verbosity.NORMAL)
_Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Print every step, and what the package logs.")
]
_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only.")]
OPTIONS = tuple(
    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
    for name, kind in (("verbose", _Verbose), ("quiet", _Quiet))
)


def verbosity() -> Verbosity:
    """Return what the running verb was asked for."""
    return _CURRENT.get()


def progress_console(*, hidden: bool = False) -> Console:
    """Return a console for progress; silent with ``-q`` and where ``hidden``, such as under ``--json``."""
    return Console(highlight=False, quiet=hidden or verbosity() is Verbosity.QUIET)


def printer(console: Console) -> Callable[[str], None]:
    """Return what prints a line on ``console`` as it is: not wrapped, no markup."""
    return functools.partial(console.print, soft_wrap=True, markup=False)


def with_verbosity(verb: Callable[..., None]) -> Callable[..., None]:
    """Return ``verb`` with the options ``-v`` and ``-q``."""

    @functools.wraps(verb)
    def run(*, verbose: bool, quiet: bool, **options: Any) -> None:
        if verbose and quiet:
            raise typer.BadParameter("-v and -q exclude each other")
        level = Verbosity.VERBOSE if verbose else Verbosity.QUIET if quiet else Verbosity.NORMAL
        before = _CURRENT.set(level)
        if level is not Verbosity.NORMAL:
            logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
        logging.getLogger("openvla_ros").setLevel(LOG_LEVELS[level])
        try:
            verb(**options)
        finally:
            _CURRENT.reset(before)

    own = inspect.signature(verb, eval_str=True)
    parameters = [item.replace(kind=inspect.Parameter.KEYWORD_ONLY) for item in own.parameters.values()]
    run.__signature__ = own.replace(parameters=[*parameters, *OPTIONS])  # type: ignore[attr-defined]
    run.__annotations__ = {item.name: item.annotation for item in (*parameters, *OPTIONS)}
    return run


@contextmanager
def shown_steps(console: Console) -> Iterator[Steps]:
    """Yield what shows the steps of an instruction on ``console`` while the block runs."""
    if verbosity() is Verbosity.NORMAL and console.is_terminal and not console.quiet:
        with console.status("") as status:
            yield Steps(console, status.update)
    else:
        yield Steps(console, lambda text: None)


class Steps:
    """Shows the steps of an instruction."""

    def __init__(self, console: Console, update: Callable[[str], None]) -> None:
        """``update`` replaces the one line of the newest step."""
        self._console, self._update = console, update
        self._before = ""

    def __call__(self, step: int, verdict: str) -> None:
        """Show a step and the controller's verdict on it."""
        line = f"  step {step:3d}  {verdict}"
        self._update(line)
        changed, self._before = verdict != self._before, verdict
        if verbosity() is Verbosity.VERBOSE or (changed and verdict not in ORDINARY_STEPS):
            printer(self._console)(line)
