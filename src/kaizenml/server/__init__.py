"""Server: the control plane, every operation over HTTP, and the console."""
