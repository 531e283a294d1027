"""The ROS 2 nodes, one executable per file: declare, convert, call the core, publish."""
