"""The training run's cache of demonstrations: images at the model's size in one mapped file, and a table.

Built once from bags, RLDS, LeRobot or HDF5 through ``Episode``, with the image transform that also
runs live, then reopened when the run is resumed. Episodes held out for validation are chosen by
their identity, so the same ones are held out when others are added.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla_ros.data.episodes.episode_source import EpisodeSource
from openvla_ros.errors import ChecksumError, DatasetError, InvalidValueError
from openvla_ros.integrity.checksums import say_unverified, verify_all, write_sums
from openvla_ros.integrity.damage import reading
from openvla_ros.preprocessing.dataset_statistics import DatasetStatistics, mask_of
from openvla_ros.preprocessing.image_transform import ImageTransform
from openvla_ros.preprocessing.statistics_accumulator import DatasetAccumulator
from openvla_ros.training.data.selection import Selection
from openvla_ros.values.action import ActionSpace
from openvla_ros.values.arrays import Bool, Float, Image, Int
from openvla_ros.values.episode import Episode

_LOG = logging.getLogger(__name__)
IMAGES, TABLE = "frames.u8", "frames.npz"
Report = Callable[[int, int], None]  # episodes read, episodes in all


@dataclass(frozen=True, eq=False)
class Span:
    """One episode's rows in the table."""

    id: str
    source: int  # which dataset
    start: int
    stop: int
    held_out: bool


@dataclass(frozen=True, eq=False)
class FrameStore:
    """N steps of all datasets, in order of their episodes."""

    images: NDArray[np.uint8]  # (N, H, W, 3) RGB, mapped from disk
    actions: Float  # (N, D) commanded, in the space's units
    intervention: Bool  # (N,) a person corrected a policy here
    words: Int  # (N,) index into ``instructions``
    instructions: tuple[str, ...]
    spans: tuple[Span, ...]
    space: ActionSpace
    camera: str
    robot: str
    skipped: tuple[str, ...]  # one line per skipped episode

    def __len__(self) -> int:
        return len(self.actions)

    def rows(self, *, held_out: bool) -> Int:
        """Return the steps held out for validation, or the others."""
        parts = [np.arange(span.start, span.stop) for span in self.spans if span.held_out == held_out]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def statistics(self) -> DatasetStatistics:
        """Return the action statistics of the training steps."""
        accumulator = DatasetAccumulator(self.space.width)
        for span in self.spans:
            if not span.held_out:
                accumulator.add_episode(self.actions[span.start : span.stop])
        return accumulator.statistics(mask_of(self.space))

    def sources(self) -> Int:
        """Return the dataset (N,) that each step came from."""
        out = np.zeros(len(self), np.int64)
        for span in self.spans:
            out[span.start : span.stop] = span.source
        return out

    def instruction(self, row: int) -> str:
        """Return the instruction of one step."""
        return self.instructions[int(self.words[row])]


def steps_to_learn(episode: Episode, selection: Selection) -> Int:
    """Return the indices of the steps to learn from; empty if none."""
    keep = np.ones(len(episode), np.bool_)
    if episode.intervention.any():
        keep &= episode.intervention | selection.keep_policy_steps
    elif episode.outcome == "failure" and not selection.keep_failures:
        keep[:] = False
    changes = episode.commanded_changes()
    # Positions of the tool come first; joints, also those that slide, count as turned.
    metres = 3 if episode.space.kind.startswith("tool") else 0
    moved = np.linalg.norm(changes[:, :metres], axis=1) > selection.idle_m
    turned = np.linalg.norm(changes[:, metres:], axis=1) > selection.idle_rad
    gripper = np.ones(len(episode), np.bool_)
    gripper[1:] = episode.actions[1:, -1] != episode.actions[:-1, -1]
    return np.flatnonzero(keep & (moved | turned | gripper))


