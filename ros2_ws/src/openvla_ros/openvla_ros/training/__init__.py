"""Fine-tuning, and what makes it resumable."""
