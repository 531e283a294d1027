"""Recording as it happens: queues, alarms, quality, and the order of a session."""
