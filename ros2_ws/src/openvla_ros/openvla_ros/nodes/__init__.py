"""The ROS 2 nodes, one executable a file: declare, convert, call the core, publish."""
