"""Where pictures come from: devices and recordings behind one protocol. Knows nothing of ROS."""
