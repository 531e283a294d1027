"""Resumable fine-tuning."""
