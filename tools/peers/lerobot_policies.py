"""LeRobot's policies behind ``serve_lerobot_policy.py``, on our robot.

ACT (with and without temporal ensembling), Diffusion and SmolVLA with random weights are made with LeRobot's
own classes. What arrives at the policy ``remote`` must be what LeRobot's own inference gives for the same
observations, number for number; what is not stated, or does not fit the robot, must be refused. LeRobot lives
in an environment of its own; ``clients/lerobot_policies_programs.py`` runs there.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from openvla_ros.api import load_policy
from openvla_ros.bringup.graph import GraphOptions
from openvla_ros.errors import OpenVLARosError
from openvla_ros.policy.protocol import Policy, Reporting
from openvla_ros.profile import load_profile
from openvla_ros.programs.live_robot import LiveRobot
from openvla_ros.protocols.observation_map import parse_observation_map
from openvla_ros.protocols.wire import space_to_message
from openvla_ros.resources import share_path
from openvla_ros.sim.tasks import MAX_STEPS
from openvla_ros.values.action import ActionSpace
from openvla_ros.values.geometry import Pose
from openvla_ros.values.observation import Observation
from peers import lerobot
from peers.environments import called, on_top_of
from peers.piped_simulation import CLIENTS, ROBOT, rolled_out
from peers.rows import PeerError, Row

NAME, VERSION = "lerobot-policies", lerobot.VERSION
PACKAGES = (f"lerobot[diffusion,smolvla]=={VERSION}",)
PROGRAM = CLIENTS / "lerobot_policies_programs.py"
INTERFACE = "robot_interface.json"
STATE = ["tool_euler", "gripper_open"]
STEPS, SEED, WORDS = 10, 7, "lift the red block"
START_S = 120.0
DOMAIN = "78"  # of DDS: nobody else's robot is moved
LIVE_S, MOVED_M = 6.0, 0.01
PROFILE = load_profile(ROBOT)
KEYS = {
    "images": {"observation.images.primary": "primary"},
    "state": {"observation.state": STATE},
    "instruction": "task",
}


def check(build: Path, source: Path | None) -> list[Row]:
    """Return a row for each policy, and for each thing that must be refused; ``source`` has LeRobot."""
    python = on_top_of(lerobot.environment(source or build / lerobot.NAME), build / NAME, PACKAGES)
    work = build / f"{NAME}-checkpoints"
    shutil.rmtree(work, ignore_errors=True)
    camera = PROFILE.cameras[0]
    sizes = map(str, (camera.height, camera.width, 7, PROFILE.space().width))
    made = json.loads(offline([str(python), str(PROGRAM), "make", str(work), *sizes]).splitlines()[-1])
    rows = [*unstated(python, work)]
    for name in made:
        state_interface(work / name)
        rows += compared(python, work / name)
    rows.append(live(python, work / "act", work / "robot.log"))
    return [Row(NAME, VERSION, *row) for row in (*rows, *unfit(python, work), from_dataset(python, work))]


def offline(command: list[str]) -> str:
    """Return what a command prints that may ask no hub."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    return called(command, "LeRobot's own program failed")


def state_interface(checkpoint: Path, **changed: object) -> None:
    """State beside a checkpoint what its numbers mean: as the robot's, but for what is ``changed``."""
    changes = {key: value for key, value in changed.items() if key not in ("state", "cameras")}
    stated = {key: value for key, value in changed.items() if key not in changes}
    interface = {"action_space": {**plain(PROFILE.space()), **changes}, "state": STATE, **stated}
    (checkpoint / INTERFACE).write_text(json.dumps(interface), encoding="utf-8")


def plain(space: ActionSpace) -> dict:
    """Return an action space as JSON has it."""
    fields = space_to_message(space)
    return {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in fields.items()}


