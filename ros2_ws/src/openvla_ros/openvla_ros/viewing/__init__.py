"""What a viewer shows of a robot or a recording, and the viewers that show it: rerun and Foxglove."""
