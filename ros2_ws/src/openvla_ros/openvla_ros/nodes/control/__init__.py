"""What keeps the control threads on time and lets a stop go first."""
