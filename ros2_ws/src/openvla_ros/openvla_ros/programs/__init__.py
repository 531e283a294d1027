"""Programs that talk to nodes from outside, over DDS only."""
