"""A source is cut off, and everything that it went into is found."""
