"""Runs in vla-eval's own environment, where the plug-in ``vla_eval_openvla`` is installed.

``serve URL`` is a model server of vla-eval's own kind
that asks OpenVLA's ``POST /act``. The others print one line of JSON.
"""

import asyncio
import base64
import importlib
import json
import os
import sys
import threading
import time
import types
import urllib.request
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation
from vla_eval import rotation
from vla_eval.api import serve_background
from vla_eval.benchmarks.calvin.benchmark import CALVINBenchmark
from vla_eval.benchmarks.libero.benchmark import LIBEROBenchmark
from vla_eval.benchmarks.maniskill2.benchmark import ManiSkill2Benchmark
from vla_eval.benchmarks.robocasa.benchmark import RoboCasaBenchmark
from vla_eval.benchmarks.robocerebra.benchmark import RoboCerebraBenchmark
from vla_eval.benchmarks.simpler.benchmark import SimplerEnvBenchmark
from vla_eval.benchmarks.vlabench.benchmark import VLABenchBenchmark
from vla_eval.connection import Connection
from vla_eval.model_servers.predict import PredictModelServer
from vla_eval.recording import NullEpisodeRecorder
from vla_eval.specs import (
    GRIPPER_01,
    IMAGE_RGB,
    LANGUAGE,
    POSITION_DELTA,
    ROTATION_EULER,
    DimSpec,
    check_specs,
)


class Stub:
    """A simulator that only remembers what it was told to do."""

    action_spec = (np.zeros(12),)

    def __init__(self) -> None:
        self.told = []
        self.robot = self.unwrapped = self

    def step(self, action):
        """Remember it."""
        self.told.append(np.asarray(action, np.float64).flatten().tolist())
        return ({}, 0.0, False, {}) if self.short else ({}, 0.0, False, False, {})

    short = True


class ModernStub(Stub):
    """One whose steps have five results."""

    short = False


class JointStub(Stub):
    """VLABench's, which is told joints and two fingers."""

    physics = None

    def get_qpos_from_ee_pos(self, physics, pos, quat):
        """Return the pose as if it were joints."""
        return None, np.concatenate([pos, quat])

    def step(self, action):
        """Remember it."""
        self.told.append(np.asarray(action).tolist())
        return types.SimpleNamespace(last=lambda: False)

    def get_observation(self, **_unused):
        """Return nothing seen."""
        return {}

    task = types.SimpleNamespace(get_instruction=lambda: "")

    def get_ee_pos(self):
        """Return the tool's place."""
        return np.zeros(3)

    def get_ee_quat(self):
        """Return how it is turned."""
        return np.array([1.0, 0, 0, 0])


def told(name, actions):
    """Return what the simulator of the benchmark called ``name`` is told for each action (7,)."""
    if name.startswith("calvin"):
        calvin = CALVINBenchmark(absolute_action=name != "calvin")
        calvin._last_act = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 1.0])
        process = calvin._process_delta_action if name == "calvin" else calvin._process_absolute_action
        return [process({"actions": np.array(action)}).tolist() for action in actions]
    made = {
        "libero": (LIBEROBenchmark, Stub, {}),
        "robocerebra": (RoboCerebraBenchmark, Stub, {}),
        "simpler": (SimplerEnvBenchmark, ModernStub, {}),
        "simpler sticky": (SimplerEnvBenchmark, ModernStub, {"gripper_mode": "sticky"}),
        "maniskill2": (ManiSkill2Benchmark, ModernStub, {}),
        "robocasa": (RoboCasaBenchmark, Stub, {"max_steps": 9}),
        "vlabench": (VLABenchBenchmark, JointStub, {}),
    }
    kind, stub, parameters = made[name]
    try:
        benchmark = kind(**parameters)
    except TypeError:
        benchmark = kind("/nowhere")
    benchmark._recorder, benchmark._current_goal = NullEpisodeRecorder(), None
    if name in ("libero", "robocerebra"):
        state = {"robot0_eef_pos": np.zeros(3), "robot0_eef_quat": np.array([0, 0, 0, 1.0])}
        state["robot0_gripper_qpos"] = np.zeros(2)
        benchmark._proprio_state = lambda _obs: np.zeros(8)
    if name == "maniskill2":
        benchmark._render_goal_site = lambda _env: None
    if name == "robocasa":
        stub = type("Kitchen", (Stub,), {"_check_success": lambda self: False})
    if name == "vlabench":
        tools = types.ModuleType("VLABench.utils.utils")
        tools.euler_to_quaternion = lambda *_a: np.array([1.0, 0, 0, 0])
        tools.quaternion_to_euler = lambda *_a: np.zeros(3)
        for part in ("VLABench", "VLABench.utils"):
            sys.modules[part] = types.ModuleType(part)
        sys.modules["VLABench.utils.utils"] = tools
    found = []
    for action in actions:
        benchmark._env, benchmark._horizon = stub(), 9
        benchmark._sticky_action_is_on = False
        benchmark._gripper_action_repeat = 0
        benchmark.step({"actions": np.array(action)})
        found.append(benchmark._env.told[-1])
    return found


