"""Serve a LeRobot policy to a robot of openvla_ros, over openpi's websocket protocol.

One file that needs nothing of openvla_ros: run it with the Python that LeRobot 0.6 is installed in.

    python serve_lerobot_policy.py CHECKPOINT --port 8000

The robot then runs ``policy:=remote address:=openpi://HOST:8000``. A LeRobot checkpoint says how many numbers
an action and a state have, not what they mean. That is stated in ``robot_interface.json`` beside it, or by
``--profile`` or ``--dataset``, else nothing is served. The robot compares it with its own profile.

Policies that look at one moment (ACT, SmolVLA) answer with the actions that LeRobot executes between two
inferences; those with a history (Diffusion) or temporal ensembling with one action, at every step.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import hmac
import importlib.metadata
import logging
import struct
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from aiohttp import WSMsgType, web  # comes with lerobot[dataset]
from lerobot.configs import FeatureType, NormalizationMode, PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from lerobot.policies.utils import prepare_observation_for_inference
from lerobot.processor import NormalizerProcessorStep, RelativeActionsProcessorStep, UnnormalizerProcessorStep
from lerobot.utils.import_utils import register_third_party_plugins

SERVER = "serve_lerobot_policy 1"
INTERFACE = "robot_interface.json"
WEIGHTS, PROCESSORS = "model.safetensors", ("policy_preprocessor.json", "policy_postprocessor.json")
STATE, IMAGES, IMAGE, TASK = "observation.state", "observation.images.", "observation.image", "task"
CHUNKED = ("act", "smolvla")  # whose predict_action_chunk is what their select_action plays
KEYS = ("action_space", "state", "cameras")
SPACE_KEYS = ("names", "units", "frame", "rotation", "gripper_open", "lower", "upper", "rate_hz")
KIND = "tool_delta"  # the kind of an action space that does not state one, as in openvla_ros
LARGEST_MESSAGE, DEEPEST, HEARTBEAT_S = 64 << 20, 16, 30.0
# What a model raises for an observation that it cannot use.
MODEL_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, AssertionError, ArithmeticError)
HELP = f"""{INTERFACE} needs the keys
  action_space: {", ".join(SPACE_KEYS)}, and kind unless it is {KIND}; as in a robot profile
  state: what the numbers of {STATE} are, such as ["tool_euler", "gripper_open"] or ["joints", "gripper_open"]
  cameras: by image key, the robot's camera; only where the name after {IMAGES} is another"""


class ServeError(ValueError):
    """The checkpoint, what is stated of it, or a request cannot be used; the message says why."""


# Messages are msgpack; their arrays are maps as in openpi-client's msgpack_numpy.
_SIZED = {  # first byte: what follows it is a size in this format, then so much of this
    0xC4: (">B", bytes), 0xC5: (">H", bytes), 0xC6: (">I", bytes), 0xD9: (">B", str), 0xDA: (">H", str),
    0xDB: (">I", str), 0xDC: (">H", list), 0xDD: (">I", list), 0xDE: (">H", dict), 0xDF: (">I", dict),
}  # fmt: skip
_NUMBERS = dict(zip(range(0xCA, 0xD4), (f">{letter}" for letter in "fdBHIQbhiq"), strict=True))
_PLAIN = {0xC0: None, 0xC2: False, 0xC3: True}


