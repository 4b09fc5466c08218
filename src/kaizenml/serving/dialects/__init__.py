"""The ways of asking that others made: Open Inference Protocol, SageMaker, MLflow, Vertex. Each becomes our own request.

A dialect reads a request into rows, lets the engine answer them as always (arm, fallback, journal, shadows), and writes
the answer in its own form. Hot path.
"""
