"""Whether the names of a dataset's numbers contradict the action space that they are read in.

Names are free text in LeRobot. What a name clearly says (a joint, a quaternion, a velocity, another axis) is
held against the dimension it stands for; what it doesn't say ("motor_3", "actions") contradicts nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from openvla_ros.values.action import ActionSpace
from openvla_ros.values.action_dimensions import GRIPPER

# What a name may be called once prefixes, units and separators are gone.
_MEANINGS: dict[str, str] = {
    **dict.fromkeys(("x", "dx", "px", "tx", "posx", "positionx", "xpos"), "x"),
    **dict.fromkeys(("y", "dy", "py", "ty", "posy", "positiony", "ypos"), "y"),
    **dict.fromkeys(("z", "dz", "pz", "tz", "posz", "positionz", "zpos"), "z"),
    **dict.fromkeys(("roll", "droll", "rx", "drx", "rotx", "rotationx"), "roll"),
    **dict.fromkeys(("pitch", "dpitch", "ry", "dry", "roty", "rotationy"), "pitch"),
    **dict.fromkeys(("yaw", "dyaw", "rz", "drz", "rotz", "rotationz"), "yaw"),
    **dict.fromkeys(("ax", "axisanglex", "rotvecx"), "rotation vector x"),
    **dict.fromkeys(("ay", "axisangley", "rotvecy"), "rotation vector y"),
    **dict.fromkeys(("az", "axisanglez", "rotvecz"), "rotation vector z"),
    **dict.fromkeys(("qx", "qy", "qz", "qw", "quatx", "quaty", "quatz", "quatw"), "a quaternion"),
    **dict.fromkeys(("w",), "a quaternion"),
}
_GRIPPER = re.compile(r"gripper|grip|grasp|finger|jaw")
_JOINT = re.compile(r"joint|shoulder|elbow|forearm|upperarm|waist|wrist|^(j|q)\d+$")
_VELOCITY = re.compile(r"^vel|velocity|^v[xyz]$|^omega")
_TARGET = {"abs", "absolute"}
_CHANGE = {"delta", "rel", "relative"}
_FILLERS = re.compile(
    r"^(action|delta|rel|relative|abs|absolute|target|cmd|command|eef|ee|tcp|tool|endeffector|end|effector|"
    r"robot\d*|arm|left|right|main|follower|leader|world|cartesian)$"
)
_UNITS = re.compile(r"^(m|rad|deg|mm|raw|cmd|target|value)$")
_ROTATIONS = {"x": "roll", "y": "pitch", "z": "yaw"}


def contradictions(names: Sequence[str], groups: Iterable[str], space: ActionSpace) -> list[str]:
    """Return one line for each name of ``names`` that says something else than ``space`` there.

    ``groups`` are the titles under which the names stand. Empty if there is nothing to object to: also where
    there are fewer or more names than numbers, which then name nothing in particular.
    """
    joints = space.kind in ("joint_position", "joint_delta")
    lines = [
        f"its names stand under {group!r}" for group in groups if _JOINT.search(_plain(group)) and not joints
    ]
    if len(names) != space.width:
        foreign = ("a quaternion", "a velocity") if joints else ("a joint", "a quaternion", "a velocity")
        return lines + [f"{name!r} is {said}" for name in names if (said := _meaning(name)) in foreign]
    for name, dimension in zip(names, space.names, strict=True):
        said = _contradiction(name, dimension, space)
        if said is not None:
            lines.append(f"{name!r} is {said}, the action space's dimension there is {dimension!r}")
    return lines


def _contradiction(name: str, dimension: str, space: ActionSpace) -> str | None:
    """Return what ``name`` says that the ``dimension`` of ``space`` is not, or None."""
    said, wanted = _meaning(name), _meaning(dimension)
    if dimension != GRIPPER:
        words = _words(name)
        if space.is_absolute and _CHANGE.intersection(words):
            return "a change of a target"
        if not space.is_absolute and _TARGET.intersection(words):
            return "a target itself"
        if space.kind in ("joint_position", "joint_delta"):
            wanted = "a joint"
            joints = {_core(joint): joint for joint in space.names}
            if (other := joints.get(_core(name), dimension)) != dimension:
                return repr(other)
    if said is None or wanted is None or said == wanted:
        return None
    if space.rotation == "rotation_vector" and _same_axis(said, wanted):
        return None
    return said


def _same_axis(said: str, wanted: str) -> bool:
    """Return whether ``said`` is the part of a rotation vector about the axis of ``wanted``."""
    return said.startswith("rotation vector ") and _ROTATIONS[said[-1]] == wanted


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", _spaced(name)) if word]


def _core(name: str) -> str:
    """Return ``name`` without what prefixes and units add to it."""
    kept = [word for word in _words(name) if not (_FILLERS.match(word) or _UNITS.match(word))]
    return "".join(word for word in kept if word not in ("pos", "position"))


def _meaning(name: str) -> str | None:
    """Return what ``name`` clearly says, or None."""
    words = _words(name)
    joined = "".join(words)
    if _GRIPPER.search(joined):
        changes = _CHANGE.intersection(words) or any(_VELOCITY.search(word) for word in words)
        return "a change of the gripper" if changes else "gripper"
    if any(_VELOCITY.search(word) for word in (*words, joined)):
        return "a velocity"
    core = [word for word in words if not _FILLERS.match(word)]
    while len(core) > 1 and _UNITS.match(core[-1]):
        core.pop()
    if len(core) > 1 and core[-1] in ("pos", "position") and core[0] not in ("rot", "rotation"):
        core.pop()
    plain = "".join(core)
    if plain in _MEANINGS:
        return _MEANINGS[plain]
    if any(_JOINT.search(word) for word in (*core, plain)):
        return "a joint"
    return None


def _spaced(name: str) -> str:
    """Return ``name`` in lower case with camelCase taken apart."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
