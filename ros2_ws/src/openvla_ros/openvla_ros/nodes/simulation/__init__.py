"""What the simulation node is made of: its time, what it publishes, its tf."""
