"""Inference with a loaded checkpoint: images and words in, actions or text out."""
