"""ONNX Runtime on what ``openvla export-model --to onnx`` writes, where neither torch nor openvla_ros is.

The program in the bundle drives the simulated robot, which must carry out every scene as ``openvla evaluate``
does, in as many steps; and it must give the original implementation's tokens and actions on the golden cases.
Integer weights are not exact: how far they are off is printed. ``clients/onnx_programs.py`` runs in
environments of their own: the newest ONNX Runtime, and one of the age of JetPack 6.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image as PILImage

from openvla_ros.exporting.bundle_formats import export_bundle
from openvla_ros.exporting.onnx_bundle import ExportReport
from openvla_ros.exporting.policy_source import ExportChoices, load_policy_source
from openvla_ros.exporting.quantized_graphs import PRECISIONS
from openvla_ros.profile import load_profile
from openvla_ros.sim.rollout import observe
from openvla_ros.sim.tasks import find_task
from openvla_ros.sim.world import SimulatedRobot
from openvla_ros.values.arrays import Image
from peers.environments import called, with_packages
from peers.piped_simulation import CHECKPOINT, ROBOT, TASK, driven, evaluated, same
from peers.rows import Row

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "ros2_ws/src/openvla_ros/tests"))

from support.golden_checkpoints import Case, cases  # noqa: E402

NAME, VERSION, OLD = "onnx", "1.32.0", "1.16.3"
INTERPRETERS = {
    VERSION: ("python3.12", ("numpy", "pillow", "tokenizers")),
    OLD: ("python3.10", ("numpy<2", "pillow", "tokenizers")),
}
PROGRAM = "onnx_programs.py"
IMAGES = 12  # of the simulation, to measure integer weights on
EXACT = 1e-12  # what float64 arithmetic on other processors may differ by


def check(build: Path, source: Path | None) -> list[Row]:
    """Return a row for each precision and golden checkpoint; ``source`` is an environment to use instead."""
    work = build / f"{NAME}-bundles"
    shutil.rmtree(work, ignore_errors=True)
    reports = {name: exported(work / name, name) for name in PRECISIONS}
    right, rows = evaluated(), []
    for version, (interpreter, packages) in INTERPRETERS.items():
        python = (source or build / f"{NAME}-{version}") / "venv" / "bin" / "python"
        if source is None:
            wanted = (f"onnxruntime=={version}", *packages)
            python = with_packages(build / f"{NAME}-{version}", interpreter, wanted)
        seeds = ",".join(map(str, right))
        run = driven(python, PROGRAM, "drive", str(work / "fp32"), seeds)
        rows.append(Row(NAME, version, "nothing of torch or ours there", not run.report, f"{run.report}"))
        rows.append(Row(NAME, version, "small_base, fp32: scenes", *same(run.outcomes, right)))
        rows += golden(python, version, work)
        if version == VERSION:
            rows.append(alone(python, work))
            for name in PRECISIONS[1:]:
                found = driven(python, PROGRAM, "drive", str(work / name), seeds).outcomes
                rows.append(measured(name, reports[name], sum(o.success for o in found.values()), len(found)))
    return rows


def exported(out: Path, weights: str) -> ExportReport:
    """Export the small base; integer weights are measured on images of the simulation too."""
    seen = scenes() if weights != "fp32" else []
    return export_bundle(ExportChoices(CHECKPOINT), out, to="onnx", weights=weights, images=seen)


def scenes() -> list[Image]:
    """Return what the robot's camera sees of different scenes."""
    profile = load_profile(ROBOT)
    found = []
    with SimulatedRobot(profile, find_task(TASK)) as robot:
        for seed in range(IMAGES):
            robot.reset(seed)
            found.append(observe(robot, robot.instruction).images[profile.cameras[0].name])
    return found


def measured(name: str, report: ExportReport, successes: int, scenes_: int) -> Row:
    """Return a row with what integer weights change; it passes if it was measured at all."""
    found = report.agreement
    size = sum(report.files.values()) / 1e6
    worst = ", ".join(f"{value:.2g}" for value in found.action_difference)
    detail = (
        f"not exact: {found.same_tokens} of {found.tokens} tokens, largest difference of an action "
        f"[{worst}], {successes} of {scenes_} scenes, {size:.1f} MB"
    )
    return Row(NAME, VERSION, f"small_base, {name}", found.tokens > 0, detail)


def alone(python: Path, work: Path) -> Row:
    """Return whether the bundle's own command line prints the action of one image."""
    image = scenes()[0]
    PILImage.fromarray(image).save(work / "scene.png")
    bundle = work / "fp32" / "run_policy.py"
    said = json.loads(
        called([str(python), str(bundle), str(work / "scene.png"), "lift it", "--json"], "run_policy")
    )
    wanted = load_policy_source(ExportChoices(CHECKPOINT)).predictor.predict([image], "lift it")
    fits = said["token_ids"] == wanted.token_ids[0].tolist() and said["actions"] == wanted.actions[0].tolist()
    return Row(NAME, VERSION, "run_policy.py IMAGE WORDS", fits, f"{said['actions']}"[:90])


def golden(python: Path, version: str, work: Path) -> list[Row]:
    """Return a row for each golden case: tokens and actions of every dataset."""
    return [golden_case(python, version, work, case) for case in cases()]


def golden_case(python: Path, version: str, work: Path, case: Case) -> Row:
    """Return whether the program in the bundle gives the tokens and actions of one golden case."""
    name = f"{case.folder.name}-{case.index:02d}"
    folder, numbers = work / name, case.numbers()
    if not folder.exists():
        choices = ExportChoices(str(case.checkpoint), center_crop=case.center_crop, prompt_style=case.style)
        export_bundle(choices, folder, to="onnx")
    keys = json.loads((folder / "openvla_bundle.json").read_text())["statistics"]
    asked = [[str(case.folder / "images" / case.image), case.instruction, key] for key in keys]
    (work / f"{name}.json").write_text(json.dumps(asked))
    found = driven(python, PROGRAM, "compare", str(folder), str(work / f"{name}.json")).report
    pairs = list(zip(keys, found, strict=True))
    tokens = all(ids == numbers[f"action_token_ids::{key}"].tolist() for key, (ids, _) in pairs)
    error = max(np.abs(numbers[f"actions::{key}"] - values).max() for key, (_, values) in pairs)
    detail = (
        f"{len(keys)} datasets, tokens {'the same' if tokens else 'DIFFER'}, actions differ by {error:.0e}"
    )
    return Row(NAME, version, f"golden case {name}", tokens and error <= EXACT, detail)
