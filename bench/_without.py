"""Our server with a part of it taken out, to see what the part costs. ``_without.py journal|counters BUNDLE STATE PORT``."""

from __future__ import annotations

import sys

from kaizenml.serving import __main__ as serving
from kaizenml.serving.journaling.journal import Journal
from kaizenml.serving.metrics import Counters

PARTS = {"journal": (Journal, ["append", "append_all"]), "counters": (Counters, ["add", "set", "time"])}


def _nothing(*_given: object) -> bool:
    """Stand where the part was, and say that all is well."""
    return True


if __name__ == "__main__":
    part, bundle, state, port = sys.argv[1:]
    owner, names = PARTS[part]
    for name in names:
        setattr(owner, name, _nothing)
    sys.exit(serving.main(["--bundle", bundle, "--state", state, "--port", port]))
