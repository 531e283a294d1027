"""Action decoding: the greedy reference decoder, and the fast decoders on an engine."""
