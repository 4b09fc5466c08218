"""From a socket to a request and back: connections and their limits, turns, TLS, and who may come in."""
