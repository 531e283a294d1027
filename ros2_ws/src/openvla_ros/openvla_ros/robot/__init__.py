"""The robot side of the path: kinematics, composition, limits, safety, trajectory. No ROS, no torch."""
