"""Recorded episodes: MCAP and rosbag2 files, written, read, resampled to steps."""
