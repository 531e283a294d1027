"""What a recording of the simulated robot holds, read by the library rosbags and by nothing of ours."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.highlevel import AnyReader

from openvla_ros.profile import load_profile
from peers.piped_simulation import ROBOT

S = 1_000_000_000
Rows = list[tuple[int, int, Any]]  # received and own stamp, ns, and the value


@dataclass(frozen=True)
class Truth:
    """Everything that is compared; arrays as lists, images as their SHA-256."""

    joints: Rows
    commanded: Rows
    probabilities: Rows
    verdicts: Rows  # texts
    images: Rows
    periods_ms: np.ndarray  # between the arm's commands
    reasons: frozenset[str]

    @property
    def texts(self) -> list[str]:
        """The texts of the verdicts."""
        return [text for _, _, text in self.verdicts]


def read_truth(folder: Path) -> Truth:
    """Return what the recording at ``folder`` holds."""
    arm = load_profile(ROBOT).arm.joints
    rows: dict[str, Rows] = {
        name: [] for name in ("joints", "commanded", "probabilities", "verdicts", "images")
    }
    reasons = set()
    for topic, received, message in messages(folder):
        match topic:
            case "/joint_states":
                at = [list(message.name).index(name) for name in arm]
                values = [float(message.position[i]) for i in at]
                rows["joints"].append((received, ns(message.header.stamp), values))
            case "/arm_controller/joint_trajectory":
                first = message.points[0]
                due = ns(message.header.stamp) + first.time_from_start.sec * S + first.time_from_start.nanosec
                rows["commanded"].append((received, due, [float(q) for q in first.positions]))
            case "/policy/action_chunk":
                at = [i for i, name in enumerate(message.joint_names) if name.startswith("probability/")]
                values = [float(message.points[0].positions[i]) for i in at]
                rows["probabilities"].append((received, ns(message.header.stamp), values))
            case "/controller/verdict":
                said = {pair.key: pair.value for pair in message.values}
                reasons.add(said["reason"])
                prefix = ""
                if said["kind"] == "refusal":
                    source = "a person's" if said.get("source") == "teleoperation" else said.get("source")
                    prefix = f"refused {source} chunk; " if source else "refused; "
                rows["verdicts"].append((received, received, prefix + message.message))
            case "/camera/primary/image_raw/compressed":
                digest = hashlib.sha256(message.data.tobytes()).hexdigest()
                rows["images"].append((received, ns(message.header.stamp), digest))
    due = np.array([stamp for _, stamp, _ in rows["commanded"]], np.int64)
    return Truth(**rows, periods_ms=np.diff(due) / 1e6, reasons=frozenset(reasons))


def messages(folder: Path) -> Iterator[tuple[str, int, Any]]:
    """Yield topic, time of reception and message, in order."""
    with AnyReader([folder]) as reader:
        for connection, received, data in reader.messages():
            yield connection.topic, received, reader.deserialize(data, connection.msgtype)


def ns(stamp: Any) -> int:
    """Return a stamp in nanoseconds."""
    return int(stamp.sec) * S + int(stamp.nanosec)
