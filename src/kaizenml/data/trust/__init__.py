"""Sources that are not believed: scanned for poison, and cut off from learning."""