def grippers(asked: str) -> None:
    """Print what each benchmark's simulator is told for actions that open, and that close."""
    print(json.dumps({name: told(name, actions) for name, actions in json.loads(asked).items()}))


def matrices(numbers, convention):
    """Return rotations (N, 3, 3) as scipy reads them."""
    n = np.asarray(numbers)
    match convention:
        case "euler_xyz":
            return Rotation.from_euler("xyz", n).as_matrix()
        case "rotation_vector":
            return Rotation.from_rotvec(n).as_matrix()
        case "quaternion_xyzw":
            return Rotation.from_quat(n).as_matrix()
        case "matrix":
            return n.reshape(-1, 3, 3)
        case "rotation_6d":
            columns = np.stack([n[:, :3], n[:, 3:], np.cross(n[:, :3], n[:, 3:])], axis=-1)
            return Rotation.from_matrix(columns).as_matrix()


def theirs(numbers, convention):
    """Return rotations (N, 3, 3) as vla-eval's own functions read them; None: it has none for it."""
    read = {
        "euler_xyz": rotation.euler_xyz_to_matrix,
        "rotation_vector": rotation.axisangle_to_matrix,
        "quaternion_xyzw": rotation.quat_to_matrix,
        "rotation_6d": rotation.rot6d_contiguous_to_matrix,
    }.get(convention)
    return None if read is None else np.stack([read(np.asarray(row)) for row in numbers])


def rotations(path: str) -> None:
    """Print how far, at most, numbers of two conventions and those turned back are from one rotation.

    scipy reads the first; scipy, and vla-eval's functions where it has any, read all.
    """
    found = {}
    for pair, (numbers, there, back) in json.loads(Path(path).read_text(encoding="utf-8")).items():
        first, second = pair.split()
        right = matrices(numbers, first)
        read = [matrices(there, second), matrices(back, first), theirs(there, second), theirs(numbers, first)]
        found[pair] = max(float(np.abs(each - right).max()) for each in read if each is not None)
    print(json.dumps(found))


def checked(servers: str) -> None:
    """Print what vla-eval's check of specifications says of our server and each benchmark."""
    found = {}
    for import_string, url in json.loads(servers).items():
        module, _, name = import_string.partition(":")
        kind = getattr(importlib.import_module(module), name)
        benchmark = kind("/nowhere") if name == "RoboCerebraBenchmark" else kind()

        async def greeting(asked=import_string, at=url):
            connection = Connection(at)
            await connection.connect(benchmark=asked)
            await connection.close()
            return connection.server_info

        try:
            info = asyncio.run(greeting())
        except Exception as error:  # noqa: BLE001 - reported
            found[import_string] = [f"{type(error).__name__}: {error}"]
            continue
        specs = [
            {key: DimSpec.from_dict(value) for key, value in info[part].items()}
            for part in ("action_spec", "observation_spec")
        ]
        found[import_string] = check_specs(
            specs[0], benchmark.get_action_spec(), specs[1], benchmark.get_observation_spec()
        )
    print(json.dumps(found))


class Late(PredictModelServer):
    """A model server of vla-eval's own, whose first answer is late; the answer is the question's number."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def predict(self, obs, ctx):
        """Return the number that the image shows."""
        self.asked += 1
        time.sleep(1.5 if self.asked == 1 else 0.0)
        return {"actions": np.full(7, float(obs["images"]["primary"][0, 0, 0]))}


async def after_a_timeout(url: str) -> list[float]:
    """Return the first number of the answers to questions 11, 12, 13, the first of which is late."""
    connection = Connection(url, timeout=1.0)
    await connection.connect(benchmark="vla_eval_openvla.benchmark:SimulatedRobotBenchmark")
    await connection.start_episode({"task": {"name": "lift"}})
    got = []
    for number in (11, 12, 13):
        image = np.full((8, 8, 3), number, np.uint8)
        try:
            answer = await connection.act({"images": {"primary": image}, "task_description": "lift"})
            got.append(round(float(answer["actions"][0]), 4))
        except TimeoutError:
            got.append(-1.0)
    await connection.close()
    return got


def late(url: str) -> None:
    """Print the answers after a time-out, of our server and of vla-eval's own."""
    ours = asyncio.run(after_a_timeout(url))
    with serve_background(Late()) as own:
        print(json.dumps({"ours": ours, "its own": asyncio.run(after_a_timeout(own.url))}))


