"""NVIDIA's leapp on what ``openvla export-model --to leapp`` writes.

leapp's own runner drives the simulated robot, which must carry out every scene as ``openvla evaluate`` does,
in as many steps. leapp takes a missing input as zeros: the action must be NaN then. leapp and what it needs
are installed in an environment of their own on top of this one; Isaac ROS Deploy needs NVIDIA's hardware.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image as PILImage

from openvla_ros.exporting.bundle_check import cases
from openvla_ros.exporting.policy_source import ExportChoices, load_policy_source
from peers.environments import on_top_of
from peers.piped_simulation import CHECKPOINT, driven, evaluated, same
from peers.rows import Row

NAME, VERSION = "leapp", "0.7.2"
PACKAGES = (f"leapp=={VERSION}",)
PROGRAM = "leapp_programs.py"
KEY = "bridge_orig"
ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "ros2_ws/src/openvla_ros/tests/data/openvla_reference"
ROUNDING = 1e-6  # the graph's actions are float32
MISSING = {"all": False, "no token_ids": True, "no prompt_length": True, "nothing": True}


def check(build: Path, source: Path | None) -> list[Row]:
    """Return a row for each thing compared; ``source`` is an environment with leapp to use instead."""
    python = on_top_of(Path(sys.executable), source or build / NAME, PACKAGES)
    work = build / f"{NAME}-bundles"
    shutil.rmtree(work, ignore_errors=True)
    bundle, right = work / CHECKPOINT, evaluated()
    report = driven(python, PROGRAM, "export", CHECKPOINT, str(bundle)).report
    detail = (
        f"{report['same_tokens']} of {report['tokens']} tokens, {sum(report['files'].values()) / 1e6:.1f} MB"
    )
    rows = [Row(NAME, VERSION, f"{CHECKPOINT}: exported", report["same_tokens"] == report["tokens"], detail)]
    run = driven(python, PROGRAM, "drive", str(bundle), ",".join(map(str, right)))
    passed, said = same(run.outcomes, right)
    rows.append(Row(NAME, VERSION, f"{CHECKPOINT}: scenes", passed and not run.report, said))
    rows.append(compared(python, work, CHECKPOINT, bundle, None))
    driven(python, PROGRAM, "export", str(GOLDEN / "checkpoint"), str(work / "golden"), KEY)
    rows.append(compared(python, work, str(GOLDEN / "checkpoint"), work / "golden", KEY))
    nan = driven(python, PROGRAM, "manners", str(bundle)).report["nan"]
    rows.append(Row(NAME, VERSION, "missing inputs: NaN", nan == MISSING, f"{nan}"))
    return rows


def compared(python: Path, work: Path, checkpoint: str, bundle: Path, key: str | None) -> Row:
    """Return whether leapp's runner gives this package's tokens and actions on made images."""
    predictor = load_policy_source(ExportChoices(checkpoint, unnorm_key=key)).predictor
    asked, wanted = [], []
    for index, (image, words) in enumerate(cases((), every_pair=True)):
        path = work / f"{index}.png"
        PILImage.fromarray(image).save(path)
        asked.append([str(path), words])
        wanted.append(predictor.predict([image], words))
    (work / "cases.json").write_text(json.dumps(asked))
    found = driven(python, PROGRAM, "compare", str(bundle), str(work / "cases.json")).report
    pairs = list(zip(found, wanted, strict=True))
    same_tokens = sum(ids == right.token_ids[0].tolist() for (ids, _), right in pairs)
    error = max(float(np.abs(values - right.actions[0]).max()) for (_, values), right in pairs)
    passed = same_tokens == len(pairs) and error <= ROUNDING
    detail = (
        f"{same_tokens} of {len(pairs)} images and words with the same tokens, actions differ by {error:.0e}"
    )
    return Row(NAME, VERSION, f"{Path(bundle).name}: tokens and actions", passed, detail)
