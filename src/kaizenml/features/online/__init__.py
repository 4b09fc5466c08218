"""Features for requests: rows pushed and streamed in, the online store filled out of the datasets, read, and compared with offline."""
