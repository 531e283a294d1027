"""What the controller node is made of: threads on time, a stop that goes first, verdicts, drivers, health."""
