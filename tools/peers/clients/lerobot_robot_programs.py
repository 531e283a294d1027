"""Runs in LeRobot's own environment, where the plug-in ``lerobot_robot_openvla_ros`` is installed.

``teleoperate PATH SECONDS FPS`` runs ``lerobot-teleoperate``, and ``record PATH SECONDS FOLDER`` runs
``lerobot-record``, on a running robot, with a teleoperator that follows ``circle``, ``up`` or ``far``. The
last line printed is JSON: the actions that were asked for, or the error.
"""

import json
import math
import sys
import time
from dataclasses import dataclass

from lerobot.scripts import lerobot_record, lerobot_teleoperate
from lerobot.teleoperators import Teleoperator, TeleoperatorConfig

from openvla_ros.errors import OpenVLARosError

ROBOT, FPS = "sim_widowx", 5
NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
ASKED: list[list[float]] = []


@TeleoperatorConfig.register_subclass("path")
@dataclass(kw_only=True)
class PathTeleopConfig(TeleoperatorConfig):
    """Which path."""

    path: str = "circle"


class PathTeleop(Teleoperator):
    """A hand that follows a path in steps of the robot's action space."""

    config_class = PathTeleopConfig
    name = "path"

    def __init__(self, config: PathTeleopConfig) -> None:
        super().__init__(config)
        self._path, self._connected = config.path, False

    @property
    def action_features(self) -> dict:
        """The dimensions of the robot's actions."""
        return dict.fromkeys(NAMES, float)

    @property
    def feedback_features(self) -> dict:
        """None."""
        return {}

    @property
    def is_connected(self) -> bool:
        """Whether it was connected."""
        return self._connected

    @property
    def is_calibrated(self) -> bool:
        """True."""
        return True

    def connect(self, calibrate: bool = True) -> None:
        """Begin."""
        self._connected = True

    def calibrate(self) -> None:
        """Do nothing."""

    def configure(self) -> None:
        """Do nothing."""

    def get_action(self) -> dict:
        """Return the next step of the path."""
        angle = 2.0 * math.pi * len(ASKED) / 20
        steps = {
            "circle": (0.01 * math.cos(angle), 0.01 * math.sin(angle), 0.0),
            "up": (0.0, 0.0, 0.04),
            "far": (0.2, 0.0, 0.0),
        }
        values = [*steps[self._path], 0.0, 0.0, 0.0, 1.0]
        ASKED.append(values)
        return dict(zip(NAMES, values, strict=True))

    def send_feedback(self, feedback: dict) -> None:
        """Do nothing."""

    def disconnect(self) -> None:
        """End."""
        self._connected = False


def run(main, *arguments: str) -> None:
    """Run one of LeRobot's programs; print what was asked of the robot, or what went wrong."""
    robot = ("--robot.type=openvla_ros", f"--robot.profile={ROBOT}")
    sys.argv = ["lerobot", *robot, "--teleop.type=path", *arguments]
    try:
        main()
    except OpenVLARosError as error:
        print("\n" + json.dumps(f"{type(error).__name__}: {error}"))
        return
    print("\n" + json.dumps(ASKED))


def teleoperate(path: str, seconds: str, fps: str) -> None:
    """Run ``lerobot-teleoperate``."""
    run(lerobot_teleoperate.main, f"--teleop.path={path}", f"--fps={fps}", f"--teleop_time_s={seconds}")


def record(path: str, seconds: str, folder: str) -> None:
    """Run ``lerobot-record`` for one episode."""
    dataset = {
        "repo_id": "peers/circle", "root": f"{folder}_{time.time_ns()}", "single_task": "draw a circle",
        "fps": FPS, "num_episodes": 1, "episode_time_s": seconds, "video": "false", "push_to_hub": "false",
    }  # fmt: skip
    arguments = [f"--dataset.{key}={value}" for key, value in dataset.items()]
    run(lerobot_record.main, f"--teleop.path={path}", *arguments, "--play_sounds=false")


if __name__ == "__main__":
    {"teleoperate": teleoperate, "record": record}[sys.argv[1]](*sys.argv[2:])
