"""Input devices turned into the robot's own action space."""
