"""Times ways to compute an action, in turn on the same images."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from action_report import Report, Row
from rooflines import wait

WARM_UPS = 20

Tokens = list[int]
Run = Callable[[int], Tokens]  # the image's number → the action's tokens


class ActionTimer:
    """Times until the repeats are done or the time is up, and adds a row to the report for each way."""

    def __init__(self, device: torch.device, seconds: float, repeats: int, report: Report) -> None:
        self.device, self.report = device, report
        self.on_gpu = device.type == "cuda"
        self.repeats = repeats or (200 if self.on_gpu else 5)
        self.warm_ups = WARM_UPS if self.on_gpu else 1
        self.seconds, self.until = seconds, time.monotonic() + seconds

    @property
    def is_over(self) -> bool:
        """Whether no time is left."""
        return time.monotonic() > self.until

    def attempt(self, work: Callable[[], None]) -> str | None:
        """Run ``work``; return the error text, if any."""
        try:
            work()
        except Exception as error:  # noqa: BLE001  however one fails, the others continue
            first = (str(error).strip().splitlines() or [""])[0]
            return f"{type(error).__name__}: {first[:200]}"
        return None

    def time(
        self,
        runs: Mapping[str, Run],
        references: Sequence[Tokens],
        limits: Mapping[str, float],
        share: float,
        prefix: str = "",
    ) -> None:
        """Time ``runs`` in turn for at most ``share`` of the time; ``references`` are each image's tokens."""
        rows = {name: Row(limit_ms=limits.get(name)) for name in runs}
        until = min(self.until, time.monotonic() + share * self.seconds)
        for name, run in runs.items():
            rows[name].error = self.attempt(partial(self.warm_up, rows[name], run, len(references), until))
        for repeat in range(self.repeats):
            for name, run in runs.items():
                if rows[name].error is None:
                    image = repeat % len(references)
                    once = partial(self.once, rows[name], run, image, references[image])
                    rows[name].error = self.attempt(once)
            if time.monotonic() > until:
                break
        for name, row in rows.items():
            self.report.add(prefix + name, row)

    def warm_up(self, row: Row, run: Run, images: int, until: float) -> None:
        """Run without timing; record the memory in use."""
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        for repeat in range(self.warm_ups):
            run(repeat % images)
            if time.monotonic() > until:
                break
        if self.on_gpu:
            row.memory_gb = torch.cuda.max_memory_allocated(self.device) / 1e9

    def once(self, row: Row, run: Run, image: int, reference: Tokens) -> None:
        """Time one action, from the image's levels to its tokens."""
        wait(self.device)
        began = time.perf_counter()
        tokens = run(image)
        row.milliseconds.append(1e3 * (time.perf_counter() - began))
        row.tokens += len(tokens)
        row.same += sum(a == b for a, b in zip(tokens, reference, strict=False))
