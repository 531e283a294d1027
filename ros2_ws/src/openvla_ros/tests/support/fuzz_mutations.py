"""Seeded damage to files, and what became of reading them: one child process a case, with a time limit."""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.fuzz_samples import Sample

from openvla_ros.errors import OpenVLARosError

TIMEOUT_S = 60.0
OUTCOMES = ("refused", "unchanged", "changed", "foreign", "crash", "hang")
_TEXT = (".json", ".yaml", ".jsonl")


def mutate(folder: Path, pattern: str, rng: random.Random) -> str:
    """Damage one file below ``folder``, or exchange two; return what was done."""
    files = sorted(p for p in folder.rglob(pattern) if p.is_file() and p.stat().st_size)
    victim = rng.choice(files)
    data = victim.read_bytes()
    alike = [p for p in files if p.suffix == victim.suffix and p.read_bytes() != data]
    kinds = ["flip", "flip", "flip", "zero", "cut", "delete", "duplicate", "overwrite", "insert"]
    kinds += ["swap"] if alike else []
    kinds += ["count", "count"] if victim.suffix in _TEXT else []
    kind = rng.choice(kinds)
    place = victim.relative_to(folder)
    if kind == "delete":
        victim.unlink()
    elif kind == "swap":
        other = rng.choice(alike)
        victim.write_bytes(other.read_bytes())
        other.write_bytes(data)
    else:
        victim.write_bytes(_changed(data, kind, rng))
    return f"{kind} {place}"


def _changed(data: bytes, kind: str, rng: random.Random) -> bytes:
    changed, at = bytearray(data), rng.randrange(len(data))
    length = min(rng.choice((4, 64, 512, 4096)), len(data) - at)
    if kind == "flip":
        for _ in range(rng.choice((1, 1, 4, 30))):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    elif kind == "zero":
        changed[at : at + length] = bytes(length)
    elif kind == "cut":
        del changed[at:]
    elif kind == "duplicate":
        changed[at:at] = data[at : at + length]
    elif kind == "overwrite":
        start = rng.randrange(max(1, len(data) - length))
        changed[at : at + length] = data[start : start + length]
    elif kind == "insert":
        changed[at:at] = rng.randbytes(rng.randrange(1, 40))
    elif kind == "count":
        return _other_number(data, rng)
    return bytes(changed)


def _other_number(data: bytes, rng: random.Random) -> bytes:
    numbers = list(re.finditer(rb"(?<![\w.])-?\d+(?![\w.])", data))
    if not numbers:
        return data[:-1]
    match = rng.choice(numbers)
    value = rng.choice(
        [b"true", b"-1", b"0", b"1e400", b"%d" % (int(match[0]) + 1), b"%d" % (10**12), b"null"]
    )
    return data[: match.start()] + value + data[match.end() :]


@dataclass
class Row:
    """What became of the mutations of one format."""

    name: str
    checksums: bool
    counts: Counter[str] = field(default_factory=Counter)
    worst: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """No foreign exception, no crash, no hang; and no changed value where there are checksums."""
        bad = sum(self.counts[name] for name in ("foreign", "crash", "hang"))
        return bad == 0 and (self.counts["changed"] == 0 or not self.checksums)


def fuzz(sample: Sample, times: int, seed: int, scratch: Path) -> Row:
    """Damage ``sample`` ``times`` over, each time a fresh copy, and read it in a child process."""
    row = Row(sample.name, sample.checksums)
    whole = _read_in_child(sample.read, sample.folder)
    if whole[0] != "read" or whole[2]:
        raise AssertionError(f"{sample.name} cannot be read whole: {whole}")
    for number in range(times):
        folder = scratch / sample.folder.name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(sample.folder, folder)
        rng = random.Random(f"{seed} {sample.name} {number}")
        done = mutate(folder, sample.damaged, rng)
        outcome, values, reported = _read_in_child(sample.read, folder)
        outcome = _judge(outcome, values, reported, whole[1])
        row.counts[outcome] += 1
        if outcome not in ("refused", "unchanged"):
            row.worst.append(f"{sample.name} #{number}: {done}: {outcome}: {str(values)[:300]}")
    shutil.rmtree(scratch / sample.folder.name, ignore_errors=True)
    return row


def _judge(outcome: str, values: Any, reported: bool, whole: Any) -> str:
    if outcome != "read":
        return outcome
    remaining = list(whole)
    for value in values:
        if value not in remaining:
            return "changed"
        remaining.remove(value)
    if values == whole:
        return "refused" if reported else "unchanged"
    return "refused" if reported else "changed"  # fewer episodes, or in another order


def _read_in_child(read: Callable[[Path], Any], folder: Path) -> tuple[str, Any, bool]:
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(read, folder, sender), daemon=True)
    child.start()
    sender.close()
    try:
        if not receiver.poll(TIMEOUT_S):
            child.kill()
            return "hang", None, False
        return receiver.recv()
    except EOFError:
        child.join()
        return "crash", f"exit code {child.exitcode}", False
    finally:
        child.join(5.0)
        receiver.close()


def _child(read: Callable[[Path], Any], folder: Path, sender: Any) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    try:
        values, reported = read(folder)
        result = ("read", values, reported)
    except OpenVLARosError as error:
        result = ("refused", str(error), True)
    except BaseException as error:  # noqa: BLE001  that is what is looked for
        result = ("foreign", f"{type(error).__name__}: {error}", True)
    sender.send(result)
