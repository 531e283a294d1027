"""What other programs' requests mean on one robot: observations in its own terms, checked, never guessed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from openvla_ros.errors import InvalidValueError
from openvla_ros.profile import RobotProfile
from openvla_ros.protocols.act_codec import ActRequest
from openvla_ros.protocols.observation_map import ObservationMap, available_maps, load_observation_map
from openvla_ros.values.observation import Observation


@dataclass(frozen=True)
class Translation:
    """How requests of openpi's and OpenVLA's clients become observations of one robot."""

    profile: RobotProfile
    observation_map: ObservationMap | None = None  # openpi's keys; None: such clients are told so
    cameras: tuple[str, ...] = ()  # the policy's cameras; OpenVLA's clients send one image
    dataset_key: str = ""  # the dataset whose statistics the policy uses, if it uses any

    @classmethod
    def for_robot(
        cls, profile: RobotProfile, observation_map: str, cameras: tuple[str, ...], dataset_key: str
    ) -> Translation:
        """Return the translation with the map called ``observation_map``, else the profile's.

        Raises ``ProfileError`` if there is no such map, or the robot lacks one of its cameras.
        """
        name = observation_map or profile.observation_map
        found = load_observation_map(name, profile) if name else None
        return cls(profile, found, cameras or (profile.cameras[0].name,), dataset_key)

    def from_openpi(self, message: Mapping[str, Any], stamp_ns: int) -> Observation:
        """Return the observation in a message of openpi's; raises ``InvalidValueError``."""
        if self.observation_map is None:
            raise InvalidValueError(
                f"robot {self.profile.name} has no observation map, which says what openpi's keys are; start "
                f"openvla serve with --observation-map, one of {', '.join(available_maps())} or a YAML file"
            )
        return self.observation_map.to_observation(message, self.profile, stamp_ns)

    def from_act(self, request: ActRequest, stamp_ns: int) -> Observation:
        """Return the observation in a request of OpenVLA's; raises ``InvalidValueError``.

        The statistics that a client asks for must be those of the policy.
        """
        if request.unnorm_key not in (None, self.dataset_key or None):
            mine = repr(self.dataset_key) if self.dataset_key else "none: it takes no unnorm_key"
            raise InvalidValueError(f"unnorm_key is {request.unnorm_key[:80]!r}; this policy's is {mine}")
        if len(self.cameras) != 1:
            raise InvalidValueError(f"a request has one image; this policy needs {', '.join(self.cameras)}")
        return Observation(
            stamp_ns=stamp_ns, images={self.cameras[0]: request.image}, instruction=request.instruction
        )
