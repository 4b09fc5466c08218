"""Monitoring: profiles, drift, live accuracy, and the diagnosis of what went wrong."""
