"""Compares an exported bundle with the engine that it came from, on images and words of different content.

The bundle is run by the program that is in it, so what is compared is what its user gets.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openvla_ros.errors import ExportError, InvalidValueError
from openvla_ros.exporting.policy_source import PolicySource
from openvla_ros.model.decoding.greedy import prefill, step
from openvla_ros.model.inference.predictor import OpenVLAPredictor
from openvla_ros.values.arrays import Float, Image, Int, read_only

# Float32 sums in another order: the largest difference of a logit, as a share of the largest logit.
LOGIT_TOLERANCE = 1e-4
INSTRUCTIONS = (
    "lift the red cube",
    "put the blue block on the plate",
    "Pick up the green one, then push it to the left of the yellow one",
    "reach",
)
RUNNER = "run_policy.py"  # in every bundle
_SIZE = (240, 320)  # of the made images: other sides than any network's, so that resizing is checked too


@dataclass(frozen=True, eq=False)
class Agreement:
    """How far a bundle agrees with the engine."""

    cases: int
    tokens: int
    same_tokens: int
    # The largest as a share of the largest logit, over steps with the same tokens before; None: not compared.
    logit_difference: float | None
    action_difference: Float  # (D,) the largest of each dimension, in its unit

    @property
    def exact(self) -> bool:
        """Whether all tokens are the same, and the logits differ by no more than rounding."""
        return self.same_tokens == self.tokens and (self.logit_difference or 0.0) <= LOGIT_TOLERANCE

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return {
            "cases": self.cases,
            "tokens": self.tokens,
            "same_tokens": self.same_tokens,
            "logit_difference": self.logit_difference,
            "logit_tolerance": LOGIT_TOLERANCE,
            "action_difference": self.action_difference.tolist(),
        }


def made_images() -> list[Image]:
    """Return images (H, W, 3) uint8 of different content: flat, smooth, noise, shapes."""
    height, width = _SIZE
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    rows, columns = np.mgrid[0:height, 0:width]
    ramp = np.stack(
        [255 * rows // height, 255 * columns // width, 255 * (rows + columns) // (height + width)]
    )
    shapes = np.full((height, width, 3), 150, dtype=np.uint8)
    for color in ((200, 30, 30), (30, 160, 40), (40, 60, 210), (230, 210, 40)):
        top, left = generator.integers(20, height - 70), generator.integers(20, width - 70)
        shapes[top : top + 45, left : left + 45] = color
    found = [np.zeros_like(noise), noise, ramp.transpose(1, 2, 0).astype(np.uint8), shapes]
    return [read_only(np.ascontiguousarray(image)) for image in found]


def fitting_instructions(source: PolicySource, prompt_tokens: int) -> tuple[str, ...]:
    """Return the instructions whose prompt has at most ``prompt_tokens``; raises ``InvalidValueError``."""
    lengths = {words: source.predictor.model.prompt_ids(words).shape[1] for words in INSTRUCTIONS}
    fitting = tuple(words for words, length in lengths.items() if length <= prompt_tokens)
    if not fitting:
        shortest = min(lengths, key=lambda words: lengths[words])
        raise InvalidValueError(
            f"--prompt-tokens {prompt_tokens} is too few: the prompt of {shortest!r} has {lengths[shortest]}"
        )
    return fitting


def cases(
    images: Sequence[Image], instructions: Sequence[str] = INSTRUCTIONS, *, every_pair: bool = False
) -> list[tuple[Image, str]]:
    """Return the made images and ``images``, each with an instruction or, for ``every_pair``, with each."""
    every = [*made_images(), *images]
    if every_pair:
        return [(image, words) for image in every for words in instructions]
    return [(image, instructions[index % len(instructions)]) for index, image in enumerate(every)]


def check_bundle(folder: Path, source: PolicySource, compared: Sequence[tuple[Image, str]]) -> Agreement:
    """Return how far the bundle in ``folder`` agrees with ``source`` on images and instructions.

    Raises ``ExportError`` if the bundle cannot be run.
    """
    found = []
    with runner_of(folder) as runner:
        try:
            policy = runner.OnnxPolicy(folder, threads=torch.get_num_threads())
            for image, words in compared:
                wanted = source.predictor.predict([image], words)
                assert wanted.token_ids is not None
                got = policy.act(image, words, source.widest)
                logits = engine_logits(source.predictor, image, words, wanted.token_ids[0])
                difference = np.abs(wanted.actions[0] - got.values)
                found.append((*_compared(wanted.token_ids[0], got.token_ids, logits, got.logits), difference))
        except runner.PolicyError as error:
            raise ExportError(f"the exported bundle cannot be run: {error}") from error
    tokens, same, logit, action = zip(*found, strict=True)
    return Agreement(len(found), sum(tokens), sum(same), max(logit), np.max(action, axis=0))


def _compared(wanted: Int, got: Int, logits: Float, theirs: Float) -> tuple[int, int, float]:
    """Return the number of tokens, how many are the same, and the largest difference of a logit."""
    differ = np.flatnonzero(wanted != got)
    comparable = len(wanted) if not differ.size else int(differ[0]) + 1  # later ones follow another token
    error = np.abs(logits[:comparable] - theirs[:comparable]).max() / np.abs(logits).max()
    return len(wanted), int((wanted == got).sum()), float(error)


@torch.inference_mode()
def engine_logits(predictor: OpenVLAPredictor, image: Image, instruction: str, token_ids: Int) -> Float:
    """Return the reference decoder's logits (N, vocabulary) that ``token_ids`` (N,) were chosen from."""
    model = predictor.model
    model.adapters.activate(predictor.adapter)
    pixels = model.pixels(image, center_crop=predictor.center_crop)
    logits, cache = prefill(model.network, model.network.embed(pixels, model.prompt_ids(instruction)))
    rows = [logits]
    for token in token_ids[:-1]:
        rows.append(step(model.network, torch.tensor([[int(token)]]), cache))
    found: Float = torch.cat(rows).numpy()
    return found


class _UncachedLoader(SourceFileLoader):
    """Imports a program without leaving its compiled form beside it: a bundle's files are listed."""

    def set_data(self, *_what: Any, **_options: Any) -> None:
        """Write nothing."""


@contextmanager
def runner_of(folder: Path) -> Iterator[Any]:
    """Yield the program in a bundle as a module, imported from there."""
    name = f"openvla_bundle_{abs(hash(folder))}"
    loader = _UncachedLoader(name, str(folder / RUNNER))
    spec = importlib.util.spec_from_file_location(name, folder / RUNNER, loader=loader)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[name]
