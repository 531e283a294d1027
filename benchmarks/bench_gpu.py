"""One action of openvla-7b on a GPU: every decoder beside a plain transformers loop and the GPU's limits.

Builds the network with random weights on the device, so nothing is downloaded. First it measures the
device's limits: bytes copied and operations per second in matrix products. Then it measures, on the same
images in turn, the milliseconds per action (p50, p95, p99) of

    transformers    ``generate`` of the language model, as a transformers user would write it
    plain           the reference decoder
    steady          token by token, one captured graph
    fast, K wrong   guesses verified with the prompt; the guesses cost K extra passes

and of quantised weights, which are NOT exact: their tokens are compared with the plain decoder's. With
random weights that agreement says little about a trained model, whose choices are clearer. "of it" is the
share of the limit that was reached: the least time that the measured rates allow, divided by the time taken.

    python benchmarks/bench_gpu.py [--seconds 450] [--repeats 200]
    python benchmarks/bench_gpu.py --size small --device cpu     the same code without a GPU
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import metadata
from typing import Any

import numpy as np
import torch
from action_report import Report, Row
from guesses import TRIES, guess_that_costs
from random_model import SIZES, image_transform, random_network
from rooflines import (
    Ceilings,
    Work,
    action_limits,
    language_work,
    measure_ceilings,
    seconds_of,
    vision_work,
    wait,
)
from torch import Tensor

from openvla_ros.model.decoding.engine import Engine, make_engine
from openvla_ros.model.decoding.greedy import GreedyDecoder
from openvla_ros.model.decoding.oft_engine import ChunkEngine
from openvla_ros.model.decoding.speculative import DraftingDecoder
from openvla_ros.model.decoding.steady import SteadyDecoder
from openvla_ros.model.kernels.cuda_graphs import EagerStages
from openvla_ros.model.kernels.packed_weights import packed_bytes
from openvla_ros.model.network.bitsandbytes_layers import (
    INTEGERS,
    PACKINGS,
    Integers,
    Packing,
    assign_quantized,
    make_quantized_layers,
    weight_bytes,
)
from openvla_ros.model.network.oft import OFTLayout, OpenVLAOFT
from openvla_ros.model.network.openvla import OpenVLA
from openvla_ros.model.network.pixels import PixelTable, upload
from openvla_ros.values.arrays import Image

COUNT = 7  # tokens of an action
TEXT_TOKENS = 26  # of a prompt, BOS among them
IMAGES = 8  # two on a CPU: finding the guesses would take longer than the timing
WARM_UPS = 20
# The share of the total time that one group of compared modes may take.
EXACT_SHARE, OTHER_SHARE = 0.35, 0.08
NO_GPU = 2  # exit code

Tokens = list[int]
Run = Callable[[int], Tokens]  # the image's number → the action's tokens


class Bench:
    """The network, its images and prompts, and what is measured on them."""

    network: OpenVLA
    ceilings: Ceilings
    engine: Engine
    drafting: DraftingDecoder

    def __init__(self, size: str, device: torch.device, seconds: float, repeats: int, report: Report) -> None:
        self.size, self.device, self.report = size, device, report
        self.on_gpu = device.type == "cuda"
        self.dtype = torch.bfloat16 if self.on_gpu else torch.float32
        self.repeats = repeats or (200 if self.on_gpu else 5)
        self.warm_ups = WARM_UPS if self.on_gpu else 1
        self.count = IMAGES if self.on_gpu else 2
        self.seconds, self.until = seconds, time.monotonic() + seconds
        self.references: list[Tokens] = []

    def run(self) -> None:
        """Measure everything there is time for; report what fails and continue with the rest."""
        sections: dict[str, Callable[[], None]] = {
            "ceilings": self.measure,
            "network": self.build,
            "exact decoders": self.exact,
            "stages": self.stages,
            **{how: partial(self.packed, how) for how in ("int4wo", "fp8", "int8wo")},
            "chunks": self.chunks,
            "float32": self.beside_float32,
            **{how: partial(self.integers, how) for how in reversed(INTEGERS)},
        }
        assert sections.keys() >= {*PACKINGS, *INTEGERS}
        for name, section in sections.items():
            error = "no time was left" if time.monotonic() > self.until else self.attempt(section)
            if error is not None:
                self.report.add(name, Row(error=error))
            if error is not None and name in ("ceilings", "network"):
                return
            if self.on_gpu:
                torch.cuda.empty_cache()

    def attempt(self, work: Callable[[], None]) -> str | None:
        """Run ``work``; return the error text, if any."""
        try:
            work()
        except Exception as error:  # noqa: BLE001  however one fails, the others continue
            first = (str(error).strip().splitlines() or [""])[0]
            return f"{type(error).__name__}: {first[:200]}"
        return None

    # The device and the network

    def measure(self) -> None:
        """Measure the device's limits."""
        self.ceilings = known = measure_ceilings(self.device, self.dtype)
        self.report.facts["ceilings"] = {
            "copy_bytes_per_s": known.bytes_per_s,
            "matrix_operations_per_s": known.operations_per_s,
            "float8_operations_per_s": known.float8_per_s,
        }
        eight = f", {known.float8_per_s / 1e12:.0f} in 8-bit floats" if known.float8_per_s else ""
        self.report.line(
            f"measured: copy {known.bytes_per_s / 1e9:.1f} GB/s (read and written), matrices "
            f"{known.operations_per_s / 1e12:.2f} TFLOP/s in {self.dtype}{eight}"
        )

    def build(self) -> None:
        """Draw the weights, the images and the prompts."""
        began = time.perf_counter()
        self.network = random_network(self.size, self.device, self.dtype)
        self.table = PixelTable(image_transform(self.size), self.device, self.dtype)
        draw = np.random.default_rng(0)
        side, last = SIZES[self.size].image_sizes[0], SIZES[self.size].action_ids.start
        self.prompts: list[Tensor] = list(
            torch.from_numpy(draw.integers(3, last, (self.count, 1, TEXT_TOKENS)))
        )
        self.images: list[Image] = list(draw.integers(0, 256, (self.count, side, side, 3), dtype=np.uint8))
        wait(self.device)
        count = sum(parameter.numel() for parameter in self.network.parameters())
        self.report.facts["parameters"] = count
        self.report.line(
            f"{count / 1e9:.3f} billion parameters, {weight_bytes(self.network) / 1e9:.2f} GB of "
            f"{self.dtype}, drawn in {time.perf_counter() - began:.1f} s"
        )

    def pixels(self, image: int) -> Tensor:
        """Return the pixels of one image, which is sent to the device as 8-bit levels."""
        return self.table(self.images[image])

    @property
    def prompt_tokens(self) -> int:
        """The number of embeddings of a prompt, including the image's."""
        return TEXT_TOKENS + SIZES[self.size].patches

    # Exact decoders

    def exact(self) -> None:
        """Time the decoders that give the plain decoder's tokens, in turn on each image."""
        plain = partial(self.plain, self.network)
        self.references = [plain(image) for image in range(self.count)]
        self.engine = make_engine(self.network)
        self.drafting = DraftingDecoder(self.network, engine=self.engine)
        runs: dict[str, Run] = {"transformers": self.transformers_loop, "plain": plain}
        runs |= self.engine_runs(self.drafting)
        self.report.facts["engine"] = self.engine.state
        self.report.line(f"engine: {self.engine.state}")
        self.report.title()
        self.time(runs, self.limits(self.engine), EXACT_SHARE)

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

    def limits(self, engine: Engine, float8: bool = False) -> dict[str, float]:
        """Return the least possible milliseconds of each way to decode."""
        packed = packed_bytes(engine.llama.maps)
        return action_limits(self.ceilings, self.network, self.prompt_tokens, COUNT, packed, float8)

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

    def beside_float32(self) -> None:
        """Count the tokens on which the exact decoders agree with the same weights in float32."""
        exact = copy.deepcopy(self.network).float()
        truth = [self.plain(exact, image) for image in range(self.count)]
        del exact
        steady = SteadyDecoder(self.network, engine=self.engine)
        found = dict.fromkeys(("plain", "steady", "fast"), 0)
        for image, wanted in enumerate(truth):
            pixels, prompt = self.pixels(image), self.prompts[image]
            given = {
                "plain": self.references[image],
                "steady": steady.decode(pixels, prompt, COUNT).token_ids.tolist(),
                "fast": self.drafting.decode(pixels, prompt, COUNT).token_ids.tolist(),
            }
            for name, tokens in given.items():
                found[name] += sum(a == b for a, b in zip(tokens, wanted, strict=True))
        of = COUNT * self.count
        self.report.facts["tokens_as_float32"] = {"of": of, **found}
        told = ", ".join(f"{name} {count}" for name, count in found.items())
        self.report.line(f"\ntokens as the plain decoder gives them in float32, of {of}: {told}")

    # Timing

    def time(
        self, runs: Mapping[str, Run], limits: Mapping[str, float], share: float, prefix: str = ""
    ) -> None:
        """Time ``runs`` in turn until the repeats are done or the time is up; add a row for each."""
        rows = {name: Row(limit_ms=limits.get(name)) for name in runs}
        until = min(self.until, time.monotonic() + share * self.seconds)
        for name, run in runs.items():
            rows[name].error = self.attempt(partial(self.warm_up, rows[name], run, until))
        for repeat in range(self.repeats):
            for name, run in runs.items():
                if rows[name].error is None:
                    rows[name].error = self.attempt(partial(self.once, rows[name], run, repeat % self.count))
            if time.monotonic() > until:
                break
        for name, row in rows.items():
            self.report.add(prefix + name, row)

    def warm_up(self, row: Row, run: Run, until: float) -> None:
        """Run without timing; record the memory in use."""
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        for repeat in range(self.warm_ups):
            run(repeat % self.count)
            if time.monotonic() > until:
                break
        if self.on_gpu:
            row.memory_gb = torch.cuda.max_memory_allocated(self.device) / 1e9

    def once(self, row: Row, run: Run, image: int) -> None:
        """Time one action, from the image's levels to its tokens."""
        wait(self.device)
        began = time.perf_counter()
        tokens = run(image)
        row.milliseconds.append(1e3 * (time.perf_counter() - began))
        row.tokens += len(tokens)
        row.same += sum(a == b for a, b in zip(tokens, self.references[image], strict=False))

    def stages(self) -> None:
        """Time each stage of a fast action separately."""
        draft, network = self.drafting.prompts.of(self.prompt_tokens, COUNT), self.network
        pixels, ids = self.pixels(0), self.prompts[0]
        prompt = language_work(network, self.prompt_tokens + COUNT - 1, COUNT)
        parts: dict[str, tuple[Callable[[], object], Work | None]] = {
            "image to pixels": (lambda: self.pixels(0), None),
            "vision": (lambda: self.engine.see(pixels), vision_work(network)),
            "vision, prompt joined": (lambda: self.engine.embed(pixels, ids), None),
            "prompt's pass": (draft.first, prompt),
            "short pass": (lambda: draft.again(0), language_work(network, COUNT - 1, COUNT - 1)),
            "result read": (lambda: self.engine.stages.read(draft.result), None),
        }
        self.report.line(f"\n{'stage, ms':22}{'median':>9}{'limit':>9}{'of it':>7}")
        found = {}
        for name, (work, least) in parts.items():
            with torch.inference_mode():
                taken = 1e3 * seconds_of(work, self.device, max(3, min(50, self.repeats)))
            limit = None if least is None else self.ceilings.milliseconds(least)
            told = "" if limit is None else f"{limit:9.3f}{limit / taken:7.0%}"
            self.report.line(f"{name:22}{taken:9.3f}{told}")
            found[name] = {"ms": round(taken, 4), "limit_ms": limit}
        self.report.facts["stages_ms"] = found

    # Not exact

    def packed(self, how: Packing) -> None:
        """Time weights with fewer bits beside the full ones."""
        engine = make_engine(self.network, how)
        runs = self.engine_runs(DraftingDecoder(self.network, engine=engine))
        size = packed_bytes(engine.llama.maps)
        self.report.line(
            f"\n{how}, not exact: {size / 1e9:.2f} GB beside the {self.dtype} weights; {engine.state}"
        )
        self.time(runs, self.limits(engine, float8=how == "fp8"), OTHER_SHARE, f"{how} ")

    def integers(self, how: Integers) -> None:
        """Time bitsandbytes' weights, which replace the full ones."""
        network = self.quantised(how)
        engine = make_engine(network, stages=EagerStages() if how == "int8" else None)
        runs = self.engine_runs(DraftingDecoder(network, engine=engine), wrong=(0,))
        self.report.line(f"\n{how}, not exact: {weight_bytes(network) / 1e9:.2f} GB in all; {engine.state}")
        self.time(runs, {}, OTHER_SHARE, f"{how} ")

    def quantised(self, how: Integers) -> OpenVLA:
        """Return the network with quantised weights; the rest of the weights is shared."""
        with torch.device("meta"):
            network = OpenVLA(SIZES[self.size])
        network.drop_dead_weights()
        integers = make_quantized_layers(network, how, self.dtype, self.device)
        for key, value in self.network.state_dict().items():
            if key in integers:
                assign_quantized(network, key, value.cpu(), how, self.device)
            else:
                module, _, name = key.rpartition(".")
                setattr(network.get_submodule(module), name, torch.nn.Parameter(value, requires_grad=False))
        network.restore_buffers(self.device)
        return network.eval()

    # Chunks

    def chunks(self) -> None:
        """Time an OpenVLA-OFT head: a chunk of 8 actions in one pass, from two images."""
        layout = OFTLayout(chunk=8, action_width=7, bounds="quantiles", images=2, proprio_width=8)
        with torch.device("meta"):
            model = OpenVLAOFT(self.network, layout)
        for part in (model.action_head, model.proprio_projector):
            part.to(self.dtype).to_empty(device=self.device)
            for parameter in part.parameters():
                torch.nn.init.normal_(parameter, std=0.02)
        engine = ChunkEngine(model.eval(), make_engine(self.network))
        runs = {
            "OFT, plain": partial(self.chunk, model.predict),
            "OFT, engine": partial(self.chunk, engine.predict),
        }
        tokens = TEXT_TOKENS + 2 * SIZES[self.size].patches + 1 + layout.slots + 1
        limit = self.ceilings.milliseconds(
            vision_work(self.network, 2), language_work(self.network, tokens, 0)
        )
        self.report.line("\nOpenVLA-OFT, 8 actions a chunk, 2 images; exact but for rounding")
        self.time(runs, dict.fromkeys(runs, limit), OTHER_SHARE)

    def chunk(self, compute: Callable[[Tensor, Tensor, Tensor], Tensor], image: int) -> Tokens:
        """Compute a chunk; it has no tokens."""
        pixels = torch.cat([self.pixels(image), self.pixels((image + 1) % self.count)])
        actions = compute(pixels, self.prompts[image], torch.zeros(1, 8)).float().cpu()
        if not bool(actions.isfinite().all()):
            raise ArithmeticError("the actions are not finite")
        return []


