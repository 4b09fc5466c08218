"""Aggregates over the rows of an entity at a moment: one rule, for one entity and over whole columns, and the rows that are kept for it."""
