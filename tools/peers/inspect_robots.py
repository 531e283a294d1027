"""inspect-robots' evaluation of the small base behind ``openvla serve``, with its WidowX policies and robot.

Its robot is our simulation, its policies ask our server over both of their protocols; its scores must be
those of ``openvla evaluate``. It lives in an environment of its own; ``clients/inspect_robots_programs.py``
runs there.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from peers.environments import with_packages
from peers.piped_simulation import SEEDS, driven, evaluated, same, served
from peers.rows import Row

NAME, VERSION = "inspect-robots", "0.60.0"
PYTHON = "python3.11"
EXTRA = "typing_extensions"  # openpi-client imports it and does not ask for it
PACKAGES = (f"{NAME}=={VERSION}", "inspect-robots-widowx==0.1.0", "openpi-client==0.1.2", EXTRA)
PROGRAM = "inspect_robots_programs.py"


def check(build: Path, source: Path | None) -> list[Row]:
    """Return a row for each of its policies, and for its preflight."""
    python = with_packages(source or build / NAME, PYTHON, PACKAGES)
    logs = build / f"{NAME}-logs"
    shutil.rmtree(logs, ignore_errors=True)
    right, seeds = evaluated(), ",".join(map(str, SEEDS))
    rows = []
    said = driven(python, PROGRAM, "compatible").report
    rows.append(Row(NAME, VERSION, "its preflight", said["ok"], "; ".join(said["errors"]) or "compatible"))
    with served() as port:
        for kind, protocol in (("openvla", "POST /act"), ("openpi", "websocket")):
            run = driven(python, PROGRAM, "evaluate", kind, str(port), seeds, str(logs / kind))
            rows.append(Row(NAME, VERSION, f"{protocol}: scenes", *same(run.outcomes, right)))
            scores = {int(seed): bool(score) for seed, score in run.report["scored"].items()}
            agree = scores == {seed: outcome.success for seed, outcome in right.items()}
            good = f"{run.report['status']}, {sum(scores.values())} of {len(scores)} by its own scorer"
            rows.append(Row(NAME, VERSION, f"{protocol}: its own scores", agree, good))
    return rows
