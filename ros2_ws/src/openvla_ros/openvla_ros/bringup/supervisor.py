"""Runs a ``Graph`` as processes where ``ros2 launch`` is missing: logs, restarts, orderly stop.

Every line of a child is printed with the child's name in front. If a child exits by itself, the
others are stopped in order, the controller with its safe command before the robot, or the child is
restarted where the graph says so. Children die with this process, whatever happens to it.
"""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from openvla_ros.bringup.enclaves import enclave_arguments
from openvla_ros.bringup.graph import Graph, NodeSpec
from openvla_ros.bringup.stop_signals import hold_back

# How long a process may take to stop before it is killed; the controller needs the longest: it
# first brings the arm to rest within its acceleration limits, and waits until that is delivered.
STOP_S = 10.0
RESTART_DELAY_S = 1.0
# A camera is needed at once. One that keeps exiting is restarted with growing delays.
FIRST_RESTART_DELAY_S = 0.1
MAX_RESTARTS = 20
SETTLED_S = 10.0  # after running for this long, a process's restart count is reset
PR_SET_PDEATHSIG = 1
# The ROS wheels on PyPI re-execute Python once to set the library path, and mark that they did. A child must
# find neither the mark nor their folders; whatever else is on the path is the user's.
BOOTSTRAP_MARK, LIBRARY_PATH = "_ROS_WHEELS_BOOTSTRAP_COMPLETE", "LD_LIBRARY_PATH"

Report = Callable[[str, str], None]  # (process name, line)


