"""Data: tables with a contract and an immutable, numbered history."""
