"""What tests of nodes share: node processes, and a node of the test's own that listens."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence

import rclpy
from support.python_process import start_python
from support.waiting import DISCOVERY_S, holds_within

from openvla_ros.bringup.dds import dds_environment
from openvla_ros.bringup.supervisor import child_environment
from openvla_ros.ros.executor import StaticSingleThreadedExecutor


class NodeProcess:
    """A node of the package, or a program that runs one, as a process; stopped at the end of ``with``."""

    def __init__(
        self,
        target: str,
        parameters: dict | None = None,
        remaps: Sequence[str] = (),
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        run = ["-m", target] if "\n" not in target else ["-c", target]
        arguments = [a for key, value in (parameters or {}).items() for a in ("-p", f"{key}:={value}")]
        arguments += [a for remap in remaps for a in ("-r", remap)]
        environment = child_environment(environment, dds_environment(environment))
        network = (parameters or {}).get("policy") == "openvla"
        self.process = start_python([*run, "--ros-args", *arguments], environment, network=network)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line)

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 2 * DISCOVERY_S) -> int:
        """Send the signal and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(timeout_s)
        finally:
            self.process.kill()
            self.process.wait()
            self._reader.join(5)
            self.process.stdout.close()

    def __enter__(self) -> NodeProcess:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


class Listener:
    """A node of the test's own, spun only while the test waits for something."""

    def __init__(self, name: str = "listener", namespace: str = "", remaps: Sequence[str] = ()) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        arguments = ["--ros-args", *(a for remap in remaps for a in ("-r", remap))]
        self.node = rclpy.create_node(name, context=self.context, namespace=namespace, cli_args=arguments)
        self._executor = StaticSingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)

    def collect(self, kind: type, topic: str, profile: object) -> list:
        """Subscribe, and return the list that the messages go into.

        All that wait are taken at once: at one a spin, a busy machine would never catch up.
        """
        messages: list = []

        def note(message: object) -> None:
            messages.append(message)
            with subscription.handle:
                while (taken := subscription.handle.take_message(kind, False)) is not None:
                    messages.append(taken[0])

        subscription = self.node.create_subscription(kind, topic, note, profile)
        return messages

    def spin_until(self, done: Callable[[], bool], timeout_s: float = DISCOVERY_S) -> bool:
        """Spin until ``done()``; return whether that came true in time."""
        return holds_within(done, timeout_s, self.spin_once)

    def spin_once(self, timeout_s: float = 0.02) -> None:
        """Run one callback that is due, waiting for it for a while."""
        self._executor.spin_once(timeout_sec=timeout_s)

    def spin_for(self, seconds: float) -> None:
        """Spin for a while: for what must not come."""
        self.spin_until(lambda: False, seconds)

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *exc: object) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)