@contextmanager
def serving(python: Path, checkpoint: Path, *arguments: str) -> Iterator[str]:
    """Serve a checkpoint; yields the address. Raises ``PeerError`` with the server's error if it ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = share_path() / "servers" / "serve_lerobot_policy.py"
    command = [
        str(python),
        str(server),
        str(checkpoint),
        "--port",
        str(port),
        "--seed",
        str(SEED),
        *arguments,
    ]
    surroundings = {**os.environ, "PYTHONPATH": "", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile("w+") as log:
        with subprocess.Popen(command, stdout=log, stderr=log, env=surroundings) as process:
            try:
                ready = answers(port, process)
                if ready:
                    yield f"openpi://127.0.0.1:{port}"
            finally:
                process.terminate()
        if not ready:
            log.seek(0)
            raise PeerError(log.read().partition("error: ")[2].replace("\n", " ").strip() or "no error")


def answers(port: int, process: subprocess.Popen) -> bool:
    """Wait until the server is healthy; return False if it ended."""
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5).close()
            return True
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    return False


def observations() -> list[Observation]:
    """Return what a robot sees over some steps: made images, and poses that move."""
    rng, camera = np.random.default_rng(3), PROFILE.cameras[0]
    images = rng.integers(0, 256, (STEPS, camera.height, camera.width, 3), np.uint8)
    return [
        Observation(
            step, {camera.name: image}, WORDS, rng.normal(0.0, 0.3, 6),
            Pose.from_euler(rng.normal([0.3, 0.0, 0.2], 0.02), rng.normal([0.0, 1.4, 0.1], 0.1)),
            float(rng.uniform()),
        )
        for step, image in enumerate(images)
    ]  # fmt: skip


def its_own(python: Path, checkpoint: Path, seen: Sequence[Observation]) -> np.ndarray:
    """Return LeRobot's own actions (T, D) for the observations."""
    keys = parse_observation_map(KEYS, PROFILE, NAME)
    messages = [keys.to_message(observation, PROFILE) for observation in seen]
    recorded = {key: np.stack([message[key] for message in messages]) for key in (*keys.images, *keys.state)}
    recorded["observation.state"] = recorded["observation.state"].astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        given, got = Path(folder) / "seen.npz", Path(folder) / "actions.npz"
        np.savez(given, task=WORDS, **recorded)
        offline([str(python), str(PROGRAM), "reference", *map(str, (checkpoint, given, got, SEED))])
        return np.load(got)["actions"]


def compared(python: Path, checkpoint: Path) -> Iterator[tuple[str, bool, str]]:
    """Yield whether a policy gives our robot LeRobot's own actions, drives it, and says what it is."""
    seen = observations()
    right = its_own(python, checkpoint, seen)
    with serving(python, checkpoint) as address:
        policy = load_policy(address, robot=ROBOT, timeout_s=60.0)
        for again in ("", ", after a reset"):
            policy.reset()
            got = played(policy, seen)
            most = float(np.abs(got - right[: len(got)]).max())
            same = np.array_equal(got.astype(np.float32), right[: len(got)])
            spread = float(np.ptp(right, axis=0).max())
            said = f"{len(got)} actions, largest difference {most:g}; they vary by {spread:.2g}"
            yield f"{checkpoint.name}: its own actions{again}", same and spread > 0.0, said
        if checkpoint.name in ("act", "smolvla"):
            steps = rolled_out(policy, (100,))[100].steps
            yield f"{checkpoint.name}: moves the simulated arm", steps == MAX_STEPS, f"{steps} steps"
        report = dict(policy.report()) if isinstance(policy, Reporting) else {}
        stated = json.loads(report["policy_server_metadata"])
        said = ", ".join(str(stated[key]) for key in ("policy_type", "lerobot_version", "steps", "server"))
        known = stated["lerobot_version"] == VERSION and stated["checkpoint"] == str(checkpoint)
        known &= '"gripper_open": 1' in report["policy_server_action_space"]
        yield f"{checkpoint.name}: in a recording", known, said
        policy.close()


