"""RLDS to LeRobot for ``bench_data``: this package beside LeRobot's own API, and what differs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from openvla_ros.data.datasets.conversion import ConversionRequest, convert
from openvla_ros.data.datasets.open_dataset import SourceRequest
from openvla_ros.data.episodes.observation_state import observation_state
from openvla_ros.data.lerobot.column_statistics import QUANTILES
from openvla_ros.data.lerobot.lerobot_writer import Storage
from openvla_ros.values.arrays import Float
from openvla_ros.values.episode import Episode

WAYS: dict[Storage, tuple[str, ...]] = {"image": ("image",), "av1": ("video", "streamed")}
MOMENTS = ("min", "max", "mean", "std")
# As a share of a column's range: LeRobot adds up in float32. Its quantiles of a dataset are a mean of those
# of its episodes, which stand in histograms; ours are compared with numpy's, and theirs are printed.
MOMENT_ERROR, QUANTILE_ERROR = 1e-5, 1e-6
WORSE_DB = 0.3  # how far below LeRobot's videos ours may be

Run = Callable[..., dict[str, Any]]


def against_lerobot(rlds: Path, root: Path, run: Run) -> dict[str, Any]:
    """Convert ``rlds`` both ways; print a table.

    Returns:
        ``ratios`` of LeRobot's processor time to ours by storage, ``same``, and the differences found.
    """
    source = SourceRequest(rlds).open()
    episodes = [source[index] for index in range(len(source))]
    pixels = np.stack([np.stack(list(episode.images["primary"])) for episode in episodes])
    frames = root / "frames.npz"
    np.savez(
        frames,
        images=pixels,
        actions=np.stack([episode.actions for episode in episodes]).astype(np.float32),
        states=np.stack([_state(episode) for episode in episodes]),
        tasks=np.array([episode.instruction for episode in episodes]),
        rate_hz=round(episodes[0].rate_hz),
    )
    found: dict[str, Any] = {"ratios": {}}
    print(f"{'RLDS to LeRobot':<20}{'who':<28}{'seconds':>9}{'CPU s':>9}")
    for storage, ways in WAYS.items():
        mine, wall_s, cpu_s = _ours(rlds, root / f"by_us_{storage}", storage)
        print(f"{storage:<20}{'ours, from the files':<28}{wall_s:>9.2f}{cpu_s:>9.2f}")
        written = {way: run("write", frames, root / f"by_lerobot_{way}", way) for way in ways}
        for way, took in written.items():
            print(f"{storage:<20}{f'LeRobot, {way}':<28}{took['wall_s']:>9.2f}{took['cpu_s']:>9.2f}")
        best = min(ways, key=lambda way: written[way]["cpu_s"])
        found["ratios"][storage] = round(written[best]["cpu_s"] / cpu_s, 1)
        theirs = root / f"by_lerobot_{best}"
        found[f"{storage} errors"] = _differences(mine, theirs, episodes)
        found[f"{storage} dB"] = [_decibels(folder, episodes, pixels) for folder in (mine, theirs)]
    exact = all(value == float("inf") for value in found["image dB"])
    ours_db, theirs_db = found["av1 dB"]
    errors = [found[f"{storage} errors"] for storage in WAYS]
    found["image dB"] = "the same pixels" if exact else found["image dB"]
    found["same"] = bool(
        exact
        and ours_db >= theirs_db - WORSE_DB
        and all(e["moments"] <= MOMENT_ERROR and e["quantiles"] <= QUANTILE_ERROR for e in errors)
    )
    return found


def _ours(rlds: Path, folder: Path, storage: Storage) -> tuple[Path, float, float]:
    began, used = time.perf_counter(), sum(os.times()[:4])
    convert(ConversionRequest(SourceRequest(rlds), folder, "lerobot", storage=storage))
    return folder, time.perf_counter() - began, sum(os.times()[:4]) - used


def _state(episode: Episode) -> Float:
    state = observation_state(episode)
    assert state is not None
    return state


def _differences(mine: Path, theirs: Path, episodes: list[Episode]) -> dict[str, float]:
    """Return the largest differences of the statistics, as shares of the columns' ranges."""
    ours, other = (json.loads((folder / "meta" / "stats.json").read_text()) for folder in (mine, theirs))
    values = {
        "action": np.concatenate([episode.actions for episode in episodes]),
        "observation.state": np.concatenate([_state(episode) for episode in episodes]),
    }
    exact = {
        column: {name: np.quantile(rows, share, axis=0) for name, share in QUANTILES.items()}
        for column, rows in values.items()
    }

    ranges = {column: np.ptp(rows, axis=0).clip(1e-6) for column, rows in values.items()}

    def worst(one: dict[str, Any], two: dict[str, Any], names: Iterable[str]) -> float:
        names = list(names)
        return max(
            float(np.max(np.abs(np.subtract(one[c][name], two[c][name])) / ranges[c]))
            for c in values for name in names
        )  # fmt: skip

    return {
        "moments": worst(ours, other, MOMENTS),
        "quantiles": worst(ours, exact, QUANTILES),
        "LeRobot's quantiles": worst(other, exact, QUANTILES),
    }


def _decibels(folder: Path, episodes: list[Episode], pixels: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio of a dataset's images; infinite where every pixel is the same."""
    source = SourceRequest(folder, space=episodes[0].space).open()
    squares = [
        np.square(image.astype(np.float64) - pixels[number][step]).mean()
        for number in range(len(source))
        for step, image in enumerate(source[number].images["primary"])
    ]
    error = float(np.mean(squares))
    return round(10 * float(np.log10(255**2 / error)), 2) if error else float("inf")
