"""Columns that tell of persons: found, decided on, and hidden before a row is stored."""
