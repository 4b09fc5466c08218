"""The command line: ``kaizen``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run ``kaizen`` with the process's arguments and leave with its exit code."""
    from kaizenml.cli.application import run

    sys.exit(run(sys.argv[1:]))
