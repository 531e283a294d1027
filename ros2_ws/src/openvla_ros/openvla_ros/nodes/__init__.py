"""The ROS 2 nodes: declare, convert, call the core, publish. The only place that imports ROS."""
