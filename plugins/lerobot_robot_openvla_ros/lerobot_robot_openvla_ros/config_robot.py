"""Which running robot LeRobot drives."""

from __future__ import annotations

from dataclasses import dataclass

from lerobot.robots import RobotConfig


@RobotConfig.register_subclass("openvla_ros")
@dataclass(kw_only=True)
class OpenVLARobotConfig(RobotConfig):
    """A robot that ``openvla up`` or the launch file has started."""

    profile: str = ""  # its robot profile: a name or a YAML file
    namespace: str = ""  # of its nodes
    use_sim_time: bool = False  # follow /clock
    timeout_s: float = 15.0  # how long its nodes may take to answer, seconds
