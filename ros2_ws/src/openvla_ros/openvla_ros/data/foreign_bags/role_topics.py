"""Which recorded topic plays which role of a robot profile: cameras, joint states, what was commanded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from openvla_ros.data.bags import cdr
from openvla_ros.data.foreign_bags.stored_message import RecordedTopic
from openvla_ros.errors import DatasetError
from openvla_ros.profile import CameraProfile, RobotProfile

JOINT_STATES, INSTRUCTION, TOLD = "joint_states", "instruction", "policy/instruction"
CHUNKS = ("policy/action_chunk", "teleop/action_chunk")
VERDICTS = "controller/verdict"
_JOINTS, _TEXT = "sensor_msgs/msg/JointState", "std_msgs/msg/String"
_POSE = "geometry_msgs/msg/PoseStamped"
# What our own recordings hold besides, and nobody else's has to.
_OPTIONAL = {
    INSTRUCTION: _TEXT,
    TOLD: _TEXT,
    **dict.fromkeys(CHUNKS, "trajectory_msgs/msg/JointTrajectory"),
    "controller/target_pose": _POSE,
    "controller/current_pose": _POSE,
    VERDICTS: "diagnostic_msgs/msg/DiagnosticStatus",
}
UNSTAMPED = (INSTRUCTION, TOLD, VERDICTS)  # roles whose messages have no header


@dataclass(frozen=True)
class _Wanted:
    """A role, the topics that may play it (the first that is there does), and the types that fit it."""

    topics: tuple[str, ...]
    types: tuple[str, ...]
    what: str
    required: bool = False


def camera_role(camera: str) -> str:
    """Return the role of a camera's images."""
    return f"camera/{camera}/image_raw"


def role_topics(
    profile: RobotProfile,
    recorded: Mapping[str, RecordedTopic],
    origin: str,
    namespace: str = "",
    renamed: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return role → recorded topic for every role of ``profile`` that ``recorded`` has a topic for.

    ``namespace`` is put before relative names; ``renamed`` says for a role which topic plays it instead of
    the profile's. Raises ``DatasetError`` if a camera or the joint states are not recorded, a type does not
    fit, or ``renamed`` names an unknown role or topic.
    """
    wanted = _wanted(profile, namespace)
    given = dict(renamed or {})
    unknown = sorted(set(given) - set(wanted))
    if unknown:
        raise DatasetError(f"--topic {unknown[0]}=...: no such role; the roles are {', '.join(wanted)}")
    found: dict[str, str] = {}
    for role, want in wanted.items():
        names = (absolute(given[role], namespace),) if role in given else want.topics
        name = next((name for name in names if name in recorded and recorded[name].count), None)
        if name is None and (want.required or role in given):
            raise DatasetError(_missing(origin, want, role, names, recorded))
        if name is None:
            continue
        if recorded[name].type not in want.types:
            raise DatasetError(
                f"{origin}: {name} ({want.what}) is recorded as {recorded[name].type}; "
                f"it must be {' or '.join(want.types)}"
            )
        found[role] = name
    return found


def absolute(name: str, namespace: str = "") -> str:
    """Return a topic's full name: relative ones lie in ``namespace``."""
    if name.startswith("/"):
        return name
    return "/" + "/".join(part for part in (namespace.strip("/"), name) if part)


def _wanted(profile: RobotProfile, namespace: str) -> dict[str, _Wanted]:
    wanted = {camera_role(c.name): _camera(c, namespace) for c in profile.cameras}
    joints = absolute(profile.state.joint_states_topic, namespace)
    wanted[JOINT_STATES] = _Wanted((joints,), (_JOINTS,), "the joint states", required=True)
    for role, kind in _OPTIONAL.items():
        wanted[role] = _Wanted((absolute(role, namespace),), (kind,), role)
    return wanted


def _camera(camera: CameraProfile, namespace: str) -> _Wanted:
    """The camera's topic, or what image_transport publishes beside it."""
    name = absolute(camera.topic, namespace)
    topics = (name,) if name.endswith("/compressed") else (name, f"{name}/compressed")
    return _Wanted(topics, (cdr.IMAGE, cdr.COMPRESSED_IMAGE), f"camera {camera.name!r}", required=True)


def _missing(
    origin: str, want: _Wanted, role: str, names: tuple[str, ...], recorded: Mapping[str, RecordedTopic]
) -> str:
    fitting = [t.name for t in recorded.values() if t.type in want.types and t.count]
    have = ", ".join(sorted(fitting)) or "none"
    empty = [name for name in names if name in recorded]
    state = f"{empty[0]} has no message" if empty else f"{' or '.join(names)} is not recorded"
    return (
        f"{origin}: {want.what}: {state}; recorded topics of its type: {have} "
        f"(--topic {role}=NAME reads another one)"
    )
