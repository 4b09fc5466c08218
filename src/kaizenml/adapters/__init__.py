"""Adapters: one file per engine, each behind a port."""