def open_store(
    folder: Path,
    sources: Sequence[EpisodeSource],
    transform: ImageTransform,
    selection: Selection,
    report: Report | None = None,
    asked: str = "",
) -> FrameStore:
    """Return the store in ``folder``; builds it from ``sources`` unless one for the same request exists.

    Raises ``DatasetError`` if nothing is left to learn from or the datasets are incompatible.
    """
    key = store_key(sources, transform, selection, asked)
    if _key_of(folder / TABLE) != key or not _is_whole(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _Builder(folder, transform, selection).build(sources, key, report)
    return _load(folder, transform.size)


def _is_whole(folder: Path) -> bool:
    """Return whether a store passes its checksums, as far as it has any."""
    try:
        if not verify_all([folder / TABLE, folder / IMAGES]):
            return True
    except ChecksumError as error:
        _LOG.warning("%s; reading the demonstrations again", error)
        return False
    say_unverified(str(folder), "its frames have no checksum")
    return True


def held_out(identity: str, selection: Selection) -> bool:
    """Return whether the episode called ``identity`` is held out: a reproducible draw."""
    digest = hashlib.sha256(f"{selection.seed} {identity}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2.0**64 < selection.validation_share


@dataclass
class _Columns:
    actions: list[Float]
    intervention: list[Bool]
    words: list[Int]


class _Builder:
    """Reads every episode once; images go to disk as they come."""

    def __init__(self, folder: Path, transform: ImageTransform, selection: Selection) -> None:
        self._folder, self._transform, self._selection = folder, transform, selection
        self._columns = _Columns([], [], [])
        self._instructions: dict[str, int] = {}
        self._spans: list[Span] = []
        self._skipped: list[str] = []
        self._count = 0
        self._space: ActionSpace | None = None
        self._camera, self._robot = "", ""

    def build(self, sources: Sequence[EpisodeSource], key: str, report: Report | None) -> None:
        total, done = sum(map(len, sources)), 0
        unfinished = self._folder / f"{IMAGES}.part"
        with unfinished.open("wb") as file:
            for number, source in enumerate(sources):
                for index in range(len(source)):
                    self._take(source, number, index, file)
                    done += 1
                    if report is not None:
                        report(done, total)
            file.flush()
            os.fsync(file.fileno())
        if not self._count:
            raise DatasetError("no steps to learn from: " + ("; ".join(self._skipped) or "the data is empty"))
        self._hold_out_one()
        unfinished.replace(self._folder / IMAGES)
        self._write_table(key)

    def _take(self, source: EpisodeSource, number: int, index: int, file: Any) -> None:
        try:
            episode = source[index]
            steps = steps_to_learn(episode, self._selection)
        except (DatasetError, InvalidValueError) as error:
            self._skipped.append(str(error))
            return
        if not episode.instruction.strip() or not len(steps):
            why = "has no instruction" if len(steps) else f"has no steps to learn from ({episode.outcome})"
            self._skipped.append(f"{source.path}: episode {episode.id!r} {why}")
            return
        images = episode.images[self._checked_camera(source, episode)]
        try:
            resized = [self._transform.resized(images[int(step)]).tobytes() for step in steps]
        except (DatasetError, InvalidValueError) as error:
            self._skipped.append(f"{source.path}: episode {episode.id!r}: {error}")
            return
        file.writelines(resized)
        self._add(episode, steps, number)

    def _add(self, episode: Episode, steps: Int, number: int) -> None:
        word = self._instructions.setdefault(episode.instruction, len(self._instructions))
        self._columns.actions.append(episode.actions[steps])
        self._columns.intervention.append(episode.intervention[steps])
        self._columns.words.append(np.full(len(steps), word))
        held = held_out(f"{number} {episode.id}", self._selection)
        self._spans.append(Span(episode.id, number, self._count, self._count + len(steps), held))
        self._count += len(steps)

    def _checked_camera(self, source: EpisodeSource, episode: Episode) -> str:
        if self._space is None:
            self._space = episode.space
            self._robot = episode.provenance.get("robot") or episode.provenance.get("profile") or ""
            self._camera = self._selection.camera or next(iter(episode.images), "")
        lines = self._space.differences(episode.space)
        if lines:
            raise DatasetError(
                f"{source.path}: the action space of episode {episode.id!r} differs from previous episodes: "
                + "; ".join(lines)
            )
        if self._camera not in episode.images:
            there = ", ".join(episode.images) or "none"
            raise DatasetError(
                f"{source.path}: episode {episode.id!r} has no camera {self._camera!r}; "
                f"its cameras are {there}"
            )
        return self._camera

    def _hold_out_one(self) -> None:
        """Make sure that a validation share above 0 holds out at least one episode, but not all."""
        share, spans = self._selection.validation_share, self._spans
        if share > 0.0 and len(spans) > 1 and not any(span.held_out for span in spans):
            spans[-1] = _with_held_out(spans[-1], True)
        if all(span.held_out for span in spans):
            spans[0] = _with_held_out(spans[0], False)

    def _write_table(self, key: str) -> None:
        assert self._space is not None
        space = {
            name: np.asarray(value).tolist() if isinstance(value, np.ndarray) else value
            for name, value in vars(self._space).items()
        }
        header = {
            "key": key,
            "instructions": list(self._instructions),
            "spans": [vars(span) for span in self._spans],
            "space": space,
            "camera": self._camera,
            "robot": self._robot,
            "skipped": self._skipped,
        }
        unfinished = self._folder / "frames.part.npz"
        np.savez(
            unfinished,
            header=np.array(json.dumps(header)),
            actions=np.concatenate(self._columns.actions),
            intervention=np.concatenate(self._columns.intervention),
            words=np.concatenate(self._columns.words),
        )
        unfinished.replace(self._folder / TABLE)
        write_sums(self._folder, [self._folder / TABLE, self._folder / IMAGES])


def _with_held_out(span: Span, value: bool) -> Span:
    return Span(span.id, span.source, span.start, span.stop, value)


def store_key(
    sources: Sequence[EpisodeSource], transform: ImageTransform, selection: Selection, asked: str = ""
) -> str:
    """Return a digest of everything that determines a store; ``asked``: how the sources were opened.

    Files are identified by name and size, so that an added or longer recording changes it.
    """
    request = {
        "sources": [[str(s.path.resolve()), s.format, len(s), _sizes(s.path)] for s in sources],
        "asked": asked,
        "transform": transform.describe(),
        "selection": asdict(selection),
    }
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def _sizes(path: Path) -> list[list[str | int]]:
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [[str(file.relative_to(path)), file.stat().st_size] for file in files if file.is_file()]


def _key_of(table: Path) -> str:
    if not table.is_file():
        return ""
    try:
        with reading(table), np.load(table) as file:
            return str(json.loads(str(file["header"]))["key"])
    except DatasetError:
        return ""  # damaged: rebuild it


def _load(folder: Path, size: tuple[int, int]) -> FrameStore:
    with reading(f"{folder} contains no readable frames"):
        with np.load(folder / TABLE) as file:
            header = json.loads(str(file["header"]))
            actions, intervention, words = file["actions"], file["intervention"], file["words"]
        space = header["space"]
        return FrameStore(
            images=np.memmap(folder / IMAGES, np.uint8, "r", shape=(len(actions), *size, 3)),
            actions=actions,
            intervention=intervention,
            words=words,
            instructions=tuple(header["instructions"]),
            spans=tuple(Span(**span) for span in header["spans"]),
            space=ActionSpace(**{**space, "names": tuple(space["names"]), "units": tuple(space["units"])}),
            camera=header["camera"],
            robot=header["robot"],
            skipped=tuple(header["skipped"]),
        )


def stored_image(store: FrameStore, row: int) -> Image:
    """Return the image of one step."""
    return np.asarray(store.images[row])
