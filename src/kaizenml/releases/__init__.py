"""Releases: immutable pins of model, data, features, code and libraries, with the evidence of their gates."""
