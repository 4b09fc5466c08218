"""Demo: the flights of New York 2013, a year in production in two minutes."""
