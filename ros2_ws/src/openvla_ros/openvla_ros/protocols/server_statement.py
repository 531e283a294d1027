"""What a server of openpi's protocol states of its policy in its first message, checked against the robot.

openpi's own servers state nothing that binds. ``servers/serve_lerobot_policy.py`` states what a LeRobot
policy reads and what its actions mean; what it leaves out is refused, never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from openvla_ros.errors import InvalidValueError, PolicyError, ProfileError
from openvla_ros.profile import RobotProfile
from openvla_ros.protocols import wire
from openvla_ros.protocols.observation_map import ObservationMap, parse_observation_map
from openvla_ros.protocols.state_vectors import part_width
from openvla_ros.values.action import ActionSpace

# The file beside a LeRobot checkpoint that states what its numbers mean, and its keys.
INTERFACE = "robot_interface.json"
INTERFACE_KEYS = (
    "action_space (names, units, frame, rotation, gripper_open, lower, upper, rate_hz, kind), state, cameras"
)


@dataclass(frozen=True, eq=False)
class ServerStatement:
    """What a server states of its policy; ``None`` and empty where it states nothing."""

    action_space: ActionSpace | None = None
    observation_map: ObservationMap | None = None
    shapes: Mapping[str, tuple[int, ...]] | None = None  # by key: images (H, W, 3), states (D,)
    takes_resets: bool = False  # whether it has a message for the end of an instruction

    def check_map(self, used: ObservationMap, profile: RobotProfile, origin: str) -> None:
        """Raise ``PolicyError`` unless a robot that sends what ``used`` says sends what the policy reads.

        Args:
            used: The observation map that the robot uses.
            profile: The robot.
            origin: The server, for the message.

        Raises:
            PolicyError: The keys, an image's size, or the numbers of a state differ; names both.
        """
        if self.shapes is not None:
            _check_keys(set(self.shapes), {*used.images, *used.state}, profile, origin)
            cameras = {camera.name: camera for camera in profile.cameras}
            for key, name in used.images.items():
                camera = cameras[name]
                size = (camera.height, camera.width)
                found = (*(size if camera.rotate_deg in (0, 180) else size[::-1]), 3)
                if found != self.shapes[key]:
                    raise PolicyError(
                        f"{key!r} of {origin} is an image {self.shapes[key]}; camera {name!r} of robot "
                        f"{profile.name} gives {found}"
                    )
            for key, parts in used.state.items():
                widths = [part_width(part, profile) for part in parts]
                if (sum(widths),) != self.shapes[key]:
                    has = " + ".join(f"{part} ({width})" for part, width in zip(parts, widths, strict=True))
                    raise PolicyError(
                        f"{key!r} of {origin} has the shape {self.shapes[key]}; robot {profile.name} sends "
                        f"{has}"
                    )
        stated = self.observation_map
        if stated is not None and dict(stated.state) != dict(used.state):
            raise PolicyError(
                f"{origin} states the state {_shown(stated)}; the observation map of robot {profile.name} "
                f"has {_shown(used)}"
            )


def read_statement(metadata: Mapping[str, Any], profile: RobotProfile, origin: str) -> ServerStatement:
    """Return what the server ``origin`` states in its ``metadata``.

    Raises:
        PolicyError: It runs a LeRobot policy and does not state what its actions mean or what it reads, or
            it names a camera that the robot lacks.
        InvalidValueError: What it states cannot be read.
    """
    is_lerobot = "lerobot_version" in metadata
    keys = ("action_space", "observation_map", "shapes")
    if is_lerobot and (missing := [key for key in keys if metadata.get(key) is None]):
        raise PolicyError(
            f"{origin} runs a LeRobot policy and does not state its {missing[0]}; write {INTERFACE} beside "
            f"the checkpoint {metadata.get('checkpoint')!r}, with the keys {INTERFACE_KEYS}"
        )
    space = metadata.get("action_space")
    stated = wire.space_from_message(space) if space is not None else None
    if not is_lerobot:
        return ServerStatement(stated)
    try:
        found = parse_observation_map(metadata["observation_map"], profile, origin)
        shapes = {str(key): tuple(map(int, shape)) for key, shape in metadata["shapes"].items()}
    except ProfileError as error:
        raise PolicyError(f"{error}; the cameras of {INTERFACE} say which is which") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise InvalidValueError(f"{origin}: its shapes cannot be read: {error}") from error
    return ServerStatement(stated, found, shapes, metadata.get("reset") is True)


def _check_keys(theirs: set[str], ours: set[str], profile: RobotProfile, origin: str) -> None:
    if theirs != ours:
        raise PolicyError(
            f"{origin} reads {', '.join(sorted(theirs))}; the observation map of robot {profile.name} sends "
            f"{', '.join(sorted(ours))}"
        )


def _shown(used: ObservationMap) -> str:
    return "; ".join(f"{key}: {', '.join(parts)}" for key, parts in used.state.items()) or "none"
