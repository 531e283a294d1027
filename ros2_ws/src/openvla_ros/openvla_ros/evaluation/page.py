"""Report page of evaluations side by side: rates with intervals, trials, videos."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from openvla_ros.evaluation.trials import Evaluation
from openvla_ros.evaluation.wilson import SuccessRate
from openvla_ros.report import Page


def add_facts(page: Page, evaluation: Evaluation) -> None:
    """Add the head of a page about one evaluation: its success rate, and the steps of its successes."""
    rate = evaluation.rate
    low, high = rate.interval()
    facts = {
        "successes": f"{rate.successes} of {rate.trials} trials",
        "success rate": f"{rate.rate:.0%} (95% Wilson interval {low:.0%} to {high:.0%})",
    }
    steps = [trial.steps for trial in evaluation.trials if trial.success]
    if steps:
        median, p95 = np.percentile(steps, (50, 95))
        facts["until success"] = f"{median:.0f} steps (median), {p95:.0f} steps (p95)"
    page.facts(facts)


def add_rates(page: Page, rates: Mapping[str, SuccessRate], caption: str) -> None:
    """Add a table and a bar chart of success rates."""
    rows = []
    for name, rate in rates.items():
        low, high = rate.interval()
        rows.append([name, rate.successes, rate.trials, f"{rate.rate:.0%}", f"{low:.0%} to {high:.0%}"])
    page.table(["what", "successes", "trials", "rate", "95% Wilson interval"], rows, caption)
    page.figure(rate_figure(rates), caption)


def rate_figure(rates: Mapping[str, SuccessRate]) -> Figure:
    """Return bars with their intervals."""
    figure = Figure(figsize=(8, 0.6 + 0.5 * len(rates)))
    axis = figure.subplots()
    for row, rate in enumerate(rates.values()):
        low, high = rate.interval()
        error = [[max(0.0, rate.rate - low)], [max(0.0, high - rate.rate)]]
        axis.barh(row, rate.rate, xerr=error, capsize=4, height=0.6)
    axis.set(yticks=range(len(rates)), yticklabels=list(rates), xlim=(0, 1), xlabel="success rate")
    axis.invert_yaxis()
    return figure


def add_videos(page: Page, evaluations: Mapping[str, tuple[Evaluation, Path]], beside: Path) -> None:
    """Add the videos of the filmed trials: those of one scene side by side, a row for each scene.

    ``evaluations`` is name → the evaluation and its folder of videos; ``beside`` is the page's folder. For
    a single evaluation, all videos are in one row.
    """
    scenes: dict[tuple[str, int], list[tuple[str, Path]]] = {}
    for name, (evaluation, folder) in evaluations.items():
        for trial in evaluation.trials:
            path = folder / f"{trial.task}_{trial.seed}.mp4"
            if path.is_file():
                verdict = f"{'done' if trial.success else 'failed'}: {trial.instruction}"
                caption = f"{name}: {verdict}" if name else verdict
                scenes.setdefault((trial.task, trial.seed), []).append((caption, path))
    rows = list(scenes.values())
    if len(evaluations) == 1:
        rows = [[video for row in rows for video in row]]
    for row in filter(None, rows):
        page.videos(row, beside=beside)
