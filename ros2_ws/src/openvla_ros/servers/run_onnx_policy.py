"""Run a policy that ``openvla export-model --to onnx`` wrote: an image and an instruction in, an action out.

One file that needs numpy, onnxruntime, pillow and tokenizers, and nothing of openvla_ros; it is also in every
bundle, as ``run_policy.py``:

    python run_policy.py scene.png "lift the red cube"

In a program: ``policy = OnnxPolicy("bundle")``, then ``policy.act(image, "lift the red cube").values``. All
that belongs to the checkpoint is read from the bundle's ``openvla_bundle.json``: prompt, image transform,
action tokens and statistics. ``action_space`` there says what an action means; nothing here moves a robot.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, UnidentifiedImageError
from tokenizers import Tokenizer

BUNDLE, FORMAT, VERSION = "openvla_bundle.json", "openvla_ros onnx", 1
SUMS = "SHA256SUMS"
GRAPHS = ("vision", "prefill", "decode")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")  # of PIL: 8 bits a sample
RESAMPLING = {method.name.lower(): method for method in Image.Resampling}
CROP_AREA, CROP_SIZE = np.float32(0.9), (224, 224)  # of OpenVLA's center crop at evaluation


class PolicyError(ValueError):
    """The bundle, an image or an instruction cannot be used; the message says why."""


@dataclass(frozen=True, eq=False)
class Action:
    """One action, and what it was decoded from."""

    values: np.ndarray  # (D,) float64 in the units of the action space
    normalised: np.ndarray  # (D,) bin centers, -1 .. 1
    token_ids: np.ndarray  # (D,) int64
    logits: np.ndarray  # (D, vocabulary) float32, from which each token was chosen
    unnorm_key: str  # whose statistics un-normalised the values
    seconds: float


class OnnxPolicy:
    """A bundle whose graphs are loaded."""

    def __init__(
        self,
        folder: str | Path,
        providers: Sequence[str] = ("CPUExecutionProvider",),
        threads: int = 0,
        verify: bool = True,
    ) -> None:
        """Load the bundle in ``folder``; raises ``PolicyError``.

        ``providers`` are ONNX Runtime's, in order; ``threads`` 0 leaves their number to it. ``verify``
        compares every file with its SHA-256 first.
        """
        self.folder = Path(folder)
        self.bundle = read_bundle(self.folder)
        if verify:
            check_files(self.folder, self.bundle)
        missing = [name for name in providers if name not in onnxruntime.get_available_providers()]
        if missing:
            known = ", ".join(onnxruntime.get_available_providers())
            raise PolicyError(f"this onnxruntime has no {', '.join(missing)}; it has {known}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.sessions = {
            name: onnxruntime.InferenceSession(
                str(self.folder / self.bundle["graphs"][name]["file"]), options, providers=list(providers)
            )
            for name in GRAPHS
        }
        self.tokenizer = Tokenizer.from_file(str(self.folder / self.bundle["tokenizer"]["file"]))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()

    def act(self, image: np.ndarray, instruction: str, unnorm_key: str | None = None) -> Action:
        """Return the action for an RGB image (H, W, 3) uint8; raises ``PolicyError``.

        ``unnorm_key`` is needed where the bundle has the statistics of several datasets and names none.
        """
        began = time.perf_counter()
        key, statistics = self._statistics(unnorm_key)
        pixels = transform(image, self.bundle["image_transform"])
        token_ids, logits = self.decode(pixels, self.prompt_ids(instruction), len(statistics["q01"]))
        tokens = self.bundle["action_tokens"]
        index = np.clip(tokens["ids"][-1] - token_ids, 0, len(tokens["ids"]) - 1)
        normalised = np.array(tokens["values"])[::-1][index]
        values = unnormalise(normalised, statistics)
        return Action(values, normalised, token_ids, logits, key, time.perf_counter() - began)

    def prompt_ids(self, instruction: str) -> list[int]:
        """Return the token ids of the prompt; raises ``PolicyError`` if it is empty or too long."""
        prompt = self.bundle["prompt"]
        if not instruction.strip():
            raise PolicyError("the instruction is empty")
        words = instruction.lower() if prompt["lower_case"] else instruction
        ids = list(self.tokenizer.encode(prompt["template"].replace("{instruction}", words)).ids)
        if ids[-1] != prompt["last_id"]:
            ids.append(prompt["last_id"])
        if len(ids) > prompt["max_tokens"]:
            raise PolicyError(
                f"the prompt has {len(ids)} tokens; this bundle takes {prompt['max_tokens']}: "
                "shorten the instruction, or export with a larger --prompt-tokens"
            )
        return ids

    def decode(self, pixels: np.ndarray, ids: list[int], count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return ``count`` greedy token ids and their logits (count, vocabulary)."""
        (image,) = self.sessions["vision"].run(None, {"pixels": pixels[None]})
        inputs = {"image_embeddings": image, "token_ids": int64([ids]), "prompt_length": int64([len(ids)])}
        logits, cache = self._step("prefill", inputs)
        position, rows = image.shape[1] + len(ids), [logits]
        while len(rows) < count:
            chosen = int64([[logits.argmax()]])
            logits, cache = self._step("decode", {"token_id": chosen, "position": int64([position]), **cache})
            position, rows = position + 1, [*rows, logits]
        found = np.stack(rows)
        if not np.isfinite(found).all():
            raise PolicyError("the logits are not finite")
        token_ids = found.argmax(axis=1)
        early = np.flatnonzero(token_ids[:-1] == self.bundle["action_tokens"]["end_id"])
        if early.size:
            raise PolicyError(f"the model ended the sequence at action token {early[0]} of {count}")
        return token_ids, found

    def _step(self, graph: str, inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the logits (vocabulary,), and the cache as the next step's inputs."""
        session = self.sessions[graph]
        outputs = dict(zip((o.name for o in session.get_outputs()), session.run(None, inputs), strict=True))
        logits = outputs.pop("logits")[0]
        return logits, {name.replace("present", "past", 1): value for name, value in outputs.items()}

    def _statistics(self, unnorm_key: str | None) -> tuple[str, dict[str, Any]]:
        known = self.bundle["statistics"]
        key = self.bundle["unnorm_key"] if unnorm_key is None else unnorm_key
        if key not in known:
            problem = "give an unnorm_key" if key is None else f"no statistics for unnorm_key {key!r}"
            raise PolicyError(f"{problem}; the choices are {', '.join(known)}")
        return key, known[key]["action"]


def int64(value: Any) -> np.ndarray:
    """Return ``value`` as an int64 array."""
    return np.array(value, dtype=np.int64)


def read_bundle(folder: Path) -> dict[str, Any]:
    """Return what the bundle in ``folder`` states; raises ``PolicyError``."""
    path = folder / BUNDLE
    try:
        bundle = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PolicyError(f"{path} cannot be read: {error}") from error
    found = (bundle.get("format"), bundle.get("version")) if isinstance(bundle, dict) else (None, None)
    if found != (FORMAT, VERSION):
        raise PolicyError(f"{path}: format and version are {found}; this program reads {(FORMAT, VERSION)}")
    return bundle


def check_files(folder: Path, bundle: dict[str, Any]) -> None:
    """Raise ``PolicyError`` unless every file has the SHA-256 that the bundle or, for itself, SUMS states."""
    for name, expected in {**bundle["files"], BUNDLE: stated_sum(folder, BUNDLE)}.items():
        try:
            with (folder / name).open("rb") as file:
                digest = hashlib.sha256()
                while block := file.read(1 << 20):
                    digest.update(block)
        except OSError as error:
            raise PolicyError(f"{folder / name} cannot be read: {error.strerror}") from error
        if digest.hexdigest() != expected:
            origin = SUMS if name == BUNDLE else BUNDLE
            raise PolicyError(f"{folder / name} was damaged or changed: its SHA-256 is not that in {origin}")


def stated_sum(folder: Path, name: str) -> str:
    """Return the SHA-256 of file ``name`` in ``folder``/SHA256SUMS; raises ``PolicyError``."""
    path = folder / SUMS
    try:
        sums = dict(line.split("  ", 1)[::-1] for line in path.read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError) as error:
        raise PolicyError(f"{path} cannot be read: {error}") from error
    if name not in sums:
        raise PolicyError(f"{path} does not list {name}")
    return sums[name]


def read_image(path: Path) -> np.ndarray:
    """Return an image as uint8 (H, W, 3) RGB; raises ``PolicyError``."""
    try:
        with Image.open(path) as image:
            if image.mode not in MODES:
                raise PolicyError(f"{path}: mode {image.mode}; 8 bits a sample are read, {', '.join(MODES)}")
            if image.getexif().get(0x0112, 1) != 1:
                raise PolicyError(f"{path} is stored turned (EXIF orientation); save it upright")
            return np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise PolicyError(f"{path} is not a readable image: {error}") from error


def transform(image: np.ndarray, description: dict[str, Any]) -> np.ndarray:
    """Return the pixels (3 a tower, H, W) float32 of an RGB image (H, W, 3) uint8."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise PolicyError(f"an image is {image.dtype} {image.shape}; it must be uint8 (H, W, 3), RGB")
    prepared = Image.fromarray(
        crop_center(image) if description["center_crop"] else np.ascontiguousarray(image)
    )
    if description["letterbox_fill"] is not None:
        prepared = letterbox(prepared, tuple(description["letterbox_fill"]))
    return np.concatenate([tower_pixels(prepared, tower) for tower in description["towers"]])


def tower_pixels(image: Image.Image, tower: dict[str, Any]) -> np.ndarray:
    """Return one tower's normalised pixels (3, H, W): resized, cut from the middle, scaled."""
    (width, height), size, (rows, columns) = image.size, tower["size"], tower["crop"]
    if isinstance(size, int):  # the shorter side becomes ``size``, the longer one is truncated
        other = int(size * max(width, height) / min(width, height))
        target = (size, other) if width <= height else (other, size)
    else:
        target = (size[1], size[0])
    if image.size != target:
        image = image.resize(target, RESAMPLING[tower["resampling"]])
    if target != (columns, rows):
        left, top = round((target[0] - columns) / 2.0), round((target[1] - rows) / 2.0)
        image = image.crop((left, top, left + columns, top + rows))
    levels = np.asarray(image).transpose(2, 0, 1).astype(np.float32) / np.float32(255.0)
    mean, std = (np.array(tower[name], dtype=np.float32)[:, None, None] for name in ("mean", "std"))
    return (levels - mean) / std


def letterbox(image: Image.Image, fill: tuple[int, ...]) -> Image.Image:
    """Return ``image`` padded to a square."""
    width, height = image.size
    side = max(width, height)
    left, top = (side - width) // 2, (side - height) // 2
    padded = Image.new("RGB", (width + 2 * left, height + 2 * top), fill)
    padded.paste(image, (left, top))
    return padded


def crop_center(image: np.ndarray) -> np.ndarray:
    """Return the middle 90% of the area, resampled as TensorFlow's ``crop_and_resize`` does."""
    side = np.sqrt(CROP_AREA)
    start = (np.float32(1.0) - side) / np.float32(2.0)
    (top, bottom, dy), (left, right, dx) = (
        crop_axis(start, start + side, length, size)
        for length, size in zip(image.shape[:2], CROP_SIZE, strict=True)
    )
    pixels = image.astype(np.float32) * np.float32(1.0 / 255)
    upper, lower, dx, dy = pixels[top], pixels[bottom], dx[None, :, None], dy[:, None, None]
    above = upper[:, left] + (upper[:, right] - upper[:, left]) * dx
    below = lower[:, left] + (lower[:, right] - lower[:, left]) * dx
    cropped = np.clip(above + (below - above) * dy, 0.0, 1.0)
    return np.clip(cropped * np.float32(255.5), 0.0, 255.0).astype(np.uint8)


def crop_axis(
    start: np.float32, stop: np.float32, length: int, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the lower and upper source index of each output, and the upper one's weight."""
    last = np.float32(length - 1)
    step = (stop - start) * last / np.float32(size - 1)
    position = np.clip(start * last + np.arange(size, dtype=np.float32) * step, np.float32(0.0), last)
    lower = np.floor(position)
    return lower.astype(np.intp), np.ceil(position).astype(np.intp), (position - lower).astype(np.float32)


def unnormalise(normalised: np.ndarray, statistics: dict[str, Any]) -> np.ndarray:
    """Return bin centers (D,) in the dataset's units; dimensions outside the mask stay as they are."""
    mask = np.array(statistics["mask"], dtype=bool)
    low, high = (np.array(statistics[name], dtype=np.float64) for name in ("q01", "q99"))
    return np.where(mask, 0.5 * (normalised + 1) * (high - low) + low, normalised)


def lines(policy: OnnxPolicy, action: Action) -> Iterable[str]:
    """Yield the action as text: a line for each dimension, with name and unit where they are known."""
    space = policy.bundle["action_space"]
    width = len(action.values)
    named = space is not None and len(space["names"]) == width
    names, units = (
        (space["names"], space["units"]) if named else ([f"[{i}]" for i in range(width)], [""] * width)
    )
    for name, unit, value, token in zip(names, units, action.values, action.token_ids, strict=True):
        yield f"{name:8} {value:+.6f} {unit:4} token {token}"
    yield f"{action.seconds:.3f} s, statistics of {action.unnorm_key}"


def main() -> int:
    """Run the program; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", type=Path)
    parser.add_argument("instruction")
    parser.add_argument(
        "--bundle", type=Path, default=Path(__file__).parent, help="default: this file's folder"
    )
    parser.add_argument("--unnorm-key", help="the dataset whose statistics to use, if there are several")
    parser.add_argument("--provider", action="append", help="of ONNX Runtime; repeatable, in order")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    try:
        image = read_image(arguments.image)
        providers = arguments.provider or ["CPUExecutionProvider"]
        policy = OnnxPolicy(arguments.bundle, providers, arguments.threads)
        action = policy.act(image, arguments.instruction, arguments.unnorm_key)
    except PolicyError as error:
        print(f"run_policy: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        arrays = {"actions": action.values, "token_ids": action.token_ids, "normalised": action.normalised}
        said: dict[str, Any] = {name: array.tolist() for name, array in arrays.items()}
        print(json.dumps({**said, "unnorm_key": action.unnorm_key, "seconds": action.seconds}))
    else:
        print("\n".join(lines(policy, action)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
