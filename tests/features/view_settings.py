"""A project with a timed and a timeless view."""

TOML = """
[project]
name = "flights"

[task]
dataset = "flights"
target = "late"
time = "time_hour"
asked_before = "1h"

[features.weather]
dataset = "weather"
entity = "origin"
columns = ["temp", "sky", "gusts", "seen"]
at = "at"
ttl = "3h"

[features.planes]
dataset = "planes"
entity = "tailnum"
columns = ["seats"]
"""
