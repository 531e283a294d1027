"""A running robot of openvla_ros as a LeRobot robot, ``--robot.type=openvla_ros``.

LeRobot imports this package by its name, and looks here for the class that belongs to the configuration.
"""

from lerobot_robot_openvla_ros.config_robot import OpenVLARobotConfig
from lerobot_robot_openvla_ros.robot import OpenVLARobot

__all__ = ["OpenVLARobot", "OpenVLARobotConfig"]
