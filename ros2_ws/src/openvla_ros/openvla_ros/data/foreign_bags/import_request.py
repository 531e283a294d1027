"""An import request: which bag and robot, where to cut, which instructions and actions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from openvla_ros.data.foreign_bags.stream_index import Stamps
from openvla_ros.errors import DatasetError
from openvla_ros.profile import RobotProfile
from openvla_ros.values.episode import Outcome

Actions = Literal["auto", "commanded", "joint_states"]
ACTIONS: tuple[Actions, ...] = get_args(Actions)


@dataclass(frozen=True)
class Cutting:
    """Where to cut; at most one way, none: the whole recording is one episode."""

    topic: str = ""
    service: str = ""
    stop_service: str = ""
    times: Path | None = None
    pauses_s: float = 0.0
    pause_speed: float = 0.02  # rad/s below which a joint rests

    def __post_init__(self) -> None:
        ways = {
            "--cut-topic": bool(self.topic),
            "--cut-service": bool(self.service),
            "--times": self.times is not None,
            "--cut-pauses": self.pauses_s > 0,
        }
        chosen = [name for name, given in ways.items() if given]
        if len(chosen) > 1:
            raise DatasetError(f"{' and '.join(chosen)} both say where to cut; use one")
        if self.stop_service and not self.service:
            raise DatasetError("--stop-service ends what --cut-service begins; give both")


@dataclass(frozen=True)
class ImportRequest:
    """One bag to import."""

    bag: Path
    profile: RobotProfile
    cutting: Cutting = field(default_factory=Cutting)
    instruction: str = ""
    instruction_topic: str = ""
    outcome: Outcome = "unknown"
    actions: Actions = "auto"
    stamps: Stamps = "header"
    namespace: str = ""
    topics: Mapping[str, str] = field(default_factory=dict)  # role → recorded topic

    def __post_init__(self) -> None:
        if self.instruction and self.instruction_topic:
            raise DatasetError("--instruction and --instruction-topic both give the instruction; use one")
        if self.instruction_topic and "instruction" in self.topics:
            raise DatasetError("--instruction-topic and --topic instruction=... name the same role; give one")
