"""The simulated robots: MuJoCo behind the same topics as real ones."""
