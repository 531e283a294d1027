"""Conversion of pickled checkpoints to safetensors."""
