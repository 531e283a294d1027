"""Message types of packages that not every machine has: import them by name, or say what to install."""

from __future__ import annotations

import importlib
import os
from typing import Any

from openvla_ros.errors import MissingDependencyError

# Where a package comes from when apt is not the usual way.
ALSO = {
    "interbotix_xs_msgs": "; it is also in the workspace that Interbotix's installer builds",
    "franka_msgs": "; it is also in the franka_ros2 workspace",
}


def interface(name: str, needed_for: str) -> Any:
    """Return the class of an interface such as ``control_msgs/action/GripperCommand``.

    Raises ``MissingDependencyError`` with the apt package if it is not installed, or if the installed
    version lacks the interface.
    """
    package, kind, type_name = name.split("/")
    try:
        module = importlib.import_module(f"{package}.{kind}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != package:
            raise
        apt = f"ros-{os.environ.get('ROS_DISTRO', '$ROS_DISTRO')}-{package.replace('_', '-')}"
        raise MissingDependencyError(
            f"{needed_for} needs the message package {package}, which is not installed: "
            f"sudo apt install {apt}{ALSO.get(package, '')}"
        ) from error
    try:
        return getattr(module, type_name)
    except AttributeError as error:
        raise MissingDependencyError(
            f"{needed_for} needs {name}, which the installed version of {package} does not have"
        ) from error
