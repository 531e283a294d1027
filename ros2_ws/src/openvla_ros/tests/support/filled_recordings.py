"""Recordings filled with numbered messages, and what is read back from them."""

import time
from pathlib import Path

from support.recorder_process import NAMES, SIZES, payload
from support.waiting import wait_until

from openvla_ros.data.bags.mcap_reader import McapFile


def messages(folder: Path, topic: str) -> list[tuple[int, bytes]]:
    (path,) = folder.glob("*.mcap")
    with McapFile(path) as file:
        channel = file.channel(topic).id
        found = [file.message(channel, i) for i in range(len(file.times_ns(channel)))]
        values = [(m.log_ns, bytes(m.data)) for m in found]
        del found
    return values


def fill(recording, seconds: float, start: int = 0) -> int:
    number, end = start, time.monotonic() + seconds
    while time.monotonic() < end:
        for name, size in zip(NAMES, SIZES, strict=True):
            recording.write(name, payload(number, size), time.time_ns())
        number += 1
        time.sleep(0.005)
    return number


def fill_until(recording, condition, seconds: float, count: int = 0, pause_s: float = 0.0) -> int:
    """Fill for ``seconds`` again and again until the condition holds; return the next number."""

    def more() -> None:
        nonlocal count
        count = fill(recording, seconds, count)
        time.sleep(pause_s)

    wait_until(condition, 20.0, more)
    return count
