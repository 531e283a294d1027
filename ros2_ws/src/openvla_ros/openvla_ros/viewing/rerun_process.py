"""rerun's own program, as a process: its window, or the server of its page.

The functions of rerun's Python package that serve, and those that open a window, listen on every address of
the machine (0.41). Only the program takes an address, so that is what runs here.
"""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

import rerun_cli

from openvla_ros.bringup.supervisor import die_with_parent
from openvla_ros.errors import DeviceError
from openvla_ros.viewing.viewer import ViewerRequest

PORT = 9876
START_S = 30.0  # how long the program may take until it listens
STOP_S = 5.0
WINDOW_S = 2.0  # within which it ends if it cannot open its window


class RerunProcess:
    """A running viewer that data can be sent to."""

    def __init__(self, request: ViewerRequest) -> None:
        """Start it and wait until it listens; raises ``DeviceError`` with what it says if it does not."""
        self._serves = request.serve
        port = PORT if request.port is None else request.port
        reached = "127.0.0.1" if request.host in ("0.0.0.0", "localhost") else request.host
        address = "127.0.0.1" if request.host == "localhost" else request.host
        self.data_url = f"rerun+http://{_in_url(reached)}:{port}/proxy"
        for wanted in (port, *([request.web_port] if request.serve else [])):
            _check_free(address, wanted)
        command = [str(Path(rerun_cli.__file__).with_name("rerun")), "--bind", address, "--port", str(port)]
        if request.serve:
            command += ["--serve-web", "--web-viewer-port", str(request.web_port)]
            page = f"http://{_in_url(reached)}:{request.web_port}/?url={quote(self.data_url, safe='')}"
            self.where = f"{page}\nor: rerun --connect {self.data_url}"
        else:
            command += ["--expect-data-soon"]
            self.where = "rerun's window"
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._complaints,
            start_new_session=True,  # Ctrl-C is for this program, which then ends it in order
            preexec_fn=die_with_parent if request.serve else None,  # a window stays
            env={**os.environ, "RERUN_APP_ONLY": "true"},
        )
        self._wait(reached, port)

    def _wait(self, host: str, port: int) -> None:
        end_s = time.monotonic() + START_S
        while time.monotonic() < end_s and self._process.poll() is None:
            try:
                socket.create_connection((host, port), timeout=1.0).close()
            except OSError:
                time.sleep(0.05)
                continue
            if self._lives_on():
                return
        code = self._process.poll()
        self._process.kill()
        said = self.complaint()
        self._complaints.close()
        how = f"ended with exit code {code}" if code is not None else f"does not listen within {START_S:g} s"
        raise DeviceError(f"rerun {how}; {said or 'try --serve, or --save FILE.rrd'}")

    @property
    def alive(self) -> bool:
        """Whether the program still runs."""
        return self._process.poll() is None

    def _lives_on(self) -> bool:
        """Return whether it still runs a moment later: it listens before it opens its window."""
        try:
            self._process.wait(0.0 if self._serves else WINDOW_S)
        except subprocess.TimeoutExpired:
            return True
        return False

    def complaint(self) -> str:
        """Return the end of what the program has said."""
        self._complaints.seek(0)
        return self._complaints.read().decode(errors="replace").strip()[-300:]

    def close(self) -> None:
        """End the server of a page; a window stays until its user closes it."""
        self._complaints.close()
        if not self._serves:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _check_free(host: str, port: int) -> None:
    """Raise ``DeviceError`` where somebody listens already, or nobody can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise DeviceError(
                f"cannot listen on {host}:{port}: {error}; choose another --host, --port or --web-port"
            ) from error


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
