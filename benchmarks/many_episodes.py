"""Datasets of many short episodes for ``bench_data``, and what opening one costs in a fresh process.

python many_episodes.py FOLDER
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from openvla_ros.data.datasets.export import ExportOptions, Target, merge, open_part
from openvla_ros.data.datasets.open_dataset import SourceRequest
from openvla_ros.data.episodes.layout import Layout
from openvla_ros.values.episode import Episode

GROUP = 500  # episodes of one file
TASKS = 50


def write_many(folder: Path, target: Target, pattern: Episode, count: int) -> Path:
    """Write ``count`` episodes like ``pattern``, each with its own name, of ``TASKS`` instructions."""
    options = ExportOptions(target, folder.name, Layout.of(pattern), "image", "widowx")
    parts = []
    for start in range(0, count, GROUP):
        part = folder / ".parts" / f"{start:08d}"
        part.mkdir(parents=True)
        with open_part(part, options) as writer:
            for index in range(start, min(start + GROUP, count)):
                words = f"put object {index % TASKS} on the plate"
                writer.add(replace(pattern, id=f"episode_{index:06d}", instruction=words))
        parts.append(part)
    merge(parts, folder, options)
    shutil.rmtree(folder / ".parts")
    return folder


def opening(folder: Path) -> dict[str, float]:
    """Return seconds and megabytes for opening a dataset, and seconds for its last episode."""
    done = subprocess.run([sys.executable, __file__, str(folder)], capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def most_kilobytes() -> int:
    """Return the most memory that this process has used; ``ru_maxrss`` would begin with its parent's."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1])


def main() -> None:
    before = most_kilobytes()
    began = time.perf_counter()
    source = SourceRequest(Path(sys.argv[1])).open()
    opened = time.perf_counter()
    used = most_kilobytes() - before
    _ = source[len(source) - 1]
    read = time.perf_counter()
    print(
        json.dumps(
            {
                "episodes": len(source),
                "open_s": round(opened - began, 3),
                "megabytes": round(used / 1024, 1),
                "last_episode_s": round(read - opened, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
