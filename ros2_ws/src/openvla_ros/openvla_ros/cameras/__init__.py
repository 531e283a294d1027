"""Where images come from: devices and recordings behind one protocol; knows nothing of ROS."""
