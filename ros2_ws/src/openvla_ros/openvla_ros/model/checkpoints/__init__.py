"""Weights on disk: checkpoints, LoRA adapters, merging."""
