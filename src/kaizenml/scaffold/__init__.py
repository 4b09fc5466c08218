"""A new project from a table: what is guessed, and the files that are written."""
