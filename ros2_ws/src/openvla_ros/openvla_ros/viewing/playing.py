"""Shows a recording in a viewer: at once, or, where clients watch a server, at its own pace and again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from openvla_ros.values.time import seconds
from openvla_ros.viewing.shown import Shown
from openvla_ros.viewing.viewer import Viewer

BETWEEN_S = 1.0  # before it begins anew


def play(
    things: Callable[[], Iterator[Shown]], viewer: Viewer, stop: threading.Event, wait_s: float = BETWEEN_S
) -> int:
    """Show everything; return how many things the recording has, or had been shown when ``stop`` was set.

    A paced viewer gets it again and again until ``stop``; ``things`` returns it from the beginning each time.
    """
    while True:
        count = _once(things(), viewer, stop)
        viewer.flush()
        if not viewer.paced or stop.wait(wait_s):
            return count
        viewer.restart()


def _once(things: Iterator[Shown], viewer: Viewer, stop: threading.Event) -> int:
    count, before_ns = 0, None
    for thing in things:
        now_ns = thing.moment.received_ns
        if viewer.paced and before_ns is not None and now_ns > before_ns:
            stop.wait(seconds(now_ns - before_ns))
        if stop.is_set():
            break
        before_ns = now_ns
        viewer.show(thing)
        count += 1
    return count
