"""Ways to decode one action on a device: a plain transformers loop, and every decoder of the package."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from action_timer import Run, Tokens
from guesses import TRIES, guess_that_costs
from random_model import SIZES, image_transform, random_network
from torch import Tensor

from openvla_ros.model.decoding.greedy import GreedyDecoder
from openvla_ros.model.decoding.speculative import DraftingDecoder
from openvla_ros.model.decoding.steady import SteadyDecoder
from openvla_ros.model.network.openvla import OpenVLA
from openvla_ros.model.network.pixels import PixelTable, upload
from openvla_ros.values.arrays import Image

COUNT = 7  # tokens of an action
TEXT_TOKENS = 26  # of a prompt, BOS among them


class ActionDecoders:
    """A network with random weights, images and prompts for it, and the ways to decode actions from them."""

    def __init__(self, size: str, device: torch.device, dtype: torch.dtype, images: int) -> None:
        self.size, self.device, self.count = size, device, images
        self.references: list[Tokens] = []  # the plain decoder's tokens for each image
        self.network = random_network(size, device, dtype)
        self.table = PixelTable(image_transform(size), device, dtype)
        draw = np.random.default_rng(0)
        side, last = SIZES[size].image_sizes[0], SIZES[size].action_ids.start
        self.prompts: list[Tensor] = list(torch.from_numpy(draw.integers(3, last, (images, 1, TEXT_TOKENS))))
        self.images: list[Image] = list(draw.integers(0, 256, (images, side, side, 3), dtype=np.uint8))

    def pixels(self, image: int) -> Tensor:
        """Return the pixels of one image, which is sent to the device as 8-bit levels."""
        return self.table(self.images[image])

    @property
    def prompt_tokens(self) -> int:
        """The number of embeddings of a prompt, including the image's."""
        return TEXT_TOKENS + SIZES[self.size].patches

    def plain(self, network: OpenVLA, image: int) -> Tokens:
        """Return the reference decoder's tokens."""
        decoder = GreedyDecoder(network)
        tokens: Tokens = decoder.decode(self.pixels(image), self.prompts[image], COUNT).token_ids.tolist()
        return tokens

    def transformers_loop(self, image: int) -> Tokens:
        """Return the tokens of ``generate``: as a transformers user would write it."""
        with torch.inference_mode():
            ids = upload(self.prompts[image], self.device)
            embeddings = self.network.embed(self.pixels(image), ids)
            out = self.network.language_model.generate(
                inputs_embeds=embeddings,
                attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.long, device=self.device),
                max_new_tokens=COUNT,
                min_new_tokens=COUNT,
                do_sample=False,
                pad_token_id=0,
            )
        tokens: Tokens = out[0, -COUNT:].tolist()
        return tokens

    def engine_runs(self, drafting: DraftingDecoder, wrong: Sequence[int] = (0, 1, 2)) -> dict[str, Run]:
        """Return the steady decoder, and the fast one with guesses that cost each number of extra passes."""
        steady = SteadyDecoder(drafting.model, engine=drafting.engine)
        runs: dict[str, Run] = {
            "steady": lambda p: steady.decode(self.pixels(p), self.prompts[p], COUNT).token_ids.tolist()
        }
        right = [self.accepted(drafting, image) for image in range(self.count)]
        for passes in wrong:
            guesses = [self.guess(drafting, image, right[image], passes) for image in range(self.count)]
            runs[f"fast, {passes} wrong"] = partial(self.drafted, drafting, guesses)
        return runs

    def drafted(self, drafting: DraftingDecoder, guesses: Sequence[Tensor], image: int) -> Tokens:
        """Return the fast decoder's tokens after the guess for this image."""
        with torch.inference_mode():
            embeddings = drafting.engine.embed(self.pixels(image), self.prompts[image])
            found = drafting.decode_embedded(embeddings, COUNT, guesses[image])
        tokens: Tokens = found.token_ids.tolist()
        return tokens

    def extra_passes(self, drafting: DraftingDecoder, guess: Tokens, image: int) -> tuple[int, Tokens]:
        """Return how many passes a guess (COUNT - 1) costs after the prompt's pass, and the tokens."""
        before = drafting.acceptance.passes.copy()
        tokens = self.drafted(drafting, [torch.tensor(guess)] * self.count, image)
        (passes,) = (drafting.acceptance.passes - before).keys()
        return passes, tokens

    def accepted(self, drafting: DraftingDecoder, image: int) -> Tokens:
        """Return the guess that costs no extra pass: with packed weights, not always the plain tokens."""
        tokens = self.references[image]
        for _ in range(TRIES):
            guess = tokens[:-1]
            passes, tokens = self.extra_passes(drafting, guess, image)
            if passes == 0:
                return guess
        raise ArithmeticError("no guess was found that is accepted at once")

    def guess(self, drafting: DraftingDecoder, image: int, right: Tokens, passes: int) -> Tensor:
        """Return a guess on the device with this many wrong tokens; each costs one extra pass."""
        tokens = range(3, SIZES[self.size].action_ids.start)

        def cost(guess: Tokens) -> int:
            return self.extra_passes(drafting, guess, image)[0]

        return torch.tensor(guess_that_costs(passes, right, tokens, cost), device=self.device)
