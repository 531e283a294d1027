"""Pre-training of the small model in simulation; only tools, benchmarks and tests import it."""
