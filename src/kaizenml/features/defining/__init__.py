"""Defining features: views and derived features in Python or in kaizen.toml, and the expressions that derived features are kept as."""
