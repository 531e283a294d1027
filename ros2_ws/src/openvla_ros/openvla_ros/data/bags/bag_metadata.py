"""The metadata of a recorded episode, as records inside its MCAP file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import openvla_ros
from openvla_ros.data.bags.recording_folder import OUTCOME
from openvla_ros.errors import DatasetError, ProfileError
from openvla_ros.profile import RobotProfile, dump_profile, parse_profile
from openvla_ros.values.episode import OUTCOMES, Outcome

EPISODE, PROFILE, TOPICS, QUALITY = (
    f"openvla_ros.{name}" for name in ("episode", "profile", "topics", "quality")
)
Records = Mapping[str, Mapping[str, str]]
# Where an episode's actions come from: chunks that were executed, or, in a recording that has none, the
# measured joint states.
RecordedActions = Literal["commanded", "joint_states"]
RECORDED_ACTIONS: tuple[RecordedActions, ...] = get_args(RecordedActions)
_ORIGIN = "origin."  # before the keys of ``EpisodeMetadata.origin``


@dataclass(frozen=True)
class EpisodeMetadata:
    """Who recorded what, on which robot. ``topics`` maps a stream's role to its topic in the bag.

    Roles are the canonical names (``camera/primary/image_raw``, ``joint_states``,
    ``policy/action_chunk``, ...), so that a reader need not know how topics were remapped.
    """

    profile: RobotProfile
    topics: Mapping[str, str]
    instruction: str
    operator: str
    number: int
    started_ns: int
    software_version: str = openvla_ros.__version__
    outcome: Outcome = "unknown"
    recovered: bool = False
    notes: Mapping[str, str] = field(default_factory=dict)  # the rest of the outcome record
    quality: Mapping[str, str] = field(default_factory=dict)
    actions: RecordedActions = "commanded"
    origin: Mapping[str, str] = field(default_factory=dict)  # of an imported one: where it was cut from

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return the warnings and alarms from while the episode was recorded."""
        found = [str(warning) for warning in json.loads(self.quality.get("warnings", "[]"))]
        if self.notes.get("disk_full") == "true":
            found.append("the disk was full before the end")
        if jumps := self.notes.get("clock_jumps", "").split():
            found.append(f"the clock jumped {len(jumps)} times while recording")
        return tuple(found)

    def records(self) -> dict[str, dict[str, str]]:
        """Return the records that are written at the start of an episode."""
        return {
            EPISODE: {
                "format": "1",
                "number": str(self.number),
                "instruction": self.instruction,
                "operator": self.operator,
                "robot": self.profile.name,
                "software_version": self.software_version,
                "started_ns": str(self.started_ns),
                "actions": self.actions,
                **{_ORIGIN + key: value for key, value in self.origin.items()},
            },
            PROFILE: {"yaml": dump_profile(self.profile)},
            TOPICS: dict(self.topics),
        }


def parse_metadata(records: Records, source: str) -> EpisodeMetadata:
    """Return the metadata in ``records``; raises ``DatasetError`` if this package did not write them."""
    missing = [name for name in (EPISODE, PROFILE, TOPICS) if name not in records]
    if missing:
        raise DatasetError(
            f"{source} was not recorded by openvla_ros: it lacks {', '.join(missing)}; "
            "openvla import-bag turns other recordings into episodes"
        )
    episode, outcome = records[EPISODE], dict(records.get(OUTCOME, {}))
    result = outcome.pop("outcome", "unknown")
    if result not in OUTCOMES:
        raise DatasetError(f"{source}: outcome is {result!r}; choose from {', '.join(OUTCOMES)}")
    actions = episode.get("actions", "commanded")
    if actions not in RECORDED_ACTIONS:
        raise DatasetError(f"{source}: its actions are {actions!r}; known are {', '.join(RECORDED_ACTIONS)}")
    return EpisodeMetadata(
        profile=_profile(records[PROFILE], f"the profile inside {source}"),
        topics=dict(records[TOPICS]),
        instruction=episode.get("instruction", ""),
        operator=episode.get("operator", ""),
        number=int(episode.get("number", "0")),
        started_ns=int(episode.get("started_ns", "0")),
        software_version=episode.get("software_version", ""),
        outcome=result,
        recovered=outcome.pop("recovered", "false") == "true",
        notes=outcome,
        quality=dict(records.get(QUALITY, {})),
        actions=actions,
        origin={key.removeprefix(_ORIGIN): v for key, v in episode.items() if key.startswith(_ORIGIN)},
    )


def _profile(record: Mapping[str, str], source: str) -> RobotProfile:
    try:
        return parse_profile(record.get("yaml", ""), source)
    except ProfileError as error:
        raise DatasetError(str(error)) from error
