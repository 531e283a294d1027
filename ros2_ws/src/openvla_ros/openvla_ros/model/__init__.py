"""The network itself: towers, projector, language model, checkpoints, decoding. Plain torch; no ROS."""
