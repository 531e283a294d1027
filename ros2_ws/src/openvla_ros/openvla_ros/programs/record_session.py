"""``openvla record``: a recorder node, a terminal, and a person who demonstrates.

The recorder node runs in this process on a thread of its own, so that nothing that the terminal does
costs a message; what the person asks for is done on that thread too, between two messages.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from typing import TextIO, TypeVar

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.logging import LoggingSeverity
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from std_msgs.msg import String

from openvla_ros.bringup.dds import dds_environment, keep_image_memory
from openvla_ros.bringup.graph import arguments_of_one_node
from openvla_ros.data.bags.recording_folder import RECORDING
from openvla_ros.data.recording.session_state_machine import HELP, PROMPTS, Act, Batch, State
from openvla_ros.errors import DatasetError, DeviceError
from openvla_ros.nodes.recorder_node import RecorderNode
from openvla_ros.ros import qos
from openvla_ros.ros.guard import GuardedExecutor
from openvla_ros.ros.start import start_ros
from openvla_ros.teleop.keyboard import Keyboard

T = TypeVar("T")
PERIOD_S = 0.1
SPEAKERS = ("espeak-ng", "spd-say", "espeak", "say")


@dataclass(frozen=True)
class BatchOptions:
    """What the person asks for."""

    robot: str
    task: str
    episodes: int
    pause_s: float
    folder: str = ""
    operator: str = ""
    speak: bool = True
    namespace: str = ""
    use_sim_time: bool = False


class Prompter:
    """Says what is next: aloud where a speech program is installed, else with the terminal's bell."""

    def __init__(self, console: Console, speak: bool) -> None:
        self._console, self._speak = console, speak
        self._program = next(filter(None, map(shutil.which, SPEAKERS)), None)
        self._speaking: subprocess.Popen[bytes] | None = None

    def say(self, text: str) -> None:
        """Say ``text`` without waiting."""
        if not self._speak:
            return
        if self._program is None:
            self._console.bell()
            return
        self.close()
        self._speaking = subprocess.Popen(
            [self._program, text], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def close(self) -> None:
        """Be silent."""
        if self._speaking is not None:
            self._speaking.terminate()
            self._speaking.wait(timeout=5)
            self._speaking = None


class ExecutorThread:
    """A node that is spun on a thread of its own, which also does what others ask of the node."""

    def __init__(self, node: RecorderNode) -> None:
        self._executor = GuardedExecutor()
        self._executor.add_node(node)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._spin, name="recorder")
        self._thread.start()

    def call(self, act: Callable[[], T]) -> T:
        """Return what ``act`` returns, or raise what it raises, on the node's thread.

        Raises ``DeviceError`` if that thread has ended.
        """
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(act())
            except Exception as error:  # noqa: BLE001 - handed on to whoever asked
                done.set_exception(error)

        self._executor.create_task(run)
        while not wait([done], PERIOD_S).done:
            if not self._thread.is_alive():
                raise DeviceError("the recorder's thread has ended; nothing is recorded any more")
        return done.result()

    def stop(self) -> None:
        """End the thread; the executor goes with the node."""
        self._stopping.set()
        self._thread.join()

    def shutdown(self) -> None:
        """Give the executor back."""
        self._executor.shutdown()

    def _spin(self) -> None:
        try:
            while not self._stopping.is_set():
                self._executor.spin_once(timeout_sec=PERIOD_S)
        except ExternalShutdownException:
            return


