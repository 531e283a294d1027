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
from collections.abc import Callable
from functools import partial
from importlib import metadata
from typing import Any

import torch
from action_decoders import COUNT, TEXT_TOKENS, ActionDecoders
from action_report import Report, Row
from action_timer import ActionTimer, Run, Tokens
from random_model import SIZES
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

IMAGES = 8  # two on a CPU: finding the guesses would take longer than the timing
# The share of the total time that one group of compared modes may take.
EXACT_SHARE, OTHER_SHARE = 0.35, 0.08
NO_GPU = 2  # exit code


class Bench:
    """The sections of the benchmark, on one network and one device."""

    ceilings: Ceilings
    decoders: ActionDecoders
    engine: Engine
    drafting: DraftingDecoder

    def __init__(self, size: str, device: torch.device, timer: ActionTimer, report: Report) -> None:
        self.size, self.device, self.timer, self.report = size, device, timer, report
        self.on_gpu = device.type == "cuda"
        self.dtype = torch.bfloat16 if self.on_gpu else torch.float32

    @property
    def network(self) -> OpenVLA:
        """The network with full weights."""
        return self.decoders.network

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
            error = "no time was left" if self.timer.is_over else self.timer.attempt(section)
            if error is not None:
                self.report.add(name, Row(error=error))
            if error is not None and name in ("ceilings", "network"):
                return
            if self.on_gpu:
                torch.cuda.empty_cache()

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
        self.decoders = ActionDecoders(self.size, self.device, self.dtype, IMAGES if self.on_gpu else 2)
        wait(self.device)
        count = sum(parameter.numel() for parameter in self.network.parameters())
        self.report.facts["parameters"] = count
        self.report.line(
            f"{count / 1e9:.3f} billion parameters, {weight_bytes(self.network) / 1e9:.2f} GB of "
            f"{self.dtype}, drawn in {time.perf_counter() - began:.1f} s"
        )

    # Exact decoders

    def exact(self) -> None:
        """Time the decoders that give the plain decoder's tokens, in turn on each image."""
        decoders = self.decoders
        plain = partial(decoders.plain, self.network)
        decoders.references = [plain(image) for image in range(decoders.count)]
        self.engine = make_engine(self.network)
        self.drafting = DraftingDecoder(self.network, engine=self.engine)
        runs: dict[str, Run] = {"transformers": decoders.transformers_loop, "plain": plain}
        runs |= decoders.engine_runs(self.drafting)
        self.report.facts["engine"] = self.engine.state
        self.report.line(f"engine: {self.engine.state}")
        self.report.title()
        self.timer.time(runs, decoders.references, self.limits(self.engine), EXACT_SHARE)

    def limits(self, engine: Engine, float8: bool = False) -> dict[str, float]:
        """Return the least possible milliseconds of each way to decode."""
        packed = packed_bytes(engine.llama.maps)
        tokens = self.decoders.prompt_tokens
        return action_limits(self.ceilings, self.network, tokens, COUNT, packed, float8)

    def beside_float32(self) -> None:
        """Count the tokens on which the exact decoders agree with the same weights in float32."""
        decoders = self.decoders
        exact = copy.deepcopy(self.network).float()
        truth = [decoders.plain(exact, image) for image in range(decoders.count)]
        del exact
        steady = SteadyDecoder(self.network, engine=self.engine)
        found = dict.fromkeys(("plain", "steady", "fast"), 0)
        for image, wanted in enumerate(truth):
            pixels, prompt = decoders.pixels(image), decoders.prompts[image]
            given = {
                "plain": decoders.references[image],
                "steady": steady.decode(pixels, prompt, COUNT).token_ids.tolist(),
                "fast": self.drafting.decode(pixels, prompt, COUNT).token_ids.tolist(),
            }
            for name, tokens in given.items():
                found[name] += sum(a == b for a, b in zip(tokens, wanted, strict=True))
        of = COUNT * decoders.count
        self.report.facts["tokens_as_float32"] = {"of": of, **found}
        told = ", ".join(f"{name} {count}" for name, count in found.items())
        self.report.line(f"\ntokens as the plain decoder gives them in float32, of {of}: {told}")

    def stages(self) -> None:
        """Time each stage of a fast action separately."""
        decoders, network = self.decoders, self.network
        draft = self.drafting.prompts.of(decoders.prompt_tokens, COUNT)
        pixels, ids = decoders.pixels(0), decoders.prompts[0]
        prompt = language_work(network, decoders.prompt_tokens + COUNT - 1, COUNT)
        parts: dict[str, tuple[Callable[[], object], Work | None]] = {
            "image to pixels": (lambda: decoders.pixels(0), None),
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
                taken = 1e3 * seconds_of(work, self.device, max(3, min(50, self.timer.repeats)))
            limit = None if least is None else self.ceilings.milliseconds(least)
            told = "" if limit is None else f"{limit:9.3f}{limit / taken:7.0%}"
            self.report.line(f"{name:22}{taken:9.3f}{told}")
            found[name] = {"ms": round(taken, 4), "limit_ms": limit}
        self.report.facts["stages_ms"] = found

    # Not exact

    def packed(self, how: Packing) -> None:
        """Time weights with fewer bits beside the full ones."""
        engine = make_engine(self.network, how)
        runs = self.decoders.engine_runs(DraftingDecoder(self.network, engine=engine))
        size = packed_bytes(engine.llama.maps)
        self.report.line(
            f"\n{how}, not exact: {size / 1e9:.2f} GB beside the {self.dtype} weights; {engine.state}"
        )
        limits = self.limits(engine, float8=how == "fp8")
        self.timer.time(runs, self.decoders.references, limits, OTHER_SHARE, f"{how} ")

    def integers(self, how: Integers) -> None:
        """Time bitsandbytes' weights, which replace the full ones."""
        network = self.quantised(how)
        engine = make_engine(network, stages=EagerStages() if how == "int8" else None)
        runs = self.decoders.engine_runs(DraftingDecoder(network, engine=engine), wrong=(0,))
        self.report.line(f"\n{how}, not exact: {weight_bytes(network) / 1e9:.2f} GB in all; {engine.state}")
        self.timer.time(runs, self.decoders.references, {}, OTHER_SHARE, f"{how} ")

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
        self.timer.time(runs, self.decoders.references, dict.fromkeys(runs, limit), OTHER_SHARE)

    def chunk(self, compute: Callable[[Tensor, Tensor, Tensor], Tensor], image: int) -> Tokens:
        """Compute a chunk; it has no tokens."""
        decoders = self.decoders
        pixels = torch.cat([decoders.pixels(image), decoders.pixels((image + 1) % decoders.count)])
        chunk = compute(pixels, decoders.prompts[image], torch.zeros(1, 8)).float().cpu()
        if not bool(chunk.isfinite().all()):
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
    timer = ActionTimer(device, arguments.seconds, arguments.repeats, report)
    Bench(arguments.size, device, timer, report).run()
    watch.cancel()
    report.finish("complete")
    return 0 if all(name in report.rows and report.rows[name].measured for name in ("plain", "steady")) else 1


if __name__ == "__main__":
    sys.exit(main())
