"""Serving: the engine that answers, writes down every answer, and takes outcomes."""
