"""A dataset's contents, one line per episode: a table for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openvla_ros.data.bags.recording_folder import RECORDING
from openvla_ros.data.episodes.composed_deltas import INCOMPLETE
from openvla_ros.data.episodes.episode_source import EpisodeSource
from openvla_ros.data.episodes.followed_commands import followed_warnings
from openvla_ros.data.episodes.frame_instructions import LEFT_OUT
from openvla_ros.data.hdf.robosuite_demonstration import LATE
from openvla_ros.data.hdf.robosuite_demonstration import LEFT_OUT as LEFT_OUT_OF_FILE
from openvla_ros.data.lerobot.lerobot_reader import EDITED
from openvla_ros.errors import DatasetError, InvalidValueError
from openvla_ros.values.episode import Episode
from openvla_ros.values.time import seconds


@dataclass(frozen=True)
class EpisodeSummary:
    """Summary of one episode; ``problem`` says why it cannot be read, if so."""

    index: int
    id: str = ""
    steps: int = 0
    duration_s: float = 0.0
    instruction: str = ""
    outcome: str = "unknown"
    rate_hz: float = 0.0
    cameras: tuple[str, ...] = ()
    interventions: int = 0  # steps
    warnings: tuple[str, ...] = ()
    problem: str | None = None


def summarise(source: EpisodeSource) -> Iterator[EpisodeSummary]:
    """Yield a summary of every episode, damaged ones included."""
    for index in range(len(source)):
        try:
            yield summary(index, source[index])
        except (DatasetError, InvalidValueError) as error:
            yield EpisodeSummary(index, problem=str(error))


def summary(index: int, episode: Episode) -> EpisodeSummary:
    """Return the summary of ``episode``, which is number ``index`` of its dataset."""
    return EpisodeSummary(
        index=index,
        id=episode.id,
        steps=len(episode),
        duration_s=episode.duration_s,
        instruction=episode.instruction,
        outcome=episode.outcome,
        rate_hz=episode.rate_hz,
        cameras=tuple(episode.images),
        interventions=int(episode.intervention.sum()),
        warnings=(*recorded_warnings(episode), *numeric_warnings(episode)),
    )


def unfinished(path: Path) -> list[str]:
    """Return the episodes in a folder of recordings that are being recorded, or were when a recorder died."""
    return sorted(folder.name for folder in path.glob(f"*{RECORDING}") if folder.is_dir())


def recorded_warnings(episode: Episode) -> Iterator[str]:
    """Yield the warnings from while ``episode`` was recorded and from reading it."""
    origin = episode.provenance
    yield from json.loads(origin.get("quality_warnings", "[]"))
    if origin.get("recovered") == "true":
        yield "recovered: the recorder was killed before the end"
    if "steps_left_out" in origin:
        yield f"steps skipped: {origin['steps_left_out']}"
    if LEFT_OUT in origin:
        yield f"steps skipped (another instruction, or none): {origin[LEFT_OUT]}"
    if INCOMPLETE in origin:
        yield f"steps skipped (too few to compose one at the new rate): {origin[INCOMPLETE]}"
    if LEFT_OUT_OF_FILE in origin:
        yield f"left out: {origin[LEFT_OUT_OF_FILE]}"
    if LATE in origin:
        yield "observations were stored after their action; each is paired with the next action"
    yield from followed_warnings(episode)
    if EDITED in origin:
        yield f"edited by another tool after the export: {origin[EDITED]}"


def numeric_warnings(episode: Episode) -> Iterator[str]:
    """Yield warnings about an episode's numbers; no image is decoded."""
    if not episode.instruction.strip():
        yield "no instruction"
    steps_s = seconds(np.diff(episode.stamps_ns))
    if len(steps_s) and steps_s.max() > 2.0 / episode.rate_hz:
        yield f"a gap of {steps_s.max():.2f} s between steps at {episode.rate_hz:g} Hz"
    outside = (episode.actions < episode.space.lower - 1e-6) | (episode.actions > episode.space.upper + 1e-6)
    if outside.any():
        beyond = np.flatnonzero(outside.any(axis=0))
        names = [episode.space.names[int(i)] for i in beyond]
        yield f"{int(outside.any(axis=1).sum())} actions beyond the bounds of {', '.join(names)}"
    idle = np.all(np.abs(episode.commanded_changes()) < 1e-6, axis=1)
    if idle.any():
        yield f"{int(idle.sum())} of {len(episode)} steps command no motion"
