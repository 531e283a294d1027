"""What the arm does in a control period: executes chunks, goes to a pose, stops, waits after a stall."""
