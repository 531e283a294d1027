"""An FR3 cell for ``franky.py``: the simulated arm, our nodes as ``openvla up`` starts them, and who asks.

The arm and the franky node run in an environment of their own, everything else in this one. Nobody else's
robot is moved: a ROS domain apart, and an address on the loopback.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.bringup.graph import GraphOptions, build_graph
from openvla_ros.bringup.supervisor import Supervisor
from openvla_ros.discovery.client import RobotClient
from openvla_ros.errors import DeviceError
from openvla_ros.preprocessing.image_encoding import encode_png
from openvla_ros.profile import RobotProfile, dump_profile, load_profile
from openvla_ros.resources import share_path
from openvla_ros.ros import qos
from openvla_ros.ros.messages import from_stamp, joint_values, to_chunk_message
from openvla_ros.ros.verdict_messages import VerdictReport
from openvla_ros.values.action import ActionChunk
from peers.rows import PeerError

ARM_PROGRAM = Path(__file__).with_name("clients") / "franky_arm_programs.py"
ROBOT, ADDRESS, DOMAIN = "franka_franky", "127.0.67.1", "79"
UP_S, CALL_S, POLL_S = 60.0, 40.0, 0.05
AT_RAD = 0.01


class SimulatedArm:
    """``clients/franky_arm_programs.py`` as a process."""

    def __init__(self, python: Path, profile: RobotProfile) -> None:
        limits = {"lower": profile.limits.joint_lower, "upper": profile.limits.joint_upper}
        self._process = subprocess.Popen(
            [str(python), str(ARM_PROGRAM), ADDRESS, json.dumps(limits)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": ""},
        )  # fmt: skip
        self._read()

    def ask(self, what: str = "report") -> Any:
        """Return the program's answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        return self._read()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise PeerError("the simulated arm ended")
        return json.loads(line)


class Motion:
    """References and joint states as they are published, with their stamps, seconds."""

    def __init__(self, client: RobotClient, profile: RobotProfile) -> None:
        self._joints = profile.arm.joints
        self.references: list[tuple[float, np.ndarray]] = []
        self.states: list[tuple[float, np.ndarray]] = []
        self.health: dict[str, dict[str, str]] = {}  # of the franky node, by its name
        self.finger_m, self._finger = float("nan"), profile.gripper.joint
        node = client.node
        node.create_subscription(DiagnosticArray, "/diagnostics", self._diagnose, qos.DIAGNOSTICS)
        node.create_subscription(JointState, "franky/reference", self._refer, qos.EVERY_IN)
        node.create_subscription(JointState, profile.state.joint_states_topic, self._state, qos.EVERY_IN)

    def clear(self) -> None:
        """Forget what was published so far."""
        self.references.clear()
        self.states.clear()

    def _diagnose(self, message: DiagnosticArray) -> None:
        for status in message.status:
            node, _, name = status.name.partition(": ")
            if node == "franky":
                self.health[name] = {pair.key: pair.value for pair in status.values}

    def _refer(self, message: JointState) -> None:
        stamp_s = from_stamp(message.header.stamp) * 1e-9
        self.references.append((stamp_s, np.array(message.position)))

    def _state(self, message: JointState) -> None:
        if self._finger in message.name:
            self.finger_m = message.position[list(message.name).index(self._finger)]
        stamp_s = from_stamp(message.header.stamp) * 1e-9
        self.states.append((stamp_s, joint_values(message, self._joints)))


