"""Rollouts: which releases answer an endpoint, and how that changes."""
