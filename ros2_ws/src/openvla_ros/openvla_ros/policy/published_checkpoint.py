"""What is known of a checkpoint without a manifest: its dataset, by the name of its statistics.

OpenVLA's training turns the gripper of every dataset into 1 open .. 0 closed, and leaves rates, frames and
units as they are in the dataset. Both are in the table of dataset conventions. A robot whose profile says
otherwise would close where it should open, or move several times too fast.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from openvla_ros.data.formats.rlds_conventions import convention_table
from openvla_ros.errors import ManifestError
from openvla_ros.manifest import MANIFEST_NAME
from openvla_ros.profile import RobotProfile
from openvla_ros.values.action import ActionSpace

logger = logging.getLogger(__name__)

_COMPARED = ("kind", "frame", "rotation", "gripper_open", "rate_hz")
UNKNOWN_UNIT = "1"  # of a dataset whose units were not published


def check_published(unnorm_key: str | None, known: Iterable[str], profile: RobotProfile, origin: str) -> None:
    """Compare what is known of the dataset of a checkpoint without a manifest with a robot's profile.

    Args:
        unnorm_key: The key of its statistics that was asked for, if any.
        known: All keys of its statistics. Nothing is compared where they do not say which dataset it is:
            loading it asks for the key then.
        profile: The robot.
        origin: The checkpoint, for messages.

    Raises:
        ManifestError: Something that is known differs; names each value, and the robot's.
    """
    keys = tuple(known)
    key = keys[0] if unnorm_key is None and len(keys) == 1 else unnorm_key
    if key is None or key not in keys:
        return
    convention = convention_table().datasets.get(key)
    if convention is None:
        logger.warning(
            "%s has no %s, and the dataset %r is not known: nothing says whether its actions have the "
            "gripper sign, rate, frame and units of robot %s",
            origin, MANIFEST_NAME, key, profile.name,
        )  # fmt: skip
        return
    space = convention.space()
    lines = differences(space, profile)
    if lines:
        raise ManifestError(
            f"{origin} has no {MANIFEST_NAME}; its dataset {key!r} does not match robot {profile.name}:\n"
            + "\n".join(f"  {line}" for line in lines)
            + "\nuse a profile with the dataset's values, or a checkpoint that was fine-tuned on this robot"
        )
    if UNKNOWN_UNIT in space.units[:6]:
        logger.warning(
            "%s: the units of dataset %r were not published: nothing says whether its actions are in %s",
            origin, key, " and ".join(dict.fromkeys(profile.action_space.units[:6])),
        )  # fmt: skip


def differences(space: ActionSpace, profile: RobotProfile) -> list[str]:
    """Return a line for each value of a dataset's ``space`` that differs from the robot's."""
    robot = profile.space()
    lines = [
        f"action_space.{name}: dataset {mine!r}, robot {theirs!r}"
        for name in _COMPARED
        if (mine := getattr(space, name)) != (theirs := getattr(robot, name))
    ]
    units = [(a, b) for a, b in zip(space.units[:6], robot.units[:6], strict=False) if a != UNKNOWN_UNIT]
    if any(mine != theirs for mine, theirs in units):
        lines.append(f"action_space.units: dataset {space.units!r}, robot {robot.units!r}")
    return lines


def say_trained_elsewhere(trained_on: str, profile: RobotProfile, origin: str) -> None:
    """Log that a checkpoint whose manifest matches was nevertheless trained on another robot."""
    if trained_on != profile.name:
        logger.warning(
            "%s was trained on robot %s; its actions mean the same on %s, but nothing says that they fit it",
            origin, trained_on, profile.name,
        )  # fmt: skip