class BatchRecording:
    """One batch, from the first prompt to the last."""

    def __init__(
        self, node: RecorderNode, thread: ExecutorThread, options: BatchOptions, console: Console
    ) -> None:
        self._node, self._thread, self._options, self._console = node, thread, options, console
        self._batch = Batch(options.episodes, options.pause_s)
        self._prompter = Prompter(console, options.speak)
        # Not the topic ``instruction``: a policy that listens there would begin to act on it.
        self._words = node.create_publisher(String, "recorder/instruction", qos.LATCHED)
        self._words.publish(String(data=options.task))
        self._said: State | None = None
        self._started_s = 0.0
        self.message = ""
        self.kept: list[str] = []

    @property
    def over(self) -> bool:
        """Whether the batch has ended."""
        return self._batch.state == "over"

    def begin(self) -> None:
        """Begin with the first pause."""
        self._batch.begin(time.monotonic())

    def step(self, typed: str) -> None:
        """Do what the keys and the time ask for."""
        now_s = time.monotonic()
        for key in typed.lower():
            self._do(self._batch.key(key), now_s)
        self._do(self._batch.due(now_s), now_s)
        if self._batch.state != self._said:
            self._said = self._batch.state
            self._prompter.say(
                f"{PROMPTS[self._said]} {self._options.task if self._said == 'recording' else ''}"
            )

    def interrupt(self) -> None:
        """End at once: an episode in progress is kept, with outcome ``unknown``."""
        if self._node.recording:
            self._keep(self._thread.call(partial(self._node.finish, "unknown")).name)

    def close(self) -> None:
        """End a prompt that is still being spoken."""
        self._prompter.close()

    def screen(self) -> Group:
        """Return what the terminal shows."""
        batch, now_s = self._batch, time.monotonic()
        facts = Table.grid(padding=(0, 2))
        facts.add_row("task", self._options.task)
        facts.add_row("folder", str(self._node.recordings.root))
        state = {
            "pause": f"next in {batch.left_s(now_s):.0f} s",
            "recording": f"{now_s - self._started_s:.1f} s",
        }
        facts.add_row("state", f"{batch.state}  {state.get(batch.state, '')}")
        health = self._node.health()
        facts.add_row("written", f"{health.values['megabytes']} MB, {health.values['messages']} messages")
        facts.add_row("disk", f"{health.values.get('free_megabytes', '?')} MB free")
        progress = Table.grid(padding=(0, 2))
        progress.add_row(
            f"episode {min(batch.recorded + 1, batch.episodes)} of {batch.episodes}",
            ProgressBar(total=batch.episodes, completed=batch.recorded, width=40),
        )
        lines: list[Text] = []
        if health.level != "ok":
            lines.append(Text(health.message, style="bold red" if health.level == "error" else "yellow"))
        lines += [Text(warning, style="yellow") for warning in self._node.warnings()]
        if self.message:
            lines.append(Text(self.message, style="cyan"))
        return Group(progress, facts, *lines, Text(HELP[batch.state], style="dim"))

    def _do(self, act: Act | None, now_s: float) -> None:
        if act is None:
            return
        try:
            self._thread.call(partial(self._perform, act))
        except DatasetError as error:
            self.message = str(error)
            if act != "quit":
                self._batch.refused(self._node.recording)
                return
        self._batch.done(act, now_s)

    def _perform(self, act: Act) -> None:
        match act:
            case "start":
                self.message = self._named(self._node.begin().name)
                self._started_s = time.monotonic()
            case "rerecord":
                again = self._node.rerecord()
                if self._batch.state != "recording":
                    self.kept.pop()
                self.message = self._named(again.name)
                self._started_s = time.monotonic()
            case "success":
                self._keep(self._node.finish("success").name)
            case "failure":
                self._keep(self._node.finish("failure").name)
            case "discard":
                self._node.discard()
                self.message = "discarded"
            case "quit":
                if self._node.recording:
                    self._node.discard()

    def _keep(self, name: str) -> None:
        self.kept.append(name)
        self.message = f"{name} kept"

    @staticmethod
    def _named(name: str) -> str:
        return name.removesuffix(RECORDING)


def record(options: BatchOptions, stream: TextIO | None = None) -> list[str]:
    """Record a batch in this terminal; return the names of the episodes that were kept.

    Raises ``DeviceError`` without a terminal and ``DatasetError`` if the folder cannot be used.
    """
    console = Console()
    args = arguments_of_one_node("recorder", options.robot, options.namespace, options.use_sim_time)
    keyboard = Keyboard(stream)
    try:
        os.environ.update(dds_environment(os.environ))  # read when the first node is made
        keep_image_memory()
        start_ros(args=args)
        try:
            return _with_node(options, keyboard, console)
        finally:
            rclpy.try_shutdown()
    finally:
        keyboard.close()


def _with_node(options: BatchOptions, keyboard: Keyboard, console: Console) -> list[str]:
    node = RecorderNode(robot=options.robot, folder=options.folder, operator=options.operator)
    node.get_logger().set_level(LoggingSeverity.FATAL)  # the screen shows what the log would say
    thread = ExecutorThread(node)
    batch = BatchRecording(node, thread, options, console)
    try:
        _run(batch, keyboard, console)
    finally:
        batch.close()
        thread.stop()
        node.stop()
        thread.shutdown()
        node.destroy_node()
    return batch.kept


def _run(batch: BatchRecording, keyboard: Keyboard, console: Console) -> None:
    batch.begin()
    with Live(batch.screen(), console=console, refresh_per_second=5, transient=True) as live:
        try:
            while not batch.over:
                batch.step(keyboard.typed())
                live.update(batch.screen())
                time.sleep(PERIOD_S)
        except KeyboardInterrupt:
            batch.interrupt()
