"""Live recording: queues, alarms, quality, and the sequence of a session."""