class Cell:
    """The arm, the nodes, and a client in their ROS domain. Use it as a context."""

    def __init__(self, python: Path, work: Path) -> None:
        self.python, self.work = python, work
        profile = load_profile(ROBOT)
        assert profile.arm_backend.franky is not None
        settings = replace(profile.arm_backend.franky, python=str(python))
        self.profile = replace(profile, arm_backend=replace(profile.arm_backend, franky=settings))
        self.robot = work / f"{ROBOT}.yaml"
        self.robot.write_text(dump_profile(self.profile), encoding="utf-8")
        images = work / "images"
        images.mkdir(exist_ok=True)
        camera = profile.cameras[0]
        for number, grey in enumerate((90, 160)):
            image = np.full((camera.height, camera.width, 3), grey, np.uint8)
            (images / f"{number}.png").write_bytes(encode_png(image))
        self._images = images
        self.arm = SimulatedArm(python, profile)
        self.lines: list[tuple[str, str]] = []
        self._supervisor: Supervisor | None = None
        self._pump: threading.Thread | None = None
        self._ending = threading.Event()
        self._fallen = False  # a node's end has stopped the rest
        os.environ["ROS_DOMAIN_ID"], os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = DOMAIN, "LOCALHOST"
        profiles = str(share_path() / "config" / "dds" / "fastdds.xml")
        os.environ.setdefault("FASTDDS_DEFAULT_PROFILES_FILE", profiles)
        self.client = RobotClient("franky_peer", timeout_s=CALL_S)
        self.motion = Motion(self.client, profile)
        self.verdict = ""
        self.client.hear_verdicts(self._judged, earlier=True)
        self._chunks = self.client.node.create_publisher(JointTrajectory, "teleop/action_chunk", qos.COMMAND)

    def __enter__(self) -> Cell:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()
        self.client.close()
        self.arm.kill()

    # Processes

    def up(self, policy: str = "hold", parameters: Mapping[str, Any] | None = None) -> None:
        """Start the nodes as ``openvla up`` does, and wait until the arm follows them."""
        options = GraphOptions(
            robot=str(self.robot), policy=policy, policy_parameters=parameters or {}, record=True,
            camera_parameters={"source": "images", "path": str(self._images), "loop": True},
            recorder_parameters={"folder": str(self.work / "recordings")}, robot_address=ADDRESS,
        )  # fmt: skip
        self.lines.clear()
        self._supervisor = Supervisor(build_graph(options, os.environ), self._note)
        self._ending.clear()
        self._fallen = False
        self._supervisor.start()
        self._pump = threading.Thread(target=self._forward, daemon=True)
        self._pump.start()
        self.until(lambda: bool(self.motion.states), UP_S, "the franky node publishes no joint states")
        self.client.reach("controller/home")

    def down(self) -> dict[str, int]:
        """Stop the nodes in order; return their exit codes."""
        self._ending.set()
        if self._pump is not None:
            self._pump.join()
        codes = {} if self._supervisor is None else self._supervisor.stop()
        self._supervisor, self._pump = None, None
        self.client.listen(1.0)  # what is still on its way
        self.motion.clear()
        return codes

    @property
    def is_up(self) -> bool:
        """Whether no node's end has stopped the rest."""
        return self._pump is not None and not self._fallen

    def pid(self, name: str) -> int:
        """Return a node's process id."""
        assert self._supervisor is not None
        return self._supervisor.pid(name)

    def renew_arm(self) -> None:
        """Kill the simulated arm and start another one, at its first pose."""
        self.arm.kill()
        self.arm = SimulatedArm(self.python, self.profile)

    def said(self, name: str, words: str) -> bool:
        """Return whether a node's log has ``words``."""
        return any(who == name and words in line for who, line in list(self.lines))

    def _judged(self, report: VerdictReport) -> None:
        self.verdict = str(report.verdict)

    def _note(self, name: str, line: str) -> None:
        self.lines.append((name, line))
        with (self.work / "up.log").open("a", encoding="utf-8") as log:
            log.write(f"{name}: {line}\n")

    def _forward(self) -> None:
        assert self._supervisor is not None
        while not self._ending.is_set():
            self._supervisor.forward(timeout_s=0.1)
            if self._supervisor.check() is not None:
                self._fallen = True
                self._supervisor.stop()
                self._supervisor = None
                return

    # What is asked

    def until(self, done: Callable[[], bool], seconds: float, problem: str) -> None:
        """Serve callbacks until ``done()``; raises ``PeerError`` with ``problem`` and the last log lines."""
        if not self.client.wait(done, seconds):
            said = "; ".join(f"{who}: {line[-160:]}" for who, line in self.lines[-3:])
            raise PeerError(f"{problem} ({said})")

    def order(self, service: str) -> str:
        """Call a service, again and again while it is refused or not there; return what it said."""
        deadline_s = time.monotonic() + CALL_S
        while True:
            try:
                return self.client.order(service)
            except DeviceError as error:
                if time.monotonic() > deadline_s:
                    raise PeerError(str(error)) from error
                self.client.listen(0.5)

    def at(self, pose: tuple[float, ...]) -> bool:
        """Return whether the simulated arm stands at ``pose``."""
        report = self.arm.ask()
        return bool(np.abs(np.array(report["q"]) - pose).max() < AT_RAD and report["speed"] < AT_RAD)

    def go(self, name: str, seconds: float = CALL_S) -> None:
        """Have the arm go to a named pose, and wait until it stands there; asked again if it is held."""
        pose = getattr(self.profile.arm, name)
        deadline_s = time.monotonic() + seconds
        while time.monotonic() < deadline_s:
            self.order(f"controller/{name}")
            if self.client.wait(self.paced(lambda: self.at(pose)), 10.0):
                return
        away_rad = np.abs(np.array(self.arm.ask()["q"]) - pose).max()
        raise PeerError(f"the arm is {away_rad:.3f} rad from {name} after {seconds:g} s: {self.verdict}")

    def still(self, seconds: float, limit_s: float = 10.0) -> bool:
        """Return whether the arm comes to stand for ``seconds``, within ``limit_s``."""
        return self.client.wait(self.paced(lambda: self.arm.ask()["still_s"] > seconds), limit_s)

    def set_off(self, name: str) -> None:
        """Have the arm go to a named pose, and return while it is moving fast."""
        for _ in range(4):
            self.order(f"controller/{name}")
            if self.client.wait(self.moving(), 8.0):
                return
        raise PeerError(f"the arm does not set off to {name}: {self.verdict}")

    def moving(self) -> Callable[[], bool]:
        """Return what says whether the arm is moving fast."""
        return self.paced(lambda: self.arm.ask()["speed"] > 0.15)

    @staticmethod
    def paced(done: Callable[[], bool]) -> Callable[[], bool]:
        """Return ``done``, asked at most every ``POLL_S``."""
        asked = [0.0]

        def look() -> bool:
            if time.monotonic() - asked[0] < POLL_S:
                return False
            asked[0] = time.monotonic()
            return done()

        return look

    def teleoperate(self, seconds: float, step: Callable[[float], np.ndarray]) -> None:
        """Send what an input device would: ``step(time_s)`` (7,) in the robot's action space."""
        space, began_s = self.profile.space(), time.monotonic()
        while (now_s := time.monotonic() - began_s) < seconds:
            chunk = ActionChunk(step(now_s)[None], self.client.now_ns, space)
            self._chunks.publish(to_chunk_message(chunk, self.profile.action_frame_id()))
            self.client.listen(space.step_s)

    @contextmanager
    def recording(self, words: str) -> Iterator[None]:
        """Record an episode of ``words``."""
        self.client.latched(String, "recorder/instruction").publish(String(data=words))
        self.client.listen(0.5)
        self.order("recorder/start")
        yield
        self.order("recorder/stop_success")
