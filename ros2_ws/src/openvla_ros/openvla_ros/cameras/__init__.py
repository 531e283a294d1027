"""Image sources: devices and recordings behind one protocol; knows nothing of ROS."""
