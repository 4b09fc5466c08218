"""Registry: models by name and number, and the runtimes that answer with them."""