def pack(value: Any) -> bytes:
    """Return ``value`` as msgpack; raises ``ServeError`` for what has no place in a message."""
    match value:
        case None | bool():
            return b"\xc0" if value is None else b"\xc3" if value else b"\xc2"
        case int():
            return struct.pack(">Bq", 0xD3, value)
        case float():
            return struct.pack(">Bd", 0xCB, value)
        case str() | bytes():
            raw = value if isinstance(value, bytes) else value.encode()
            return struct.pack(">BI", 0xC6 if raw is value else 0xDB, len(raw)) + raw
        case list() | tuple():
            return struct.pack(">BI", 0xDD, len(value)) + b"".join(map(pack, value))
        case dict():
            parts = (pack(part) for pair in value.items() for part in pair)
            return struct.pack(">BI", 0xDF, len(value)) + b"".join(parts)
        case np.ndarray():
            array = {b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": list(value.shape)}
            return pack({b"__ndarray__": True, **array})
    raise ServeError(f"cannot serialise {type(value).__name__}")


def unpack(data: bytes) -> dict[Any, Any]:
    """Return the map in ``data``; raises ``ServeError`` if it is damaged."""
    try:
        value, end = _read(memoryview(data), 0, 0)
    except (struct.error, IndexError, UnicodeDecodeError, TypeError) as error:
        raise ServeError(f"cannot decode a message of {len(data)} bytes: {error}") from error
    if end != len(data) or not isinstance(value, dict):
        raise ServeError(f"a message of {len(data)} bytes is not one map")
    return value


def _read(data: memoryview, at: int, depth: int) -> tuple[Any, int]:
    """Return the value at byte ``at``, and where the next one begins."""
    first, at = data[at], at + 1
    kind: Any  # of what follows: bytes, str, list or dict
    if first < 0x80 or first >= 0xE0:
        return (first if first < 0x80 else first - 256), at
    if first in _PLAIN:
        return _PLAIN[first], at
    if first in _NUMBERS:
        return struct.unpack_from(_NUMBERS[first], data, at)[0], at + struct.calcsize(_NUMBERS[first])
    if first < 0xC0:
        size, kind = (first & 0x1F, str) if first >= 0xA0 else (first & 0x0F, list if first >= 0x90 else dict)
    elif first in _SIZED:
        form, kind = _SIZED[first]
        (size,), at = struct.unpack_from(form, data, at), at + struct.calcsize(form)
    else:
        raise ServeError(f"a message has the byte {first:#x}, which is not read here")
    if size > len(data) - at or depth > DEEPEST:
        raise ServeError(f"a message ends within {size} items, or is nested more than {DEEPEST} deep")
    if kind in (bytes, str):
        raw = bytes(data[at : at + size])
        return (raw if kind is bytes else raw.decode()), at + size
    items = []
    for _ in range(size * (2 if kind is dict else 1)):
        item, at = _read(data, at, depth + 1)
        items.append(item)
    return (items if kind is list else _map_or_array(dict(zip(items[::2], items[1::2], strict=True)))), at


def _map_or_array(value: dict[Any, Any]) -> Any:
    if b"__ndarray__" not in value:
        return value
    kind, shape, data = (value.get(key) for key in (b"dtype", b"shape", b"data"))
    try:
        if kind not in ("|u1", "<f4", "<f8"):
            raise ValueError("its dtype must be |u1, <f4 or <f8")
        if not isinstance(data, bytes):
            raise ValueError("its data must be bytes")
        return np.frombuffer(data, kind).reshape(shape)
    except (TypeError, ValueError) as error:
        raise ServeError(f"an array {str(kind)[:20]} {str(shape)[:60]} cannot be read: {error}") from error


def read_interface(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Return what is stated of the checkpoint in ``folder``, and ``origin``, where.

    Raises ``ServeError`` if nothing states its action space, or two places state something different.
    """
    beside = folder / INTERFACE
    sources = [(beside, _loaded(beside))] if beside.is_file() else []
    if given.profile:
        profile = _loaded(Path(given.profile))
        sources.append((Path(given.profile), {"action_space": profile.get("action_space")}))
    if given.dataset:
        sources.append(_of_dataset(Path(given.dataset) / "meta" / "info.json"))
    found: dict[str, Any] = {"cameras": {}, "origin": [str(path) for path, _ in sources]}
    for path, stated in sources:
        if unknown := [key for key in stated if key not in KEYS]:
            raise ServeError(f"{path}: unknown key {unknown[0]!r}; the keys are {', '.join(KEYS)}")
        for key, value in stated.items():
            if not isinstance(value, list if key == "state" else dict):
                raise ServeError(f"{path}: {key} is {value!r}.\n{HELP}")
            checked = value
            if key == "action_space" and isinstance(value, dict):
                if missing := [name for name in SPACE_KEYS if name not in value]:
                    raise ServeError(f"{path}: action_space lacks {', '.join(missing)}.\n{HELP}")
                checked = {**{name: value[name] for name in SPACE_KEYS}, "kind": value.get("kind", KIND)}
            if (before := found.get(key) or checked) != checked:
                raise ServeError(f"{key} is {before} in {found['origin'][0]}, and {checked} in {path}")
            found[key] = checked
    if "action_space" not in found:
        ways = f"write {beside}, or give --profile or --dataset"
        raise ServeError(f"nothing states what the actions of {folder} mean: {ways}.\n{HELP}")
    return found


def _of_dataset(info: Path) -> tuple[Path, dict[str, Any]]:
    """Return what a dataset that openvla_ros wrote states of its actions and its state."""
    features = _loaded(info).get("features", {})
    exact = features.get("action", {}).get("openvla_ros")
    if exact is None:
        raise ServeError(f"{info} does not say what actions are: openvla_ros did not write it")
    stated = {"action_space": exact["action_space"]}
    if features.get(STATE, {}).get("names") == ["x", "y", "z", "roll", "pitch", "yaw", "gripper"]:
        stated["state"] = ["tool_euler", "gripper_open"]
    return info, stated


def _loaded(path: Path) -> dict[str, Any]:
    try:
        return dict(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, TypeError, ValueError) as error:
        raise ServeError(f"{path} cannot be read, or holds no object: {error}") from error


class ServedPolicy:
    """A LeRobot policy with its processors, as LeRobot itself runs them."""

    def __init__(self, folder: Path, given: argparse.Namespace) -> None:
        """Load the checkpoint in ``folder``; raises ``ServeError`` if it is incomplete or not understood."""
        if absent := [f for f in ("config.json", WEIGHTS, *PROCESSORS) if not (folder / f).is_file()]:
            raise ServeError(f"{folder} has no {absent[0]}; a checkpoint of LeRobot 0.6 has one")
        register_third_party_plugins()
        self.name, self._seed = str(folder), given.seed
        self.interface = read_interface(folder, given)
        overrides = [f"--device={given.device}"] if given.device else []
        self.config = config = PreTrainedConfig.from_pretrained(folder, cli_overrides=overrides)
        if given.device and config.device != given.device:
            raise ServeError(f"device {given.device!r} is not available; LeRobot took {config.device!r}")
        if config.use_peft:
            raise ServeError(f"{folder} is a PEFT adapter; merge it into its base first")
        self._read_features(folder)
        # The checkpoint has all weights: LeRobot would first download those that training began with.
        config.pretrained_backbone_weights, config.load_vlm_weights = None, False
        self._policy = get_policy_class(config.type).from_pretrained(folder, config=config, strict=True)
        placed = {"preprocessor_overrides": {"device_processor": {"device": config.device}}}
        self._before, self._after = make_pre_post_processors(config, str(folder), **placed)
        self._check_processors(folder)
        ensembled = getattr(config, "temporal_ensemble_coeff", None) is not None
        self.chunked = config.type in CHUNKED and config.n_obs_steps == 1 and not ensembled
        self.steps = min(config.n_action_steps, given.steps or config.n_action_steps) if self.chunked else 1
        with (folder / WEIGHTS).open("rb") as file:
            self._digest = hashlib.file_digest(file, "sha256").hexdigest()
        kinds = {key: np.uint8 if key in self.cameras else np.float32 for key in self.shapes}
        self.infer({key: np.zeros(shape, kinds[key]) for key, shape in self.shapes.items()})  # warm-up

    def _read_features(self, folder: Path) -> None:
        config, interface, self.cameras = self.config, self.interface, {}
        names = interface["action_space"]["names"]
        blank = {f"{IMAGES}empty_camera_{n}" for n in range(getattr(config, "empty_cameras", 0))}
        inputs = {key: feature for key, feature in config.input_features.items() if key not in blank}
        self.shapes = {key: list(feature.shape) for key, feature in inputs.items()}  # images rows first
        if (width := config.action_feature.shape[0]) != len(names):
            stated = f"{interface['origin'][0]} names {len(names)}: {', '.join(names)}"
            raise ServeError(f"{folder}: an action has {width} numbers; {stated}")
        for key, feature in inputs.items():
            camera = interface["cameras"].get(key, key.removeprefix(IMAGES))
            if feature.type is FeatureType.VISUAL and camera == key:
                raise ServeError(f"{folder}: {key!r} names no camera; write cameras in {INTERFACE}.\n{HELP}")
            if feature.type is FeatureType.VISUAL:
                self.cameras[key], self.shapes[key] = camera, [*feature.shape[1:], feature.shape[0]]
            elif key != STATE:
                raise ServeError(f"{folder}: the policy needs {key!r}, which a robot cannot send")
            elif "state" not in interface:
                raise ServeError(f"write in {folder / INTERFACE} what the numbers of {STATE} are.\n{HELP}")

    def _check_processors(self, folder: Path) -> None:
        """Refuse what LeRobot passes through without a word."""
        for step in (*self._before.steps, *self._after.steps):
            if isinstance(step, RelativeActionsProcessorStep) and step.enabled:
                raise ServeError(f"{folder}: relative actions cannot be served; the robot moves meanwhile")
            if not isinstance(step, NormalizerProcessorStep | UnnormalizerProcessorStep):
                continue
            used = ("action",) if isinstance(step, UnnormalizerProcessorStep) else self.shapes
            for key in (key for key in step.features if key in used):
                mode = step.norm_map.get(step.features[key].type, NormalizationMode.IDENTITY)
                if mode is not NormalizationMode.IDENTITY and key not in (step.stats or {}):
                    raise ServeError(f"{folder}: no statistics of {key!r}, to be normalised by {mode.name}")

    def metadata(self) -> dict[str, Any]:
        """Return what a robot must know before it asks."""
        state = {STATE: self.interface["state"]} if STATE in self.shapes else {}
        version = importlib.metadata.version("lerobot")
        return {
            "server": f"{SERVER}, LeRobot {version}",
            "policy": f"LeRobot {self.config.type} {self.name}",
            "policy_type": self.config.type,
            "lerobot_version": version,
            "checkpoint": self.name,
            "checkpoint_sha256": self._digest,
            "action_space": self.interface["action_space"],
            "action_space_from": self.interface["origin"],
            "observation_map": {"images": self.cameras, "state": state, "instruction": TASK},
            "shapes": self.shapes,
            "steps": self.steps,
            "reset": True,
        }

    def reset(self) -> None:
        """Forget the instruction that ended, with its queues of observations and actions."""
        for part in (self._policy, self._before, self._after):
            part.reset()
        if self._seed is not None:
            torch.manual_seed(self._seed)

    def infer(self, message: dict[str, Any]) -> np.ndarray:
        """Return actions (T, D) float32 for a message with images, state and words."""
        observation = {key: self._checked(key, message) for key in self.shapes}
        if unknown := [key for key in message if key not in (*self.shapes, TASK)]:
            raise ServeError(
                f"unknown key {str(unknown[0])[:80]!r}; the keys are {', '.join(self.shapes)}, {TASK}"
            )
        device = torch.device(self.config.device)
        mixed = device.type == "cuda" and self.config.use_amp
        with torch.inference_mode(), torch.autocast(device.type, enabled=mixed):
            raw = prepare_observation_for_inference(observation, device, str(message.get(TASK, "")))
            batch = self._before(raw)
            if self.chunked:
                steps = self._policy.predict_action_chunk(batch)[:, : self.steps].unbind(1)
            else:
                steps = (self._policy.select_action(batch),)
            actions = torch.cat([self._after(step) for step in steps])
        return actions.to("cpu", torch.float32).numpy()

    def _checked(self, key: str, message: dict[str, Any]) -> np.ndarray:
        value, shape = message.get(key), tuple(self.shapes[key])
        found = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
        kinds = "u" if len(shape) == 3 else "fu"
        if not isinstance(value, np.ndarray) or value.shape != shape or value.dtype.kind not in kinds:
            raise ServeError(f"{key!r} is {found}; the checkpoint takes {shape}")
        return value.copy() if kinds == "u" else value.astype(np.float32)


class Door:
    """Answers one robot at a time; the model runs on a thread of its own."""

    def __init__(self, policy: ServedPolicy, token: str) -> None:
        self._policy, self._token, self._taken = policy, token, False
        self._greeting, self._thread = pack(policy.metadata()), ThreadPoolExecutor(1)

    async def session(self, request: web.Request) -> web.WebSocketResponse:
        """Greet a robot with the metadata, then answer its messages; an error is an answer in text."""
        if self._token:
            given = request.headers.get("Authorization", "").removeprefix("Api-Key ")
            if not hmac.compare_digest(given.encode(), self._token.encode()):
                raise web.HTTPUnauthorized(text="Authorization: Api-Key TOKEN is missing or wrong\n")
        if self._taken:
            raise web.HTTPServiceUnavailable(text="another robot is connected\n")
        self._taken = True
        try:
            link = web.WebSocketResponse(max_msg_size=LARGEST_MESSAGE, compress=False, heartbeat=HEARTBEAT_S)
            await link.prepare(request)
            await self._on_thread(self._policy.reset)
            await link.send_bytes(self._greeting)
            async for message in link:
                answer = await self._on_thread(self._answer, message)
                await (link.send_str if isinstance(answer, str) else link.send_bytes)(answer)
        finally:
            self._taken = False
        return link

    async def healthz(self, _request: web.Request) -> web.Response:
        """Say that the server runs."""
        return web.Response(text="OK\n")

    async def _on_thread(self, work: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    def _answer(self, message: Any) -> str | bytes:
        try:
            if message.type is not WSMsgType.BINARY:
                raise ServeError("expected a binary message, got text")
            if (asked := unpack(message.data)) == {"reset": True}:
                self._policy.reset()
                return pack({})
            began = time.perf_counter()
            actions = self._policy.infer(asked)
            if not np.isfinite(actions).all():
                raise ServeError("the policy's actions are not finite")
            timing = {"infer_ms": 1000.0 * (time.perf_counter() - began)}
            return pack({"actions": actions, "server_timing": timing})
        except MODEL_ERRORS as error:
            logging.warning("%s: %s", type(error).__name__, error, exc_info=not isinstance(error, ServeError))
            return f"{type(error).__name__}: {error}"


def main() -> int | str:
    """Serve what the command line names; return the exit code or the error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog=HELP)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("checkpoint", help="folder of a LeRobot checkpoint")
    add("--profile", help="robot profile (YAML) that has its action space")
    add("--dataset", help="the dataset of openvla_ros that it was trained on")
    add("--host", default="127.0.0.1", help="a public address needs a token")
    add("--port", type=int, default=8000, help="0: any")
    add("--token-file", help="file with the token that a robot must present")
    add("--device", help="cpu, cuda, ...; default: the checkpoint's")
    add("--steps", type=int, help="send at most this many steps of a chunk")
    add("--seed", type=int, help="of the noise that Diffusion and SmolVLA start from")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, force=True)
    try:
        token = Path(given.token_file).read_text(encoding="utf-8").strip() if given.token_file else ""
        if not token and given.host not in ("127.0.0.1", "localhost", "::1"):
            raise ServeError(f"--host {given.host} is reachable by others: give --token-file")
        policy = ServedPolicy(Path(given.checkpoint), given)
    except (OSError, *MODEL_ERRORS) as error:
        return f"error: {error}"
    door, application = Door(policy, token), web.Application()
    application.add_routes([web.get("/", door.session), web.get("/healthz", door.healthz)])
    logging.info("serving %s", policy.name)
    web.run_app(application, host=given.host, port=given.port, shutdown_timeout=1.0, print=logging.info)
    return 0


if __name__ == "__main__":
    sys.exit(main())
