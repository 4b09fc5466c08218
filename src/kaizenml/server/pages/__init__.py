"""One file per page of the console: what it shows, read through the rooms' operations."""