def refused(url: str) -> None:
    """Print what a client is told that our server does not serve, or whose question it cannot answer."""

    async def told_at_the_greeting(benchmark):
        connection = Connection(url, max_retries=1)
        try:
            await connection.connect(benchmark=benchmark)
        except Exception as error:  # noqa: BLE001 - reported
            return f"{type(error).__name__}: {error}"
        return "served"

    async def told_at_a_question():
        connection = Connection(url)
        await connection.connect(benchmark="vla_eval_openvla.benchmark:SimulatedRobotBenchmark")
        await connection.start_episode({"task": {"name": "lift"}})
        image = np.zeros((224, 224, 3), np.uint8)
        found = {}
        for name, question in (
            ("no instruction", {"images": {"primary": image}}),
            ("another camera", {"images": {"front": image}, "task_description": "lift"}),
        ):
            try:
                await connection.act(question)
                found[name] = "answered"
            except RuntimeError as error:
                found[name] = str(error)
        answer = await connection.act(
            {"images": {"primary": image}, "task_description": "lift the red block"}
        )
        found["a right question after these"] = str(np.asarray(answer["actions"]).shape)
        await connection.close()
        return found

    names = {
        "an unknown benchmark": "somebody.bench:Robot",
        "no benchmark": None,
        "another rate": "vla_eval.benchmarks.libero.benchmark:LIBEROBenchmark",
        "tool axes": "vla_eval.benchmarks.maniskill2.benchmark:ManiSkill2Benchmark",
        "two arms": "vla_eval.benchmarks.robotwin.benchmark:RoboTwinBenchmark",
    }
    found = {name: asyncio.run(told_at_the_greeting(benchmark)) for name, benchmark in names.items()}
    print(json.dumps({**found, **asyncio.run(told_at_a_question())}))


def wrong_parameters() -> None:
    """Print what our benchmark's users are told about wrong set-ups and wrong actions."""
    from vla_eval_openvla.benchmark import SimulatedRobotBenchmark

    found = {}
    for name, parameters in (
        ("no such robot", {"robot": "r2d2"}),
        ("no such task", {"tasks": ["dance"]}),
        ("tasks as text", {"tasks": "lift"}),
    ):
        try:
            SimulatedRobotBenchmark(**parameters)
            found[name] = "made"
        except Exception as error:  # noqa: BLE001 - reported
            found[name] = f"{type(error).__name__}: {error}"
    benchmark = SimulatedRobotBenchmark()
    asyncio.run(benchmark.start_episode({"name": "lift"}))
    for name, action in (
        ("six numbers", {"actions": np.zeros(6)}),
        ("not a number", {"actions": np.full(7, np.nan)}),
        ("no actions", {"error": "?"}),
    ):
        try:
            benchmark.step(action)
            found[name] = "executed"
        except Exception as error:  # noqa: BLE001 - reported
            found[name] = f"{type(error).__name__}: {error}"
    benchmark.cleanup()
    print(json.dumps(found))


class Asking(PredictModelServer):
    """A model server of vla-eval's own kind; its model is behind OpenVLA's ``POST /act``."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    def get_action_spec(self):
        """Return what its actions are: those of a WidowX of BridgeData V2."""
        return {"position": POSITION_DELTA, "rotation": ROTATION_EULER, "gripper": GRIPPER_01}

    def get_observation_spec(self):
        """Return what it needs."""
        return {"primary": IMAGE_RGB, "language": LANGUAGE}

    def predict(self, obs, ctx):
        """Return one action (7,)."""
        image = np.ascontiguousarray(obs["images"]["primary"])
        array = {
            "__numpy__": base64.b64encode(image.tobytes()).decode(),
            "dtype": image.dtype.str,
            "shape": image.shape,
        }
        body = json.dumps({"image": array, "instruction": obs["task_description"]}).encode()
        request = urllib.request.Request(self._url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            found = json.load(answer)
        return {"actions": np.frombuffer(base64.b64decode(found["__numpy__"]), found["dtype"])}


def serve_asking(url: str) -> None:
    """Serve it; the port is printed first."""
    handle = serve_background(Asking(url))
    print(handle.port, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    {
        "grippers": grippers,
        "rotations": rotations,
        "checked": checked,
        "late": late,
        "refused": refused,
        "wrong": wrong_parameters,
        "serve": serve_asking,
    }[sys.argv[1]](*sys.argv[2:])
