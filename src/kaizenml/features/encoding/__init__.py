"""From a row to the vector of float32 that a model takes: one description, run over one row, over a request's rows, over a table."""
