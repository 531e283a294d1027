"""The process that imports what nodes import, once, and forks a process for each program that is asked for.

No thread of Python's runs and no DDS is initialised before the fork (the ROS wheels' tracing library has
two idle threads of its own). Each request comes as one JSON object with the three standard streams, over the
socket whose file descriptor is the argument.
"""

from __future__ import annotations

import array
import ctypes
import gc
import importlib
import io
import json
import os
import re
import runpy
import signal
import socket
import sys
import threading
import time
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# What each kind of program imports; the second kind, with a network, everything of the first as well.
NODES = (
    "rclpy.lifecycle", "rclpy.action", "rclpy.executors", "openvla_ros.nodes.controller_node",
    "openvla_ros.nodes.simulation_node", "openvla_ros.nodes.policy_node", "openvla_ros.nodes.camera_node",
    "openvla_ros.nodes.recorder_node", "openvla_ros.nodes.teleop_node", "openvla_ros.nodes.setpoint_node",
    "openvla_ros.bringup.node_program", "openvla_ros.cli.program", "openvla_ros.programs.check",
)  # fmt: skip
NETWORK = ("torch", "transformers", "openvla_ros.model.inference.loading")
# What the ROS wheels set before they start Python once more: a forked process is past that.
KEPT = ("_ROS_WHEELS_BOOTSTRAP_COMPLETE", "LD_LIBRARY_PATH")
FORK_S = 10.0
TRACING = re.compile(r"/liblttng-ust[-.](?!(common|tracepoint|ctl))\S*$")
SIGSET_BYTES = 128  # sizeof(sigset_t) in glibc


def receive(connection: socket.socket) -> tuple[dict, list[int]] | None:
    """Return the next request and its file descriptors; None when the tests have ended."""
    fds = array.array("i")
    head, ancillary, _, _ = connection.recvmsg(8, socket.CMSG_SPACE(3 * fds.itemsize))
    if not head:
        return None
    for _, _, data in ancillary:
        fds.frombytes(data)
    size, body = int.from_bytes(head, "big"), b""
    while len(body) < size:
        body += connection.recv(size - len(body))
    return json.loads(body), list(fds)


def serve(connection: socket.socket, tests_pid: int) -> dict:
    """Fork for each request; return the request in the forked process."""
    while (received := receive(connection)) is not None:
        request, fds = received
        child = os.fork()
        if child == 0:
            # The process in between ends at once, so that the tests' process becomes the parent.
            grandchild = fork_with_tracing()
            if grandchild:
                connection.sendall(grandchild.to_bytes(8, "big"))
                os._exit(0)
            connection.close()
            become(request, fds, tests_pid)
            return request
        for fd in fds:
            os.close(fd)
        os.waitpid(child, 0)
        connection.sendall(b"\0")  # by now the tests' process is the parent
    os._exit(0)


def fork_with_tracing() -> int:
    """Fork as ``os.fork``, and let the ROS wheels' tracing library start its threads in the new process.

    Otherwise that process would end threads of others, or crash, when it exits.
    """
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    hooks = []
    for path in sorted({line.split()[-1] for line in lines if TRACING.search(line)}):
        library, mask = ctypes.CDLL(path), ctypes.create_string_buffer(SIGSET_BYTES)
        # Since its version 2.13 the names begin with lttng.
        prefix = "lttng_ust_" if hasattr(library, "lttng_ust_before_fork") else "ust_"
        if hasattr(library, f"{prefix}before_fork"):
            hooks.append((library, prefix, mask))
    for library, prefix, mask in hooks:
        library[f"{prefix}before_fork"](mask)
    pid = os.fork()
    for library, prefix, mask in hooks:
        library[f"{prefix}after_fork_{'parent' if pid else 'child'}"](mask)
    return pid


def become(request: dict, fds: list[int], parent: int) -> None:
    """Take the streams, folder, environment and signals of a process that was just started."""
    for target, fd in enumerate(fds):
        os.dup2(fd, target)
    for fd in fds:
        if fd > 2:
            os.close(fd)
    os.chdir(request["folder"])
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    os.environ.clear()
    os.environ.update({**kept, **request["environment"]})
    unbuffered = bool(os.environ.get("PYTHONUNBUFFERED"))
    streams = {
        "stdin": io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), "utf-8"),
        "stdout": output(1, unbuffered),
        "stderr": output(2, unbuffered, line_buffering=True, errors="backslashreplace"),
    }
    for name, stream in streams.items():
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    deadline = time.monotonic() + FORK_S
    while os.getppid() != parent and time.monotonic() < deadline:
        time.sleep(0.001)


def output(fd: int, unbuffered: bool, **options: Any) -> io.TextIOWrapper:
    """Return what Python itself makes of an output stream at its start."""
    raw = io.FileIO(fd, "w", closefd=False)
    buffer = raw if unbuffered else io.BufferedWriter(raw)
    return io.TextIOWrapper(buffer, "utf-8", write_through=unbuffered, **options)


def run_as_main(arguments: list[str]) -> None:
    """Run a module (``-m``), source text (``-c``) or a file as ``python`` with these arguments would."""
    first, *rest = arguments
    if first == "-m":
        target, *rest = rest
        sys.argv, sys.path[0] = [target, *rest], str(Path.cwd())
        sys.modules.pop(target, None)
        runpy.run_module(target, run_name="__main__", alter_sys=True)
        return
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    if first == "-c":
        source, *rest = rest
        sys.argv, sys.path[0], name = ["-c", *rest], "", "<string>"
    else:
        source, name = Path(first).read_text(encoding="utf-8"), first
        sys.argv, sys.path[0] = [first, *rest], str(Path(first).resolve().parent)
        main.__file__ = first
    exec(compile(source, name, "exec"), main.__dict__)


def preload(modules: Sequence[str]) -> None:
    for name in modules:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if str(error.name).startswith("openvla_ros"):
                raise  # else it is an extra that is not installed
    gc.collect()
    gc.freeze()
    assert threading.active_count() == 1, threading.enumerate()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    preload(NODES + NETWORK if sys.argv[3] == "network" else NODES)
    tests = socket.socket(fileno=int(sys.argv[1]))
    tests.sendall(b"\0")
    run_as_main(serve(tests, int(sys.argv[2]))["arguments"])
