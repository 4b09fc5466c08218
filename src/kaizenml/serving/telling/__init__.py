"""What the data plane tells of itself: logs, traces, and the description of what can be asked."""
