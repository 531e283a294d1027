"""Whether an arm's own software is there, and set up so that the arm may be moved through it."""