def live(python: Path, checkpoint: Path, log: Path) -> tuple[str, bool, str]:
    """Return whether a policy drives the arm of ``openvla up`` over DDS, and ``/diagnostics`` names it."""
    os.environ["ROS_DOMAIN_ID"] = DOMAIN
    with serving(python, checkpoint) as address:
        parameters = {"address": address, "steps_between_inferences": 4}
        options = GraphOptions(robot=ROBOT, policy="remote", policy_parameters=parameters, cameras=False)
        with LiveRobot(options, log) as robot:
            robot.go_to_neutral()
            measured = robot.operator.measured
            measured.path.clear()
            outcome = robot.operator.carry_out(WORDS, LIVE_S)
            measured.wait_for_diagnostics(START_S)
            told = {item.key: item.value for item in measured.statuses["policy: task"].values}
            path = np.array(measured.path)[:, 1:4]
    moved_m = float(np.linalg.norm(np.diff(path, axis=0), axis=1).sum())
    named = VERSION in told["policy_server"] and '"rate_hz": 5.0' in told["policy_server_action_space"]
    named &= str(checkpoint) in told["policy_server_metadata"]
    passed = outcome.outcome == "time_limit" and outcome.steps > 0 and moved_m > MOVED_M and named
    said = f"{outcome.outcome}, {outcome.steps} steps, {1000 * moved_m:.0f} mm; {told['policy_server']}"
    return f"{checkpoint.name}: on the nodes of openvla up", passed, said


def played(policy: Policy, seen: Sequence[Observation]) -> np.ndarray:
    """Return the actions (T, D) of a robot that plays each chunk to its end."""
    actions: list[np.ndarray] = []
    while len(actions) < len(seen):
        actions += list(policy.infer(seen[len(actions)]).actions)
    return np.stack(actions[: len(seen)])


def unstated(python: Path, work: Path) -> Iterator[tuple[str, bool, str]]:
    """Yield what the server says if nothing states the actions, or LeRobot would not normalise."""
    for compared_, name, part in (
        ("refused: no action space", "act", f"write {work / 'act' / INTERFACE}"),
        ("refused: no statistics", "no_statistics", "no statistics of 'observation.images.primary'"),
    ):
        if name != "act":
            state_interface(work / name)
        yield refusal(compared_, python, work / name, part)


def unfit(python: Path, work: Path) -> Iterator[tuple[str, bool, str]]:
    """Yield what our robot says of a policy for another robot."""
    camera = {"observation.images.primary": "wrist"}
    for compared_, changed, part in (
        ("refused: gripper sign", {"gripper_open": 0}, "action_space.gripper_open: 1.0 here, 0 there"),
        ("refused: rate", {"rate_hz": 30.0}, "action_space.rate_hz: 5.0 here, 30.0 there"),
        ("refused: camera", {"cameras": camera}, "is camera 'wrist'; robot sim_widowx has primary"),
        (
            "refused: state",
            {"state": ["tool_euler"]},
            "has the shape (7,); robot sim_widowx sends tool_euler (6)",
        ),
        ("refused: width", {"names": ["x", "y"], "units": ["m", "m"]}, "an action has 7 numbers"),
    ):
        state_interface(work / "act", **changed)
        yield refusal(compared_, python, work / "act", part)
    state_interface(work / "act")
    part = "is an image (224, 224, 3); camera 'primary' of robot widowx gives (480, 640, 3)"
    yield refusal("refused: image size", python, work / "act", part, "widowx")


def refusal(
    what: str, python: Path, checkpoint: Path, part: str, robot: str = ROBOT
) -> tuple[str, bool, str]:
    """Return whether server or robot refuses with ``part`` in the message."""
    try:
        with serving(python, checkpoint) as address:
            load_policy(address, robot=robot).close()
    except (OpenVLARosError, PeerError) as error:
        return what, part in str(error), str(error)[:230]
    return what, False, "accepted"


def from_dataset(python: Path, work: Path) -> tuple[str, bool, str]:
    """Return whether the dataset that a policy was trained on states what its numbers mean."""
    (work / "act" / INTERFACE).unlink()
    dataset = lerobot.written(work / "dataset", [lerobot.made_episode(0)], "image")
    with serving(python, work / "act", "--dataset", str(dataset)) as address:
        policy = load_policy(address, robot=ROBOT)
        width = policy.infer(observations()[0]).actions.shape[1]
        policy.close()
    return "--dataset of our export", width == 7, f"{width} numbers"
