"""Damage every file format that the package reads, and check that no wrong value passes as a right one.

Each format is damaged ``--times`` times in a seeded way (bits, blocks, truncation, whole files, swapped
files, counts) and read on every path that a user has, each time in a separate process. Expected: refused
with one of our errors, or read unchanged. Where a format has no checksum, as in files from elsewhere, a
flipped bit can pass as a value; such cases have a column of their own.

    python tools/fuzz_data.py [--times 60] [--seed 1] [--only NAME] [--show]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).parents[1] / "ros2_ws" / "src" / "openvla_ros" / "tests"
sys.path.insert(0, str(TESTS))

from support.fuzz_mutations import OUTCOMES, Row, fuzz  # noqa: E402
from support.fuzz_samples import make_samples  # noqa: E402


def main() -> None:
    """Print a row for each format as it finishes, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=60, help="mutations of each format")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="formats whose name contains this")
    parser.add_argument("--show", action="store_true", help="print every case that fails")
    options = parser.parse_args()
    print(f"{'format':26}" + "".join(f"{name:>10}" for name in OUTCOMES))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root, scratch = Path(folder, "whole"), Path(folder, "damaged")
        for sample in make_samples(root):
            if options.only in sample.name:
                rows.append(fuzz(sample, options.times, options.seed, scratch))
                print_row(rows[-1], options.show)
    passed = all(row.passed for row in rows)
    table = {row.name: {"checksums": row.checksums, **{n: row.counts[n] for n in OUTCOMES}} for row in rows}
    print(json.dumps({"pass": passed, "times": options.times, "seed": options.seed, "formats": table}))
    sys.exit(not passed)


def print_row(row: Row, show: bool) -> None:
    """Print one line of the table."""
    note = "" if row.checksums else "  no checksum in this format"
    print(f"{row.name:26}" + "".join(f"{row.counts[name]:>10}" for name in OUTCOMES) + note, flush=True)
    for line in row.worst if show else ():
        print(f"    {line}", flush=True)


if __name__ == "__main__":
    main()
