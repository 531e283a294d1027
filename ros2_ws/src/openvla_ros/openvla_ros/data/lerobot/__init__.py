"""LeRobot datasets, read and written without LeRobot, whoever edited them in between."""
