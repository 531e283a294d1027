"""Checkers of datasets and recordings, run on what this package writes: every finding is expected, and why.

Four recordings are converted to LeRobot with videos and with images, and to bags. A finding that is not
listed below fails the comparison, and so does a listed one that is not found any more.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openvla_ros.data.datasets.conversion import ConversionRequest, convert
from openvla_ros.data.datasets.open_dataset import SourceRequest
from peers.environments import TIMEOUT_S, with_packages
from peers.rows import PeerError, Row

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "ros2_ws/src/openvla_ros/tests"))

from support.fake_recording import steady_run  # noqa: E402

NAME = "checkers"
PYTHON = "python3.11"
VERSIONS = {
    "lerobot-doctor": "0.2.0",
    "lerobot-lint": "0.1.1",
    "kalanos": "0.8.2",
    "deepen-grade": "0.4.1",
    "baglint": "0.2.1",
}
# lerobot-lint asks for LeRobot without saying which; this is the last one for PYTHON.
PACKAGES = ("lerobot==0.4.4", *(f"{name}=={version}" for name, version in VERSIONS.items()))
EPISODES, SECONDS = 4, 8.0

_DELTAS = "takes actions for targets of the state's columns; these are deltas"
_MADE = "the generated episodes are alike, short and few"
_STATE = "compares metres with radians"
_IMAGES = "reads an image column, a struct, as numbers; the same with LeRobot's own image datasets"
_STREAMS = "compares when streams begin; the generated camera starts later than the joints"
_TOGGLE = "counts each closing and opening of the gripper; the generated episodes do so twice a second"
# Checker and dataset → finding → why it is no fault of what was written.
EXPECTED: dict[tuple[str, str], dict[str, str]] = {
    ("lerobot-doctor", "videos"): {"Episode Health": _MADE},
    ("lerobot-doctor", "images"): {"Episode Health": _MADE},
    ("lerobot-lint", "videos"): {
        "ACTION_RANGE_MISMATCH": _DELTAS,
        "ACTION_STATE_DIVERGENCE": _DELTAS,
        "DEAD_JOINT": _STATE,
        "LOW_DIVERSITY": _MADE,
        "TOO_FEW_EPISODES": _MADE,
        "UNITS_INFERRED": "no finding: LeRobot has no place for units",
    },
    ("kalanos", "images"): {"not analysed": _IMAGES},
    ("deepen-grade", "videos"): {
        "cross.trajectory_consistency": _MADE,
        "episode_quality.gripper_chatter": _TOGGLE,
    },
    ("deepen-grade", "recording"): {
        "cross.condition_coverage": _MADE,
        "hygiene.cross_modal_sync": _STREAMS,
    },
    ("deepen-grade", "bag"): {"cross.condition_coverage": _MADE},
}
EXPECTED["lerobot-lint", "images"] = EXPECTED["lerobot-lint", "videos"]
EXPECTED["deepen-grade", "images"] = EXPECTED["deepen-grade", "videos"]
# What a recording of the generated robot holds, for baglint.
TOPICS = {
    "recording": {"/joint_states": 100.0, "/camera/primary/image_raw": 10.0, "/policy/action_chunk": 5.0},
    "bag": {"/joint_states": 5.0, "/camera/primary/image_raw": 5.0, "/policy/action_chunk": 5.0},
}


@dataclass(frozen=True)
class Checker:
    """A program, the kinds of data it is given, and how to run it and read its findings."""

    name: str
    data: tuple[str, ...]
    findings: Callable[[Path, str, Path], Mapping[str, int]]  # bin folder, kind, data → finding: how often


def check(build: Path, source: Path | None) -> list[Row]:
    """Return a row for each checker and kind of data, with what it found."""
    programs = with_packages(source or build / NAME, PYTHON, PACKAGES).parent
    data = written(build / f"{NAME}-data")
    return [
        row(checker, kind, checker.findings(programs, kind, data[kind]))
        for checker in CHECKERS
        for kind in checker.data
    ]


def row(checker: Checker, kind: str, found: Mapping[str, int]) -> Row:
    """Compare ``found`` with what is expected."""
    expected = EXPECTED.get((checker.name, kind), {})
    new, gone = sorted(set(found) - set(expected)), sorted(set(expected) - set(found))
    said = [f"{name} ({found[name]}): {why}" for name, why in expected.items() if name in found]
    said += [f"NEW: {name} ({found[name]})" for name in new] + [
        f"not found any more: {name}" for name in gone
    ]
    detail = "; ".join(said) or "no finding"
    return Row(checker.name, VERSIONS[checker.name], kind, not new and not gone, detail)


def written(work: Path) -> dict[str, Path]:
    """Return recordings and their exports, by kind."""
    shutil.rmtree(work, ignore_errors=True)
    for number in range(EPISODES):
        steady_run(SECONDS, seed=number).write(work / "recordings" / f"episode_{number:06d}")
    recordings = SourceRequest(work / "recordings")
    convert(ConversionRequest(recordings, work / "videos", "lerobot", storage="av1"))
    convert(ConversionRequest(recordings, work / "images", "lerobot", storage="image"))
    convert(ConversionRequest(recordings, work / "bags", "bag"))
    return {
        "videos": work / "videos",
        "images": work / "images",
        "recording": next((work / "recordings" / "episode_000000").glob("*.mcap")),
        "bag": next((work / "bags" / "episode_000000").glob("*.mcap")),
    }


def printed(*command: Any) -> Any:
    """Return the JSON that ``command`` prints; what it exits with says only how good the data is."""
    surroundings = {**os.environ, "PYTHONPATH": "", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [str(part) for part in command],
        check=False,
        capture_output=True,
        text=True,
        env=surroundings,
        timeout=TIMEOUT_S,
    )
    try:
        return json.loads(done.stdout)
    except ValueError as error:
        raise PeerError(f"{command[0]} printed no JSON: {done.stderr.strip()[-300:]}") from error


def counted(names: list[str]) -> dict[str, int]:
    """Return how often each of ``names`` occurs."""
    return {name: names.count(name) for name in sorted(set(names))}


def doctor(programs: Path, _: str, data: Path) -> Mapping[str, int]:
    """Return the checks of lerobot-doctor that did not pass."""
    report = printed(programs / "lerobot-doctor", "check", data, "--json")
    return counted([one["name"] for one in report["checks"] if one["severity"] != "PASS"])


def lint(programs: Path, _: str, data: Path) -> Mapping[str, int]:
    """Return the findings of lerobot-lint, of every severity."""
    report = data.with_name(f"{data.name}_lint.json")
    command = [str(programs / "lelint"), "check", str(data), "--json", str(report)]
    surroundings = {**os.environ, "PYTHONPATH": "", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=surroundings, timeout=TIMEOUT_S
    )
    if not report.is_file():
        raise PeerError(f"lelint wrote no report: {done.stdout.strip()[-300:]}")
    findings = json.loads(report.read_text(encoding="utf-8"))["findings"]
    return counted([one["check"] for one in findings])


def kalanos(programs: Path, _: str, data: Path) -> Mapping[str, int]:
    """Return the findings of kalanos, and what it could not read."""
    report = printed(programs / "kalanos", "grade", data, "--json")
    names = [one["metric_id"] for one in report["findings"]]
    unread = [*report["skipped"], *report["unresolved"]]
    return counted(names + ["not analysed"] * len(unread))


def deepen(programs: Path, _: str, data: Path) -> Mapping[str, int]:
    """Return the checks of deepen-grade that warn or fail, defects and risks alike."""
    report = printed(programs / "deepen", "grade", "--quiet", "--json", data)
    checks = [one for episode in report["episodes"] for one in episode["checks"]]
    checks += report["dataset_level_checks"]
    return counted([one["check_id"] for one in checks if one["severity"] in ("warn", "fail")])


def baglint(programs: Path, kind: str, data: Path) -> Mapping[str, int]:
    """Return the findings of baglint for the rates of the generated robot, and for the order of stamps."""
    topics = {
        name: {"min_rate": 0.9 * rate, "max_gap_ms": 3000.0 / rate, "check_stamps": True}
        for name, rate in TOPICS[kind].items()
    }
    spec = data.with_suffix(".json")  # JSON is YAML
    spec.write_text(json.dumps({"topics": {**topics, "/instruction": {}}}), encoding="utf-8")
    report = printed(programs / "baglint", data, "--spec", spec, "--format", "json")
    return counted([f"{one.get('topic')}: {one.get('message')}" for one in report["findings"]])


LEROBOT, BAGS = ("videos", "images"), ("recording", "bag")
CHECKERS = (
    Checker("lerobot-doctor", LEROBOT, doctor),
    Checker("lerobot-lint", LEROBOT, lint),
    Checker("kalanos", (*LEROBOT, *BAGS), kalanos),
    Checker("deepen-grade", (*LEROBOT, *BAGS), deepen),
    Checker("baglint", BAGS, baglint),
)
