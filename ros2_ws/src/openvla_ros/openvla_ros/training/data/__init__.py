"""From episodes to batches of tokens: frame cache, sampling, examples."""
