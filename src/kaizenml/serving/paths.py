"""The paths of the data plane as templates: few and known, whatever is asked for. Hot path."""

from __future__ import annotations

import re
from functools import lru_cache

_NAMED = re.compile(r"(/predict|/outcomes|/features|/v2/models|/v2/repository/models|/endpoints)/([^/]+)(/.*|)")
_TAILS = {
    "/predict": {""}, "/outcomes": {""}, "/endpoints": {"/invocations"}, "/v2/repository/models": {"/load", "/unload"},
    "/v2/models": {"", "/ready", "/infer", "/versions/{version}", "/versions/{version}/ready", "/versions/{version}/infer"},
}  # fmt: skip
_VERSION = re.compile(r"/versions/[^/]+")
_FIXED = {
    "/health/live", "/health/ready", "/metrics", "/openapi.json", "/docs", "/ping", "/invocations", "/v2", "/v2/health/live", "/v2/health/ready",
    "/v2/repository/index",
}  # fmt: skip
OTHER = "other"


@lru_cache(2000)
def template(path: str) -> tuple[str, str]:
    """Return a path's template and the endpoint that it names; for a path that is none of ours ``other`` and nothing.

    >>> template("/v2/models/shop/versions/3/infer")
    ('/v2/models/{endpoint}/versions/{version}/infer', 'shop')
    """
    if path in _FIXED:
        return path, ""
    found = _NAMED.fullmatch(path.rstrip("/"))
    if found is None:
        return OTHER, ""
    head, name, tail = found.groups()
    if head == "/features":
        return ("/features/{view}", "") if not tail else (OTHER, "")
    tail = _VERSION.sub("/versions/{version}", tail)
    return (f"{head}/{{endpoint}}{tail}", name) if tail in _TAILS[head] else (OTHER, "")
