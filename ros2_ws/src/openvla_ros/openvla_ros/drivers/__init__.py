"""The drivers of arms and grippers: commands in, a robot's own messages and actions out."""
