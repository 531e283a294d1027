"""LeRobot's robot interface to a running robot of openvla_ros.

Actions are those of the profile's action space, at its rate; the controller's limits apply to each. The state
is that of this package's LeRobot datasets: the tool's pose in the base frame, and the gripper's opening.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
from lerobot.robots import Robot
from lerobot.utils.errors import DeviceAlreadyConnectedError, DeviceNotConnectedError

from lerobot_robot_openvla_ros.config_robot import OpenVLARobotConfig
from openvla_ros.errors import InvalidValueError
from openvla_ros.profile import load_profile
from openvla_ros.protocols.state_vectors import StatePart, part_to_numbers

if TYPE_CHECKING:
    from lerobot_robot_openvla_ros.link import RobotLink

STATE: tuple[StatePart, ...] = ("tool_euler", "gripper_open")
STATE_NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")  # metres, radians, 0 closed .. 1 open
SOONEST = 0.6  # of a step: how soon the next action may come, for a loop whose period varies
ROUNDING = 1e-6  # how far an action may be outside the bounds


class OpenVLARobot(Robot):
    """Drives a robot whose nodes run, as a person at a teleoperation device does."""

    config_class = OpenVLARobotConfig
    name = "openvla_ros"

    def __init__(self, config: OpenVLARobotConfig) -> None:
        """Read the robot's profile; raises ``InvalidValueError`` if none is named, and ``ProfileError``."""
        super().__init__(config)
        if not config.profile:
            raise InvalidValueError("robot.profile is empty; give it, such as --robot.profile=sim_widowx")
        self.config = config
        self._profile = load_profile(config.profile)
        self._space = self._profile.space()
        self._link: RobotLink | None = None
        self._sent_s = -np.inf

    @property
    def cameras(self) -> dict[str, tuple[int, int, int]]:
        """Each camera's image: height, width, 3. LeRobot counts them for its image writer."""
        found = {}
        for camera in self._profile.cameras:
            size = (camera.height, camera.width)
            found[camera.name] = (*(size if camera.rotate_deg in (0, 180) else size[::-1]), 3)
        return found

    @property
    def observation_features(self) -> dict[str, Any]:
        """The state's numbers, and the images."""
        return {**dict.fromkeys(STATE_NAMES, float), **self.cameras}

    @property
    def action_features(self) -> dict[str, Any]:
        """The dimensions of the profile's action space."""
        return dict.fromkeys(self._space.names, float)

    @property
    def is_connected(self) -> bool:
        """Whether the arm was taken and not given back."""
        return self._link is not None

    @property
    def is_calibrated(self) -> bool:
        """True: the robot's own driver knows its zeros."""
        return True

    def calibrate(self) -> None:
        """Do nothing."""

    def configure(self) -> None:
        """Do nothing."""

    def connect(self, calibrate: bool = True) -> None:
        """Take the arm from whoever has it.

        Raises ``MissingDependencyError`` without ROS, and ``DeviceError`` if the robot is not up.
        """
        del calibrate
        if self._link is not None:
            raise DeviceAlreadyConnectedError(f"{self} is connected")
        from openvla_ros.dependencies import needed_for

        with needed_for("robot openvla_ros"):  # not at the top: LeRobot hides what its imports raise
            from lerobot_robot_openvla_ros.link import RobotLink
        config = self.config
        link = RobotLink(self._profile, config.namespace, config.use_sim_time, config.timeout_s)
        self._link = link
        try:
            link.take()
        except BaseException:
            self.disconnect()
            raise

    def get_observation(self) -> dict[str, Any]:
        """Return the state's numbers and the images uint8 (H, W, 3), all of one moment.

        Raises ``DeviceError`` if a stream is missing or too old.
        """
        observation = self._connected().observe()
        parts = [part_to_numbers(part, observation, self._profile) for part in STATE]
        state = dict(zip(STATE_NAMES, map(float, np.concatenate(parts)), strict=True))
        return {**state, **{name: np.array(observation.images[name]) for name in self.cameras}}

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        """Send one step of the action space, when the one before is over; return it.

        LeRobot records what it asked for, so nothing is clipped here: what the controller would not carry out
        as it is raises.

        Raises:
            InvalidValueError: A dimension is missing or unknown, a value is outside the profile's bounds or
                not finite, or LeRobot's loop is faster than the actions' rate.
            DeviceError: The controller refused the action before, or was stopped or given to somebody else.
        """
        link, names, now_s = self._connected(), self._space.names, time.monotonic()
        if set(action) != set(names):
            raise InvalidValueError(
                f"the action has {', '.join(sorted(action))}; robot {self._profile.name} takes "
                f"{', '.join(names)}"
            )
        values = np.array([float(action[name]) for name in names])
        for name, value, low, high in zip(names, values, self._space.lower, self._space.upper, strict=True):
            if not low - ROUNDING <= value <= high + ROUNDING:
                raise InvalidValueError(
                    f"action {name} is {value:g}; robot {self._profile.name} takes {low:g} .. {high:g}"
                )
        if now_s - self._sent_s < SOONEST * self._space.step_s:
            raise InvalidValueError(
                f"the next action came after {now_s - self._sent_s:.3f} s; one of robot "
                f"{self._profile.name} takes {self._space.step_s:g} s: run LeRobot at "
                f"{self._space.rate_hz:g} fps"
            )
        # A step that the next one cuts short would go less far than was asked, and recorded.
        time.sleep(max(0.0, self._sent_s + self._space.step_s - now_s))
        link.send(np.clip(values, self._space.lower, self._space.upper))
        self._sent_s = time.monotonic()
        return dict(action)

    def disconnect(self) -> None:
        """Hold the arm and leave the robot's nodes; raises ``DeviceError`` if the hold is not confirmed."""
        link, self._link = self._link, None
        if link is None:
            raise DeviceNotConnectedError(f"{self} is not connected")
        link.close()

    def _connected(self) -> RobotLink:
        if self._link is None:
            raise DeviceNotConnectedError(f"{self} is not connected")
        return self._link
