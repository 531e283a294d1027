"""From a prompt to action tokens: the greedy reference and the decoders on an engine."""
