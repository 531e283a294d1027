"""OpenVLA checkpoints as a LeRobot policy, ``--policy.type=openvla``.

LeRobot imports this package by its name, and finds policy and processors beside the configuration.
"""

from lerobot_policy_openvla.configuration_openvla import OpenVLAConfig

__all__ = ["OpenVLAConfig"]
