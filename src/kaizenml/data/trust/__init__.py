"""Sources that are not believed: their rows are scanned for poison."""
