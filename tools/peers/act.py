"""Scripts for OpenVLA's ``POST /act`` against ``openvla serve``, and our ``remote`` against its server.

The server is OpenVLA's ``deploy.py`` as published, with stand-ins for the modules that load the network: its
model asks ``openvla serve``. Both directions must carry out every scene as ``openvla evaluate`` does.
``clients/act_programs.py`` runs in an environment of its own.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

from openvla_ros.api import load_policy
from openvla_ros.errors import PolicyError
from openvla_ros.policy.protocol import Policy
from peers.environments import with_packages
from peers.openpi import observation
from peers.piped_simulation import ROBOT, SEEDS, driven, evaluated, rolled_out, running, same, served
from peers.rows import PeerError, Row

NAME, VERSION = "act", "2.1.1"  # of json-numpy
ADDRESS, COMMIT = "https://github.com/openvla/openvla", "c8f03f48af692657d3060c19588038c7220e9af9"
PYTHON = "python3.11"
PACKAGES = (f"json-numpy=={VERSION}", "requests", "fastapi", "uvicorn", "pillow")
PROGRAM = "act_programs.py"
STATUSES = {
    "wrong unnorm_key": (400, "this policy's is 'sim_widowx'"),
    "right unnorm_key": (200, "__numpy__"),
    "no instruction": (400, "'instruction' is missing"),
    "an OFT client's": (400, "unknown field 'wrist_image'"),
}


def check(build: Path, source: Path | None) -> list[Row]:
    """Return a row for each form of a request, and for our robot under OpenVLA's own server."""
    python = with_packages(build / NAME, PYTHON, PACKAGES)
    deploy = published_server(source or build / "openvla", build)
    right, seeds = evaluated(), ",".join(map(str, SEEDS))
    rows = []
    with served() as port:
        url = f"http://127.0.0.1:{port}/act"
        for form in ("plain", "double-encoded"):
            found = driven(python, PROGRAM, "drive", url, seeds, form).outcomes
            rows.append(Row(NAME, VERSION, f"a script, {form}: scenes", *same(found, right)))
        said = driven(python, PROGRAM, "manners", url).report
        for name, (status, part) in STATUSES.items():
            fits = said[name][0] == status and part in said[name][1]
            rows.append(Row(NAME, VERSION, f"a script: {name}", fits, f"{said[name]}"[:150]))
        with running(python, PROGRAM, "serve", str(deploy), url) as own:
            policy = load_policy(f"act+http://127.0.0.1:{own}/act", robot=ROBOT, timeout_s=30.0)
            outcome = same(rolled_out(policy), right)
            rows.append(Row("deploy.py", COMMIT[:8], "OpenVLA's server, our robot: scenes", *outcome))
            rows += [Row("deploy.py", COMMIT[:8], *row) for row in mistakes(policy)]
    return rows


def mistakes(policy: Policy) -> Iterator[tuple[str, bool, str]]:
    """Yield what our robot makes of the server's ``"error"``."""
    try:
        policy.infer(observation("fail"))
        yield "OpenVLA's server: error", False, "no error"
    except PolicyError as error:
        yield "OpenVLA's server: error", "answered 'error'" in str(error), str(error)[-150:]


def published_server(clone: Path, build: Path) -> Path:
    """Return ``deploy.py`` of the commit that is compared with, from a clone."""
    if not clone.exists():
        fetch = ["git", "clone", "--quiet", "--bare", "--filter=blob:none", ADDRESS, str(clone)]
        if subprocess.run(fetch, check=False).returncode:
            raise PeerError(f"{ADDRESS} could not be cloned; with a clone at hand: --source {NAME}=FOLDER")
    show = ["git", "-C", str(clone), "show", f"{COMMIT}:vla-scripts/deploy.py"]
    done = subprocess.run(show, check=False, capture_output=True)
    if done.returncode:
        raise PeerError(f"{clone} has no {COMMIT[:8]}: {done.stderr.decode()[-200:]}")
    path = build / "deploy.py"
    path.write_bytes(done.stdout)
    return path
