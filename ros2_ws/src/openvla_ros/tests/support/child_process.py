"""A child process that speaks JSON lines: what the node tests drive their other processes with."""

import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from support.python_process import start_python

HERE = Path(__file__).resolve().parent


class Child:
    """A running Python program; lines of its output that are JSON objects are events, the others its log."""

    def __init__(self, arguments: list[str], env: Mapping[str, str] | None = None) -> None:
        environment = {**(env if env is not None else os.environ), "PYTHONUNBUFFERED": "1"}
        self.process = start_python(arguments, environment, with_stdin=True)
        self.log: list[str] = []
        self._events: queue.Queue = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            if line.startswith("{"):
                self._events.put(json.loads(line))
            else:
                self.log.append(line)
        self._events.put(None)

    def say(self, **command) -> None:
        """Write one JSON line to the program's input."""
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def expect(self, matches: Callable[[dict], bool], timeout_s: float = 60.0) -> dict:
        """Return the next event that ``matches``; those before it are dropped."""
        deadline = time.monotonic() + timeout_s
        seen = []
        while (left := deadline - time.monotonic()) > 0:
            try:
                event = self._events.get(timeout=left)
            except queue.Empty:
                break
            if event is None:
                raise AssertionError("the program ended:\n" + "".join(self.log[-40:]))
            if matches(event):
                return event
            seen.append(event)
        raise AssertionError(f"nothing matched; last seen {seen[-5:]}\n" + "".join(self.log[-40:]))

    def drain(self) -> list[dict]:
        """Return the events that came so far and were not asked for."""
        events = []
        while not self._events.empty():
            events.append(self._events.get_nowait())
        return [event for event in events if event is not None]

    def stop(self) -> None:
        """End the program."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
        self._reader.join(10)
        self.process.stdin.close()
        self.process.stdout.close()


def script_arguments(script: str, *arguments: str) -> list[str]:
    """Return the arguments of ``python`` that run ``tests/support/<script>``."""
    return [str(HERE / script), *arguments]


@contextmanager
def python_child(script: str, *arguments: str, env: Mapping[str, str] | None = None) -> Iterator[Child]:
    """Run ``tests/support/<script>`` as a child for the length of the block."""
    child = Child(script_arguments(script, *arguments), env)
    try:
        yield child
    finally:
        child.stop()
