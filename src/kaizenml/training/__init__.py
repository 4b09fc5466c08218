"""Training: from a frame to a model and the board it was chosen from."""