def child_environment(base: Mapping[str, str], extra: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a node's process."""
    environment = {**base, **extra, "PYTHONUNBUFFERED": "1", "RCUTILS_LOGGING_USE_STDOUT": "1"}
    # Several processes share the cores: two torch threads each on busy cores are slower than one.
    environment.setdefault("OMP_NUM_THREADS", "1")
    if environment.pop(BOOTSTRAP_MARK, None) is not None:
        wheels = {Path(sys.prefix, "lib"), Path(sysconfig.get_path("purelib"))}
        folders = filter(None, environment.pop(LIBRARY_PATH, "").split(os.pathsep))
        if kept := [folder for folder in folders if wheels.isdisjoint((Path(folder), Path(folder).parent))]:
            environment[LIBRARY_PATH] = os.pathsep.join(kept)
    return environment


def restart_delay_s(spec: NodeSpec, restarts: int) -> float:
    """Return how long to wait, in seconds, before restart number ``restarts`` (from 1) of a process.

    Long enough that the policy notices that the controller was gone, and the other way round.
    """
    if spec.on_exit != "restart":
        return RESTART_DELAY_S
    return min(FIRST_RESTART_DELAY_S * 2.0 ** (restarts - 1), RESTART_DELAY_S)


def die_with_parent() -> None:
    """Ask Linux to end this process when its parent ends; called in the child before exec."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def prepare_child() -> None:
    """Also block stop signals until the node's program handles them; called in the child before exec."""
    hold_back()
    die_with_parent()


@dataclass
class _Child:
    spec: NodeSpec
    process: subprocess.Popen[bytes]
    restarts: int = 0  # in a row
    started_at: float = field(default_factory=time.monotonic)
    restart_at: float | None = None
    exit_code: int | None = None


@dataclass
class Supervisor:
    """Starts, watches and stops the processes of one graph."""

    graph: Graph
    report: Report
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    _children: dict[str, _Child] = field(default_factory=dict, init=False)
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector, init=False)
    _stop_requested: bool = field(default=False, init=False)

    def start(self) -> None:
        """Start every process of the graph, in order."""
        for spec in self.graph.nodes:
            self._children[spec.name] = _Child(spec, self._spawn(spec))

    def run(self) -> int:
        """Start, forward logs until a signal or a failure, stop in order; return the exit code.

        0 after a signal; otherwise the exit code of the process whose exit stopped the rest (1 if that
        was 0: a node should never exit by itself).
        """
        previous = {n: signal.signal(n, self._on_signal) for n in (signal.SIGINT, signal.SIGTERM)}
        failed: _Child | None = None
        try:
            self.start()
            while not self._stop_requested and failed is None:
                self.forward(timeout_s=0.1)
                failed = self.check()
        finally:
            self.stop()
            for number, handler in previous.items():
                signal.signal(number, handler)
        if failed is None or failed.exit_code is None:
            return 0
        return failed.exit_code if failed.exit_code > 0 else 1

    def forward(self, timeout_s: float) -> None:
        """Forward the lines that children have written, waiting at most ``timeout_s`` for one."""
        for key, _ in self._selector.select(timeout_s):
            self._drain(key)

    def check(self) -> _Child | None:
        """Restart what may be restarted; return the child whose exit must stop the rest, if any."""
        now = time.monotonic()
        for child in self._children.values():
            if child.restart_at is not None:
                if now >= child.restart_at:
                    child.restart_at, child.started_at = None, now
                    child.process = self._spawn(child.spec)
                continue
            code = child.process.poll()
            if code is None:
                continue
            child.exit_code = code
            name = child.spec.name
            if now - child.started_at > SETTLED_S:
                child.restarts = 0
            if child.spec.restarts_after(code) and child.restarts < MAX_RESTARTS:
                child.restarts += 1
                child.restart_at = now + restart_delay_s(child.spec, child.restarts)
                self.report(name, f"exited with {describe_exit(code)}; restart {child.restarts}")
                continue
            self.report(name, f"exited with {describe_exit(code)}; stopping the rest")
            return child
        return None

    def pid(self, name: str) -> int:
        """Return the process id of the node called ``name``."""
        return self._children[name].process.pid

    def stop(self) -> dict[str, int]:
        """Stop the children in the graph's stop order; return their exit codes."""
        for rank in sorted({child.spec.stop_order for child in self._children.values()}):
            group = [c for c in self._children.values() if c.spec.stop_order == rank]
            for child in group:
                child.restart_at = None
                if child.process.poll() is None:
                    child.process.send_signal(signal.SIGINT)
            self._wait(group)
        for key in list(self._selector.get_map().values()):
            self._drain(key)
        for child in self._children.values():
            if child.process.stdout is not None:
                child.process.stdout.close()
        self._selector.close()
        return {name: child.process.returncode for name, child in self._children.items()}

    def _spawn(self, spec: NodeSpec) -> subprocess.Popen[bytes]:
        command = [
            spec.python or sys.executable,
            "-m",
            *spec.program,
            "--ros-args",
            *spec.ros_arguments(self.graph.namespace),
            *enclave_arguments(self.environment, self.graph.namespace, spec.name),
        ]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            env=child_environment(self.environment, self.graph.environment),
            start_new_session=True,  # Ctrl-C reaches only the supervisor, which stops in order
            preexec_fn=prepare_child,
        )
        if process.stdout is not None:
            os.set_blocking(process.stdout.fileno(), False)
            self._selector.register(
                process.stdout, selectors.EVENT_READ, (spec.name, bytearray(), process.stdout)
            )
        return process

    def _drain(self, key: selectors.SelectorKey) -> None:
        """Report the complete lines; keep an unfinished one for later."""
        name, pending, stream = key.data
        while True:
            try:
                data = os.read(key.fd, 65536)
            except BlockingIOError:
                break
            if not data:
                self._selector.unregister(key.fileobj)
                stream.close()
                if pending:
                    self.report(name, pending.decode(errors="replace"))
                return
            *lines, rest = (bytes(pending) + data).split(b"\n")
            pending[:] = rest
            for line in lines:
                self.report(name, line.decode(errors="replace"))

    def _wait(self, group: list[_Child]) -> None:
        deadline = time.monotonic() + STOP_S
        while any(c.process.poll() is None for c in group) and time.monotonic() < deadline:
            self.forward(timeout_s=0.05)
        for child in group:
            if child.process.poll() is None:
                self.report(child.spec.name, f"did not stop within {STOP_S:.0f} s; killed")
                child.process.kill()
                child.process.wait()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stop_requested = True


def describe_exit(code: int) -> str:
    """Return an exit code in words: ``code 1`` or ``signal SIGKILL``."""
    return f"code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
