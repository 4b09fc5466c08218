"""kaizenml: keep a model in production, right, explainable and getting better."""

__version__ = "0.1.0"
