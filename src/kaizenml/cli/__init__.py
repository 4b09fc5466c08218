"""The command line: ``kaizen``."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys


def main() -> None:
    """Run ``kaizen`` with the process's arguments and leave with its exit code."""
    from kaizenml.cli.application import run

    code = run(sys.argv[1:])
    if "deltalake.fs" in sys.modules:
        # Arrow's threads read files through this Python class, and may let go of one only when the interpreter is ending: the process
        # then aborts, after all work was done. So it does not end the interpreter.
        atexit._run_exitfuncs()
        _flush()
        os._exit(code)
    sys.exit(code)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
            stream.flush()
