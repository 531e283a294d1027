"""Any rosbag2 recording, whoever made it, cut into recorded episodes of this package."""
