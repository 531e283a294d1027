"""Pickled checkpoints rewritten as safetensors."""
