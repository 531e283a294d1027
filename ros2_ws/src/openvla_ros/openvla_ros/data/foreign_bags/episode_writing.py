"""Planned episodes, written as recordings of this package: the messages as they were, and what they mean.

Nothing is re-encoded: images, states and chunks keep their bytes, but for the stamp where times of receipt
were asked for. Each episode is read back before it counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from openvla_ros.data.bags.bag_metadata import QUALITY, EpisodeMetadata
from openvla_ros.data.bags.bag_reader import BagReader, read_metadata
from openvla_ros.data.bags.recording_folder import OUTCOME, Recordings
from openvla_ros.data.bags.rosbag2_writer import BagWriter, Topic
from openvla_ros.data.foreign_bags.import_plan import ImportPlan, PlannedEpisode, Skipped, imported_from
from openvla_ros.data.foreign_bags.role_topics import INSTRUCTION, TOLD, UNSTAMPED, VERDICTS
from openvla_ros.data.foreign_bags.rosbag2_recording import Recording
from openvla_ros.data.foreign_bags.stored_message import Key
from openvla_ros.data.foreign_bags.stream_index import StreamIndex, with_stamp
from openvla_ros.data.foreign_bags.topic_types import definition_text
from openvla_ros.errors import DatasetError, InvalidValueError
from openvla_ros.values.time import NS_PER_S

_VERDICT_NS = NS_PER_S  # a chunk's verdict may come this long after the chunk


@dataclass(frozen=True)
class Imported:
    """One episode that was written."""

    folder: Path
    steps: int
    left_out: str  # of its steps, and why; empty if none
    words: str


@dataclass(frozen=True)
class ImportResult:
    """The result of an import."""

    episodes: tuple[Imported, ...]
    skipped: tuple[Skipped, ...]


def write_episodes(
    plan: ImportPlan, recording: Recording, output: Path, progress: Callable[[], None] = lambda: None
) -> ImportResult:
    """Write every episode of ``plan`` into the folder of recordings ``output``.

    An episode without a usable step is left out with its reason. Raises ``DatasetError`` if the recording
    was imported into ``output`` before, or the disk refuses; what was finished until then stays.
    """
    recordings = Recordings(output)
    done: list[Imported] = []
    skipped = list(plan.skipped)
    with recordings.locked():
        _refuse_repeats(recordings, plan)
        for episode in plan.episodes:
            folder = recordings.begin()
            try:
                _write(folder, plan, recording, episode, recordings.number(folder))
                steps, left_out, words = _read_back(folder)
            except (DatasetError, InvalidValueError) as error:
                recordings.discard(folder)
                skipped.append(Skipped(episode.cut, str(error).replace(str(folder), "it")))
            except BaseException:
                recordings.discard(folder)
                raise
            else:
                done.append(Imported(recordings.finish(folder), steps, left_out, words))
            progress()
    return ImportResult(tuple(done), tuple(skipped))


def _refuse_repeats(recordings: Recordings, plan: ImportPlan) -> None:
    source = imported_from(plan.request.bag)
    for folder in recordings.folders(""):
        try:
            known = read_metadata(folder)
        except DatasetError:
            continue  # named when it is read
        if known.origin.get("imported_from") == source:
            raise DatasetError(
                f"{plan.request.bag} was already imported into {recordings.root} ({folder.name}); remove its "
                "episodes to import it again, or choose another folder"
            )


def _write(
    folder: Path, plan: ImportPlan, recording: Recording, episode: PlannedEpisode, number: int
) -> None:
    given = bool(episode.cut.words or plan.request.instruction)  # they replace those of topics
    streams = {
        role: stream for role, stream in plan.streams.items() if not (given and role in (INSTRUCTION, TOLD))
    }
    writer = BagWriter(folder)
    try:
        for name, values in _metadata(plan, episode, streams, number).records().items():
            writer.add_metadata(name, values)
        numbers = {
            role: writer.add_topic(Topic(s.topic.name, s.topic.type, definition_text(s.topic)))
            for role, s in streams.items()
        }
        _copy(plan, recording, episode, streams, writer, numbers)
        writer.add_metadata(
            OUTCOME,
            {
                "outcome": plan.request.outcome,
                "ended_ns": str(episode.cut.end_ns),
                "recovered": "false",
            },
        )
        writer.add_metadata(QUALITY, {"warnings": json.dumps(_warnings(plan), ensure_ascii=False)})
        writer.close()
    except BaseException:
        writer.abandon()
        raise


def _metadata(
    plan: ImportPlan, episode: PlannedEpisode, streams: Mapping[str, StreamIndex], number: int
) -> EpisodeMetadata:
    request, cut = plan.request, episode.cut
    origin = {
        "imported_from": imported_from(request.bag),
        "cut": cut.why,
        "cut_start_ns": str(cut.start_ns),
        "cut_end_ns": str(cut.end_ns),
        "stamps": request.stamps,
    }
    return EpisodeMetadata(
        request.profile,
        {role: stream.topic.name for role, stream in streams.items()},
        episode.words if INSTRUCTION not in streams and TOLD not in streams else "",
        "",
        number,
        cut.start_ns,
        actions=plan.actions,
        origin=origin,
    )


def _warnings(plan: ImportPlan) -> list[str]:
    found = list(plan.notes)
    if plan.actions == "joint_states":
        found.append("actions are computed from measured joint states; what was commanded is not recorded")
    return found


def _copy(
    plan: ImportPlan,
    recording: Recording,
    episode: PlannedEpisode,
    streams: Mapping[str, StreamIndex],
    writer: BagWriter,
    numbers: Mapping[str, int],
) -> None:
    wanted: dict[Key, list[tuple[str, int]]] = {}  # message → roles, and the stamp that it has there
    first, last = episode.cut.start_ns, episode.cut.end_ns
    for role, stream in streams.items():
        for index in _chosen(role, stream, episode):
            wanted.setdefault(stream.keys[index], []).append((role, int(stream.stamps_ns[index])))
            received = int(stream.received_ns[index])
            first, last = min(first, received), max(last, received)
    rewrite = plan.request.stamps == "received"
    names = {stream.topic.name for stream in streams.values()}
    for message in recording.messages(names, first, last):
        for role, stamp in wanted.pop(message.key, ()):
            data = message.data
            if rewrite and role not in UNSTAMPED:
                data = with_stamp(data, stamp)
            writer.write(numbers[role], data, message.received_ns, message.sent_ns)
        writer.flush_if_due()
    if wanted:
        raise DatasetError(
            f"{plan.request.bag}: {len(wanted)} messages were gone when the file was read again"
        )


def _chosen(role: str, stream: StreamIndex, episode: PlannedEpisode) -> list[int]:
    """Return the messages of a stream that belong to an episode."""
    start, end = episode.cut.start_ns, episode.cut.end_ns
    if role not in UNSTAMPED:
        return [int(i) for i in stream.within(start, end)]
    later = _VERDICT_NS if role == VERDICTS else 0
    inside = [int(i) for i in stream.within(start, end + later)]
    before = [i for i in range(len(stream)) if stream.stamps_ns[i] < start]
    if role == VERDICTS:  # the last one that says whose the arm is
        before = [i for i in before if any(pair.key == "owner" for pair in stream.values[i].values)]
    elif role == TOLD:
        before = [i for i in before if stream.values[i].data.strip()]
    return [*before[-1:], *inside]


def _read_back(folder: Path) -> tuple[int, str, str]:
    """Return how many steps the written episode has, what is left out of them, and its words."""
    with BagReader(folder) as reader:
        episode = reader.episode()
        left_out = episode.provenance.get("steps_left_out", "")
        other = episode.provenance.get("steps_of_other_instructions", "")
        parts = [left_out, f"{other} under another instruction" if other else ""]
        return len(episode), "; ".join(part for part in parts if part), episode.instruction
