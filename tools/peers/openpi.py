"""openpi's client against ``openvla serve``, and our policy ``remote`` against openpi's server.

Both must carry out every scene as ``openvla evaluate`` does. Client and server live in an environment of
their own; ``clients/openpi_programs.py`` runs there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from openvla_ros.api import load_policy
from openvla_ros.errors import ModelOutputError, OpenVLARosError, PolicyError
from openvla_ros.policy.protocol import Policy, Reporting
from openvla_ros.serving.tokens import TokenHash
from openvla_ros.values.geometry import Pose
from openvla_ros.values.observation import Observation
from peers.environments import with_packages
from peers.piped_simulation import ROBOT, SEEDS, driven, evaluated, rolled_out, running, same, served
from peers.rows import Row

NAME, CLIENT, SERVER = "openpi", "0.1.2", "0.1.0"
PYTHON = "python3.11"
# The client imports typing_extensions and does not ask for it.
PACKAGES = (f"openpi-client=={CLIENT}", f"openpi-server=={SERVER}", "typing_extensions")
PROGRAM = "openpi_programs.py"
TOKEN = "a-token"


def check(build: Path, source: Path | None) -> list[Row]:
    """Return a row for each direction, and for what must be refused in each."""
    python = with_packages(source or build / NAME, PYTHON, PACKAGES)
    right = evaluated()
    rows = []
    with served() as port:
        found = driven(python, PROGRAM, "drive", str(port), ",".join(map(str, SEEDS))).outcomes
        rows.append(Row(NAME, CLIENT, "its client, our server: scenes", *same(found, right)))
    with tempfile.NamedTemporaryFile("w", suffix=".token") as file:
        file.write(TokenHash.of(TOKEN).to_text())
        file.flush()
        with served("--token-file", file.name) as port:
            said = driven(python, PROGRAM, "manners", str(port), TOKEN).report
    rows += [Row(NAME, CLIENT, *row) for row in manners(said)]
    with served() as ours, running(python, PROGRAM, "serve", str(ours)) as port:
        policy = load_policy(f"openpi://127.0.0.1:{port}", robot=ROBOT, timeout_s=30.0)
        rows.append(Row(NAME, SERVER, "its server, our robot: scenes", *same(rolled_out(policy), right)))
        rows += [Row(NAME, SERVER, *row) for row in mistakes(policy)]
        policy.close()
    return rows


def manners(said: dict) -> Iterator[tuple[str, bool, str]]:
    """Yield what the real client heard besides actions."""
    yield "its client: /healthz without a key", said["healthz"] == "OK\n", repr(said["healthz"])
    yield "its client: a wrong Api-Key", "401" in said["wrong key"], said["wrong key"][:60]
    metadata = said["metadata"]
    yield "its client: metadata first", "'rate_hz': 5.0" in metadata["action_space"], str(metadata)[:150]
    for name, part in (("wrong key in message", "unknown key 'image'"), ("no image", "has no image")):
        yield f"its client raises: {name}", part in said[name], said[name].replace("\n", " ")[-110:]
    yield "its client after these errors", said["after the errors"] == [1, 7], str(said["after the errors"])


def mistakes(policy: Policy) -> Iterator[tuple[str, bool, str]]:
    """Yield what our robot makes of a server that fails, and of one for another robot."""
    for words, kind, part in (
        ("fail", PolicyError, "the model is on fire"),
        ("wide", ModelOutputError, "(10, 8)"),
    ):
        try:
            policy.infer(observation(words))
            yield f"its server: {words}", False, "no error"
        except OpenVLARosError as error:
            yield f"its server: {words}", isinstance(error, kind) and part in str(error), str(error)[-150:]
    answered = policy.infer(observation("lift the red block")).actions.shape
    yield "its server after these errors", answered == (1, 7), str(answered)
    report = dict(policy.report()) if isinstance(policy, Reporting) else {}
    known = (
        "reset_pose" in report.get("policy_server_metadata", "") and "policy_server_action_space" in report
    )
    yield "what a recording says of its server", known, str(report)[:150]


def observation(words: str) -> Observation:
    """Return an observation with everything that the bridge map sends."""
    image = np.zeros((224, 224, 3), np.uint8)
    return Observation(1, {"primary": image}, words, np.zeros(6), Pose.identity(), 0.5)
