"""From a socket to a request and back: connections with their patience, turns, TLS, addresses."""
