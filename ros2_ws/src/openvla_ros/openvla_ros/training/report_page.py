"""The report page of a run: settings, data, loss curves, and open-loop trajectories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from openvla_ros.report import Page
from openvla_ros.training.metrics import TRAINING, VALIDATION
from openvla_ros.training.validation import OpenLoop
from openvla_ros.values.arrays import Float

REPORT = "report.html"
_SHOWN = ("loss", "accuracy", "l1")
_TITLES = {
    "loss": "loss, nats per token",
    "accuracy": "action tokens predicted exactly",
    "l1": "distance from the true action",
}


def write_report(
    folder: Path,
    facts: Mapping[str, str],
    settings: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    episodes: Sequence[OpenLoop],
    names: Sequence[str],
    skipped: Sequence[str],
) -> Path:
    """Write the page into ``folder`` and return the file."""
    page = Page("Fine-tuning", folder.name)
    page.facts(facts)
    page.heading("Curves")
    page.figure(curves(records), "Training (thin: each step, thick: smoothed) and held-out episodes")
    last = next((r for r in reversed(records) if r["kind"] == VALIDATION), None)
    if last is not None:
        page.table(
            ["dimension", "distance, normalised units"],
            [[name, value] for name, value in zip(names, last["distance"], strict=True)],
            f"Held-out episodes after step {last['step']}",
        )
    page.heading("Open loop")
    page.paragraph("The commanded actions, and the model's predictions for the same images and instructions.")
    for episode in episodes:
        page.figure(trajectory(episode, names), f"{episode.id}: {episode.instruction}")
    page.heading("Settings")
    page.table(["setting", "value"], [[name, str(value)] for name, value in settings.items()])
    if skipped:
        page.heading("Skipped episodes")
        page.preformatted("\n".join(skipped))
    return page.write(folder / REPORT)


def curves(records: Sequence[Mapping[str, Any]]) -> Figure:
    """Return loss, accuracy and distance over the steps."""
    figure = Figure(figsize=(12, 3.2))
    axes = figure.subplots(1, len(_SHOWN))
    for axis, name in zip(axes, _SHOWN, strict=True):
        for kind, style in ((TRAINING, {"linewidth": 0.6, "alpha": 0.5}), (VALIDATION, {"marker": "o"})):
            points = [(r["step"], r[name]) for r in records if r["kind"] == kind and r[name] is not None]
            if not points:
                continue
            steps, values = np.array(points).T
            axis.plot(steps, values, label=kind, **style)
            if kind == TRAINING and len(values) > 20:
                axis.plot(steps, _smoothed(values), color=axis.lines[-1].get_color())
        axis.set(title=_TITLES[name], xlabel="step")
        axis.grid(alpha=0.3)
        axis.legend()
    figure.tight_layout()
    return figure


def trajectory(episode: OpenLoop, names: Sequence[str]) -> Figure:
    """Return one plot per dimension: commanded and predicted over the steps."""
    columns = 4
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(12, 2.2 * rows))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    for index, name in enumerate(names):
        axes[index].plot(episode.commanded[:, index], label="commanded")
        axes[index].plot(episode.predicted[:, index], "--", label="predicted")
        axes[index].set_title(name)
        axes[index].grid(alpha=0.3)
    axes[0].legend()
    figure.tight_layout()
    return figure


def _smoothed(values: Float) -> Float:
    width = max(2, len(values) // 50)
    sums = np.cumsum(np.insert(values, 0, 0.0))
    first = np.maximum(np.arange(1, len(values) + 1) - width, 0)
    means: Float = (sums[1:] - sums[first]) / (np.arange(1, len(values) + 1) - first)
    return means
