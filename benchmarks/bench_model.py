"""CPU seconds per action of each way to decode, beside the plain decoder and a transformers generate loop.

A model of about 155 million parameters with random weights. All loops run in this process, in turn on
each image, so other load on the machine affects them equally. Decoders are built and warmed up first. The
rows:

    transformers    ``generate`` of the language model, as a transformers user would write it
    plain           the reference decoder
    static cache    token by token over a cache of fixed size, with the network's own modules
    steady          the same on fused projections: the steady decoder
    compiled        the steady decoder with its norms and gates through torch.compile
    fast, K wrong   guesses verified with the prompt; the guesses cost K extra passes

"all wrong" is the worst case: every guess is wrong. It may take 3% longer than plain. torch.compile is off in
the package: it needs a C++ compiler on the robot and recompiles for every new length. The row shows what it
would gain, or why it did not run. The fast decoder saves passes that wait for memory. On one core, where
the prompt takes longest, it gains less than on a GPU.

    python benchmarks/bench_model.py [--quick] [--threads N] [--no-compile]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from statistics import median

import torch
from guesses import guess_that_costs
from random_model import SIZES, random_network
from torch import Tensor

from openvla_ros.model.decoding.engine import Engine
from openvla_ros.model.decoding.greedy import GreedyDecoder
from openvla_ros.model.decoding.speculative import DraftingDecoder
from openvla_ros.model.decoding.steady import SteadyDecoder
from openvla_ros.model.kernels.static_llama import StaticLlama
from openvla_ros.model.kernels.torch_kernels import LlamaShape, TorchKernels
from openvla_ros.model.network.openvla import OpenVLA

COUNT = 7  # tokens of an action
TEXT_TOKENS = 25  # of a prompt
WORST = "fast, all wrong"
WORST_LIMIT = 1.03  # times plain decoding
PASSES = {"fast, 0 wrong": 0, "fast, 1 wrong": 1, "fast, 2 wrong": 2, WORST: COUNT - 1}


@dataclass(frozen=True)
class Scene:
    """One image and its prompt."""

    pixels: Tensor
    token_ids: Tensor


@dataclass
class Row:
    """One loop's times."""

    run: Callable[[int], list[int]] | None  # the scene's number → the action's tokens
    error: str | None = None
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    same: int = 0  # actions whose tokens equal the plain decoder's


class CompiledKernels(TorchKernels):
    """Norms and gates through torch.compile, where it has something to fuse."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__(shape)
        self.norm = torch.compile(super().norm)  # type: ignore[method-assign]
        self.gate = torch.compile(super().gate)  # type: ignore[method-assign]


class Bench:
    """The network, its scenes and every decoder, built once."""

    def __init__(self, size: str, scenes: int, *, compiled: bool) -> None:
        self.network = random_network(size)
        side, self.ids = SIZES[size].image_sizes[0], range(3, SIZES[size].action_ids.start)
        draw = torch.Generator().manual_seed(0)
        self.scenes = [
            Scene(
                torch.randn(1, 6, side, side, generator=draw),
                torch.randint(3, self.ids.stop, (1, TEXT_TOKENS), generator=draw),
            )
            for _ in range(scenes)
        ]
        plain = partial(self.decode, GreedyDecoder(self.network))
        self.references = [plain(number) for number in range(scenes)]
        self.drafting = DraftingDecoder(self.network)
        unfused = StaticLlama(self.network, fuse=False)
        self.rows = {
            "transformers": Row(self.transformers_loop),
            "plain": Row(plain),
            "static cache": Row(partial(self.decode, SteadyDecoder(self.network, engine=self.on(unfused)))),
            "steady": Row(partial(self.decode, SteadyDecoder(self.network, engine=self.drafting.engine))),
            "compiled": self.compiled() if compiled else Row(None, "not asked for"),
            **{name: Row(self.drafted(passes)) for name, passes in PASSES.items()},
        }

    def on(self, llama: StaticLlama) -> Engine:
        """Return an engine on its own language model."""
        return Engine(self.network, llama=llama)

    def compiled(self) -> Row:
        """Return the row of torch.compile, warmed up, or the reason why it did not run."""
        kernels = CompiledKernels(LlamaShape.of(self.network.language_model.config))
        decoder = SteadyDecoder(self.network, engine=self.on(StaticLlama(self.network, kernels)))
        began = time.perf_counter()
        try:
            self.decode(decoder, 0)
        except RuntimeError as error:  # what torch.compile raises without a C++ compiler
            reason = (str(error).strip().splitlines() or [""])[0]
            return Row(None, f"does not run here: {type(error).__name__}: {reason[:70]}")
        print(f"torch.compile took {time.perf_counter() - began:.1f} s")
        return Row(partial(self.decode, decoder))

    def decode(self, decoder: GreedyDecoder | SteadyDecoder, number: int) -> list[int]:
        """Return the tokens of one action, from its pixels."""
        scene = self.scenes[number]
        tokens: list[int] = decoder.decode(scene.pixels, scene.token_ids, COUNT).token_ids.tolist()
        return tokens

    @torch.inference_mode()
    def transformers_loop(self, number: int) -> list[int]:
        """Return the tokens of ``generate``: as a transformers user would write it."""
        scene = self.scenes[number]
        embeddings = self.network.embed(scene.pixels, scene.token_ids)
        ids = self.network.language_model.generate(
            inputs_embeds=embeddings,
            attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.long),
            max_new_tokens=COUNT,
            min_new_tokens=COUNT,
            do_sample=False,
            pad_token_id=0,
        )
        tokens: list[int] = ids[0, -COUNT:].tolist()
        return tokens

    def drafted(self, passes: int) -> Callable[[int], list[int]]:
        """Return the fast decoder with guesses that cost a given number of extra passes."""
        guesses = []
        for number, reference in enumerate(self.references):
            cost = partial(self.cost, number)
            guesses.append(torch.tensor(guess_that_costs(passes, reference[:-1], self.ids, cost)))

        def run(number: int) -> list[int]:
            return self.after(guesses[number], number)

        return run

    @torch.inference_mode()
    def after(self, guess: Tensor, number: int) -> list[int]:
        """Return the fast decoder's tokens after ``guess``."""
        scene = self.scenes[number]
        embeddings = self.drafting.engine.embed(scene.pixels, scene.token_ids)
        tokens: list[int] = self.drafting.decode_embedded(embeddings, COUNT, guess).token_ids.tolist()
        return tokens

    def cost(self, number: int, guess: list[int]) -> int:
        """Return how many passes a guess costs after the prompt's pass."""
        self.drafting.forget()
        self.after(torch.tensor(guess), number)
        (passes,) = self.drafting.acceptance.passes
        return passes

    def measure(self, repeats: int, seconds: float) -> None:
        """Time every loop in turn on each scene, until the repeats are done or the time is up."""
        until = time.monotonic() + seconds
        for repeat in range(repeats):
            number = repeat % len(self.scenes)
            for row in self.rows.values():
                if row.run is not None:
                    self.once(row, row.run, number)
            if time.monotonic() > until:
                break

    def once(self, row: Row, run: Callable[[int], list[int]], number: int) -> None:
        """Time one action, including the vision towers."""
        wall, cpu = time.perf_counter(), time.process_time()
        tokens = run(number)
        row.wall_s.append(time.perf_counter() - wall)
        row.cpu_s.append(time.process_time() - cpu)
        row.same += tokens == self.references[number]


