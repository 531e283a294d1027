"""Converts a dataset: a pure function of one group of episodes, and a merge.

``convert_group`` depends on its arguments alone and leaves a finished folder or none, so groups run in
any order, in processes here or on other machines with Ray, and an interrupted conversion resumes where
it stopped. An episode that cannot be read, differs from the rest or has a broken image is skipped, with
the reason in the report.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from openvla_ros.data.datasets.export import ExportOptions, Target, merge, open_part
from openvla_ros.data.datasets.open_dataset import Actions, SourceRequest
from openvla_ros.data.episodes.encoded_images import KeptFrames
from openvla_ros.data.episodes.episode_source import EpisodeSource
from openvla_ros.data.episodes.layout import Layout
from openvla_ros.data.episodes.observation_state import observation_state
from openvla_ros.data.lerobot.lerobot_writer import Storage, check_storage
from openvla_ros.errors import DatasetError, InvalidValueError, MissingDependencyError
from openvla_ros.integrity.checksums import SUMS, write_sums
from openvla_ros.integrity.damage import reading
from openvla_ros.integrity.disk import writing
from openvla_ros.preprocessing.dataset_statistics import write_statistics
from openvla_ros.preprocessing.statistics_accumulator import DatasetAccumulator
from openvla_ros.values.episode import Episode

Backend = Literal["processes", "ray"]

PARTS, REPORT, STATISTICS = ".parts", "conversion_report.json", "dataset_statistics.json"
_MOST_DECODED_BYTES = 256 << 20  # of one episode, kept from the check to the writing
_PLAN, _RESULT, _NUMBERS = "plan.json", "result.json", "numbers.npz"


@dataclass(frozen=True)
class ConversionRequest:
    """A conversion: the source, the target format and its options."""

    source: SourceRequest
    destination: Path
    target: Target
    actions: Actions = "commanded"
    storage: Storage = "av1"
    group_size: int = 16  # episodes of one task; of one shard or video file in the end
    next_obs: bool = True  # of HDF5: each next observation beside the current one

    def open(self) -> EpisodeSource:
        """Return the source with the kind of actions that was asked for."""
        return replace(self.source, actions=self.actions).open()


@dataclass(frozen=True)
class Job:
    """Everything that a worker needs; small enough to send anywhere."""

    request: ConversionRequest
    options: ExportOptions

    @property
    def parts(self) -> Path:
        """The folder of the parts that are finished or in progress."""
        return self.request.destination / PARTS

    def part(self, group: range) -> Path:
        """The folder of the part that holds ``group`` once it is finished."""
        return self.parts / f"{group.start:08d}"


@dataclass(frozen=True)
class Skipped:
    """An episode that was skipped, and why."""

    index: int  # in the source
    reason: str


@dataclass(frozen=True)
class GroupResult:
    """The result of converting one group."""

    episodes: tuple[str, ...]  # ids
    steps: int
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True)
class ConversionReport:
    """The result of the whole conversion."""

    source: str
    destination: str
    target: str
    episodes: int
    steps: int
    skipped: tuple[Skipped, ...] = field(default=())


def convert_group(job: Job, group: range) -> GroupResult:
    """Convert episodes ``group`` of the source into one part; returns at once if it is there.

    The part is renamed into place when it is complete. Only disk errors make this fail: ``DatasetError``.
    """
    part = job.part(group)
    if (part / _RESULT).is_file():
        return _read_result(part)
    with writing(job.request.destination):
        return _write_part(job, group, part)


def _write_part(job: Job, group: range, part: Path) -> GroupResult:
    working = part.with_name(f"{part.name}.{os.getpid()}")
    shutil.rmtree(working, ignore_errors=True)
    working.mkdir(parents=True)
    source = job.request.open()
    done: list[Episode] = []
    skipped: list[Skipped] = []
    with open_part(working, job.options) as writer:
        for index in group:
            try:
                episode = _decoded_once(source[index])
                with reading(f"{source.path}: episode {index}"):
                    job.options.layout.check(episode)
            except (DatasetError, InvalidValueError) as error:
                skipped.append(Skipped(index, str(error)))
                continue
            writer.add(episode)
            done.append(replace(episode, images={}))
    _write_numbers(working, done)
    result = GroupResult(tuple(e.id for e in done), sum(map(len, done)), tuple(skipped))
    (working / _RESULT).write_text(json.dumps(asdict(result)), encoding="utf-8")
    working.rename(part)
    return result


def _decoded_once(episode: Episode) -> Episode:
    """Return the episode with images that are decoded once: they are checked before they are written."""
    share = _MOST_DECODED_BYTES // max(1, len(episode.images))
    return replace(episode, images={n: KeptFrames(images, share) for n, images in episode.images.items()})


def _read_result(part: Path) -> GroupResult:
    values = json.loads((part / _RESULT).read_text(encoding="utf-8"))
    skipped = tuple(Skipped(**entry) for entry in values["skipped"])
    return GroupResult(tuple(values["episodes"]), values["steps"], skipped)


def _write_numbers(part: Path, episodes: Sequence[Episode]) -> None:
    """Keep the actions and states of a part, for the statistics computed by the merge."""
    if not episodes:
        return
    arrays: dict[str, Any] = {
        "lengths": np.array([len(episode) for episode in episodes], np.int64),
        "actions": np.concatenate([episode.actions for episode in episodes]),
    }
    states = [observation_state(episode) for episode in episodes]
    if states[0] is not None:  # one layout: all have a state or none has
        arrays["states"] = np.concatenate([state for state in states if state is not None])
    np.savez(part / _NUMBERS, **arrays)


def convert(
    request: ConversionRequest,
    *,
    workers: int = 1,
    backend: Backend = "processes",
    progress: Callable[[int, int], None] | None = None,
) -> ConversionReport:
    """Convert the whole source; returns what was converted and what was skipped.

    ``progress`` is called with the number of episodes done and their total. Called again after an
    interruption, it converts the missing groups. Raises ``DatasetError`` if the destination contains
    something else, no episode can be converted or the disk is full.
    """
    with writing(request.destination):
        return _convert(request, workers, backend, progress)


def _convert(
    request: ConversionRequest,
    workers: int,
    backend: Backend,
    progress: Callable[[int, int], None] | None,
) -> ConversionReport:
    source = request.open()
    total = len(source)
    job = _plan(request)
    groups = [
        range(start, min(start + request.group_size, total)) for start in range(0, total, request.group_size)
    ]
    results: dict[int, GroupResult] = {}
    done = 0
    for group, result in _run(job, groups, workers, backend):
        results[group.start] = result
        done += len(group)
        if progress is not None:
            progress(done, total)
    return _finish(job, groups, [results[group.start] for group in groups])


def _plan(request: ConversionRequest) -> Job:
    """Return the job, and claim the destination for it."""
    destination, plan = request.destination, request.destination / PARTS / _PLAN
    described = {**asdict(request), "source": str(request.source), "destination": str(destination)}
    text = json.dumps(described, indent=2, default=str)
    if plan.is_file():
        if plan.read_text(encoding="utf-8") != text:
            raise DatasetError(
                f"{destination} contains an unfinished conversion with other options ({plan}); finish it "
                "with those, or remove the folder"
            )
    elif destination.exists() and any(path.name != PARTS for path in destination.iterdir()):
        raise DatasetError(f"{destination} is not empty; choose a new folder")
    job = Job(request, _options(request))
    plan.parent.mkdir(parents=True, exist_ok=True)
    unfinished = plan.with_name(f"{plan.name}.part")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(plan)
    return job


def _options(request: ConversionRequest) -> ExportOptions:
    """Take the layout from the first episode that can be read."""
    source = request.open()
    reasons: list[str] = []
    for index in range(len(source)):
        try:
            episode = source[index]
            with reading(f"{source.path}: episode {index}"):
                layout = Layout.of(episode)
        except (DatasetError, InvalidValueError) as error:
            reasons.append(str(error))
            continue
        if request.target == "lerobot":
            check_storage(layout, request.storage)
        robot = episode.provenance.get("robot", "")
        return ExportOptions(
            request.target, request.destination.name, layout, request.storage, robot, request.next_obs
        )
    first = f"; the first: {reasons[0]}" if reasons else ""
    raise DatasetError(f"{request.source.path}: none of {len(source)} episodes can be read{first}")


def _run(
    job: Job, groups: Sequence[range], workers: int, backend: Backend
) -> Iterator[tuple[range, GroupResult]]:
    if backend == "ray":
        yield from _run_on_ray(job, groups)
    elif workers <= 1:
        yield from ((group, convert_group(job, group)) for group in groups)
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            futures = {pool.submit(convert_group, job, group): group for group in groups}
            for future in as_completed(futures):
                yield futures[future], future.result()


def _run_on_ray(job: Job, groups: Sequence[range]) -> Iterator[tuple[range, GroupResult]]:
    """Run the same function on a Ray cluster; the destination must be a folder that all machines share."""
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError("conversion with Ray needs the package ray: pip install ray") from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    remote = ray.remote(convert_group)
    waiting = {remote.remote(job, group): group for group in groups}
    while waiting:
        (ready,), _ = ray.wait(list(waiting), num_returns=1)
        yield waiting.pop(ready), ray.get(ready)


def _finish(job: Job, groups: Sequence[range], results: Sequence[GroupResult]) -> ConversionReport:
    destination = job.request.destination
    report = ConversionReport(
        source=str(job.request.source.path),
        destination=str(destination),
        target=job.request.target,
        episodes=sum(len(result.episodes) for result in results),
        steps=sum(result.steps for result in results),
        skipped=tuple(entry for result in results for entry in result.skipped),
    )
    parts = [job.part(group) for group, result in zip(groups, results, strict=True) if result.episodes]
    if not parts:
        raise DatasetError(
            f"{report.source}: no episode could be converted; the first: {report.skipped[0].reason}"
        )
    _write_statistics(parts, job)
    merge(parts, destination, job.options)
    write_sums(destination, _written(destination))
    text = json.dumps(asdict(report), indent=2, ensure_ascii=False)
    (destination / REPORT).write_text(text, encoding="utf-8")
    shutil.rmtree(job.parts)
    return report


def _written(destination: Path) -> Iterator[Path]:
    """Yield the files of the new dataset, without those of the conversion itself."""
    for path in destination.rglob("*"):
        if (
            path.is_file()
            and PARTS not in path.relative_to(destination).parts
            and path.name not in (REPORT, SUMS)
        ):
            yield path


def _write_statistics(parts: Sequence[Path], job: Job) -> None:
    accumulator: DatasetAccumulator | None = None
    for part in parts:
        with np.load(part / _NUMBERS) as numbers:
            actions, states = numbers["actions"], numbers.get("states")
            ends = np.cumsum(numbers["lengths"])[:-1]
        if accumulator is None:
            accumulator = DatasetAccumulator(actions.shape[1], None if states is None else states.shape[1])
        pieces = [None] * (len(ends) + 1) if states is None else np.split(states, ends)
        for episode, state in zip(np.split(actions, ends), pieces, strict=True):
            accumulator.add_episode(episode, state)
    if accumulator is not None:
        mask = np.array([not name.startswith("gripper") for name in job.options.layout.action_names])
        statistics = {job.options.dataset: accumulator.statistics(mask)}
        write_statistics(job.request.destination / STATISTICS, statistics)
