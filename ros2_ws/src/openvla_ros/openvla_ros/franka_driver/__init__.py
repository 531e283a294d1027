"""The driver of a Franka arm through franky: references from setpoints, stops, recovery, the hand; no ROS."""
