"""What the data plane tells of itself: counts, logs, traces, and the description of what can be asked."""
