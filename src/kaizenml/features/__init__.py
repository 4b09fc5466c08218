"""Features: what a model sees of a row, right in time, the same in training and serving."""