def version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def facts_of(size: str, device: torch.device) -> dict[str, Any]:
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else f"cpu, {torch.get_num_threads()} threads"
    packages = ("torch", "transformers", "triton", "bitsandbytes")
    return {
        "benchmark": "gpu",
        "size": size,
        "device": name,
        "capability": torch.cuda.get_device_capability(device) if on_gpu else None,
        "memory_gb": torch.cuda.get_device_properties(device).total_memory / 1e9 if on_gpu else None,
        "python": platform.python_version(),
        "versions": {package: version(package) for package in packages},
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=tuple(SIZES), default="7b")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=450.0, help="what it may take in all")
    parser.add_argument("--repeats", type=int, default=0, help="default 200 on a GPU, 5 on a CPU")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print(
            f"no GPU: torch {torch.__version__} finds no CUDA device here. "
            "--size small --device cpu runs the same code on this machine.",
            file=sys.stderr,
        )
        return NO_GPU
    device = torch.device(arguments.device)
    report = Report(facts_of(arguments.size, device))
    versions = (f"{name} {found}" for name, found in report.facts["versions"].items() if found)
    report.line(f"{report.facts['device']}; {', '.join(versions)}; Python {report.facts['python']}")

    def stop() -> None:
        """End a benchmark that hangs, and report what there is."""
        report.finish("stopped: it took longer than it may")
        os._exit(1)

    watch = threading.Timer(arguments.seconds + 20.0, stop)
    watch.daemon = True
    watch.start()
    Bench(arguments.size, device, arguments.seconds, arguments.repeats, report).run()
    watch.cancel()
    report.finish("complete")
    return 0 if all(name in report.rows and report.rows[name].measured for name in ("plain", "steady")) else 1


if __name__ == "__main__":
    sys.exit(main())
