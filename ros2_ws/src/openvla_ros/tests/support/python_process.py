"""Python programs as processes of their own, forked from one that has imported the package already.

A forked process has its own environment, folder, streams and signals, and is a child of this process: it
can be waited for and killed like any other. Importing what a node needs takes longer than all else that
most tests do with it.
"""

from __future__ import annotations

import array
import atexit
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

SERVER = Path(__file__).with_name("fork_server_process.py")
PR_SET_CHILD_SUBREAPER = 36
START_S = 120.0
POLL_S = 0.005
# What is read when a library is loaded or a module imported: a server is good for one set of values.
READ_EARLY = (
    "PYTHON", "LD_", "ROS_PYTHON_", "ROS_DISTRO", "RMW_", "AMENT_", "MUJOCO_", "PYOPENGL", "CUDA", "OMP_",
    "MKL_", "OPENBLAS_", "LP_", "LC_", "LANG",
)  # fmt: skip


class ForkedProcess:
    """A forked process, with what the tests use of ``subprocess.Popen``."""

    def __init__(self, pid: int, stdin: IO[str] | None, stdout: IO[str]) -> None:
        self.pid, self.stdin, self.stdout = pid, stdin, stdout
        self.returncode: int | None = None
        self._waiting = threading.Lock()

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""
        with self._waiting:
            if self.returncode is None:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code when it has ended."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            time.sleep(POLL_S)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def __enter__(self) -> ForkedProcess:
        return self

    def __exit__(self, kind: type | None, *exc: object) -> None:
        if kind is not None:  # the test has failed before it could stop the process
            self.kill()
        for stream in (self.stdin, self.stdout):
            if stream is not None:
                stream.close()
        self.wait()

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """A process with everything imported, which forks others."""

    def __init__(self, environment: Mapping[str, str], kind: str) -> None:
        self._socket, theirs = socket.socketpair()
        command = [sys.executable, str(SERVER), str(theirs.fileno()), str(os.getpid()), kind]
        self._process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=dict(environment)
        )
        theirs.close()
        self._socket.settimeout(START_S)
        assert self._socket.recv(1), "the fork server ended at its start"

    def fork(self, request: dict, fds: Sequence[int]) -> int:
        """Return the process id of a child of this process, which does what is requested."""
        body = json.dumps(request).encode()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        adopt_orphans(True)
        try:
            self._socket.sendmsg([len(body).to_bytes(8, "big")], rights)
            self._socket.sendall(body)
            answer = b""
            while len(answer) < 9:
                part = self._socket.recv(9 - len(answer))
                assert part, "the fork server ended"
                answer += part
        finally:
            adopt_orphans(False)
        return int.from_bytes(answer[:8], "big")

    def stop(self) -> None:
        self._socket.close()
        self._process.wait(10)


def adopt_orphans(yes: bool) -> None:
    """Let Linux make this process the parent of a descendant whose parent ends."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, int(yes), 0, 0, 0)


_servers: dict[tuple, ForkServer] = {}
_lock = threading.Lock()


def _fork(
    arguments: Sequence[object],
    environment: Mapping[str, str] | None,
    fds: Sequence[int],
    folder: Path | None = None,
    network: bool = False,
) -> int:
    environment = dict(os.environ if environment is None else environment)
    request = {
        "arguments": [str(a) for a in arguments],
        "environment": environment,
        "folder": str(folder or Path.cwd()),
    }
    early = frozenset((k, v) for k, v in environment.items() if k.startswith(READ_EARLY))
    kind = "network" if network else "nodes"
    with _lock:
        if (kind, early) not in _servers:
            server = _servers[kind, early] = ForkServer(environment, kind)
            atexit.register(server.stop)
        return _servers[kind, early].fork(request, fds)


def start_python(
    arguments: Sequence[object],
    environment: Mapping[str, str] | None = None,
    with_stdin: bool = False,
    with_errors: bool = True,
    network: bool = False,
) -> ForkedProcess:
    """Start ``python arguments``; its output and errors are one stream of text, its input another if wanted.

    Without ``with_errors`` they go where this process's own go. ``network``: it needs torch.
    """
    output, output_end = os.pipe()
    input_end, input_ = os.pipe() if with_stdin else (os.open(os.devnull, os.O_RDONLY), None)
    try:
        errors_end = output_end if with_errors else sys.__stderr__.fileno()
        pid = _fork(arguments, environment, [input_end, output_end, errors_end], network=network)
    finally:
        os.close(input_end)
        os.close(output_end)
    stdin = None if input_ is None else os.fdopen(input_, "w", encoding="utf-8")
    return ForkedProcess(pid, stdin, os.fdopen(output, encoding="utf-8"))


def run_python(
    arguments: Sequence[object],
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    network: bool = False,
    timeout_s: float = 170.0,
) -> subprocess.CompletedProcess:
    """Return what ``python arguments`` says, and its exit code; ``network``: it needs torch."""
    with Path(os.devnull).open() as nothing, TemporaryFile("w+") as output, TemporaryFile("w+") as errors:
        fds = [file.fileno() for file in (nothing, output, errors)]
        process = ForkedProcess(_fork(arguments, environment, fds, folder, network), None, output)
        try:
            code = process.wait(timeout_s)
        finally:
            process.kill()
            process.wait()
        output.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess(list(arguments), code, output.read(), errors.read())


OPENVLA = ("-c", "from openvla_ros.cli.main import main; main()")


def run_openvla(
    *arguments: object, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess:
    """Return what the program ``openvla`` says, in a process of its own, and its exit code."""
    return run_python([*OPENVLA, *arguments], environment)


def start_openvla(*arguments: object) -> ForkedProcess:
    """Start the program ``openvla``; its errors go where this process's own go."""
    return start_python([*OPENVLA, *arguments], with_errors=False)