def parameters_of(network: OpenVLA) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def report(bench: Bench, size: str, threads: int) -> None:
    """Print the table, the verdict and the JSON line."""
    plain, found = bench.rows["plain"], {}
    count, parameters = len(plain.cpu_s), parameters_of(bench.network)
    print(f"{parameters / 1e6:.0f} M parameters, float32, {threads} threads, {count} actions each, medians")
    print(f"{'':18}{'wall s':>9}{'CPU s':>9}{'CPU s / plain':>15}{'same tokens':>13}")
    for name, row in bench.rows.items():
        if not row.cpu_s:
            print(f"{name:18}{row.error}")
            found[name] = {"error": row.error}
            continue
        # Of the same repeat, so that other load on the machine affects both.
        ratio = median(ours / theirs for ours, theirs in zip(row.cpu_s, plain.cpu_s, strict=True))
        agreement = row.same / len(row.cpu_s)
        print(f"{name:18}{median(row.wall_s):9.3f}{median(row.cpu_s):9.3f}{ratio:15.3f}{agreement:13.0%}")
        found[name] = {
            "wall_s": median(row.wall_s), "cpu_s": median(row.cpu_s),
            "to_plain": ratio, "agreement": agreement,
        }  # fmt: skip
    fused = found["steady"]["to_plain"] / found["static cache"]["to_plain"]
    print(f"fused projections alone: steady / static cache = {fused:.3f}")
    worst = found[WORST]["to_plain"]
    held = worst <= WORST_LIMIT
    print(
        f"worst case of drafting: {worst:.3f} x plain; limit {WORST_LIMIT}: {'held' if held else 'NOT held'}"
    )
    print(
        json.dumps(
            {
                "benchmark": "model", "size": size, "parameters": parameters, "threads": threads,
                "actions": count, "rows": found, "fused_projections": fused,
                "worst_case": {"to_plain": worst, "limit": WORST_LIMIT, "held": held},
            }
        )
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one image, and at most 20 s of measuring")
    parser.add_argument("--size", choices=("small", "tiny"), default="small")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="all cores by default")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    scenes, repeats, seconds = (1, 3, 20.0) if arguments.quick else (4, 20, 300.0)
    bench = Bench(arguments.size, scenes, compiled=not arguments.no_compile)
    for row in bench.rows.values():
        if row.run is not None:
            row.run(0)  # warm-up
    bench.measure(repeats, seconds)
    report(bench, arguments.size, arguments.threads)


if __name__ == "__main__":
    main()
