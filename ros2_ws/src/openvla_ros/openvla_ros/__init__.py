"""OpenVLA on ROS 2 arms: inference, safe control, recording, fine-tuning, redeployment.

The names below are the ones a script needs; each is imported on first use. ARCHITECTURE.md lists the
folders of the package, each of which imports only from those above it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openvla_ros.api import load_policy, open_dataset
    from openvla_ros.cameras.protocol import Camera
    from openvla_ros.data.training.mixture import open_mixture
    from openvla_ros.data.training.training_reader import TrainingReader
    from openvla_ros.drivers.protocol import ArmDriver
    from openvla_ros.errors import OpenVLARosError
    from openvla_ros.policy.protocol import Policy
    from openvla_ros.profile import RobotProfile, load_profile
    from openvla_ros.robot.controller import ArmController
    from openvla_ros.values.action import ActionChunk, ActionSpace
    from openvla_ros.values.episode import Episode
    from openvla_ros.values.observation import Observation

__version__ = "0.1.0"
__all__ = [
    "ActionChunk",
    "ActionSpace",
    "ArmController",
    "ArmDriver",
    "Camera",
    "Episode",
    "Observation",
    "OpenVLARosError",
    "Policy",
    "RobotProfile",
    "TrainingReader",
    "load_policy",
    "load_profile",
    "open_dataset",
    "open_mixture",
]

# The module of each name; imported on first use, so that ``import openvla_ros`` is cheap.
_MODULES = {
    "ActionChunk": "values.action",
    "ActionSpace": "values.action",
    "ArmController": "robot.controller",
    "ArmDriver": "drivers.protocol",
    "Camera": "cameras.protocol",
    "Episode": "values.episode",
    "Observation": "values.observation",
    "OpenVLARosError": "errors",
    "Policy": "policy.protocol",
    "RobotProfile": "profile",
    "TrainingReader": "data.training.training_reader",
    "load_policy": "api",
    "load_profile": "profile",
    "open_dataset": "api",
    "open_mixture": "data.training.mixture",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}; its public names are {', '.join(__all__)}"
        )
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names as well as whatever has been imported."""
    return sorted({*globals(), *__all__})
