"""Processes to be killed: forked from one that has imported what they need, so that they die in their work and not in their imports."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_PARENT = """
import os, sys, traceback
imports, work = sys.argv[1:3]
sys.argv[1:3] = []
exec(imports)
code = compile(work, "work", "exec")
print("ready", flush=True)
for _ in sys.stdin:
    child = os.fork()
    if not child:
        try:
            exec(code)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Forked:
    """One process at a time that does the work."""

    def __init__(self, parent: subprocess.Popen[bytes]) -> None:
        assert parent.stdin is not None
        assert parent.stdout is not None
        self._orders, self._news = parent.stdin, parent.stdout
        self._pid = 0

    def start(self) -> None:
        self._orders.write(b"go\n")
        self._orders.flush()
        self._pid = int(self._news.readline())

    def wait(self, seconds: float = 60.0) -> int | None:
        """Return the exit code, or None when it still works after so long."""
        ready, _, _ = select.select([self._news], [], [], seconds)
        return int(self._news.readline()) if ready else None

    def kill(self) -> None:
        """Kill it, unless it ended just now."""
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        self._news.readline()


@contextmanager
def forked(imports: str, work: str, *arguments: str, **environ: str) -> Iterator[Forked]:
    """Import once; ``work`` (which sees the imports, and the arguments from ``sys.argv[1]``) is done by each process started."""
    command = [sys.executable, "-c", _PARENT, imports, work, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **environ}) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        yield Forked(parent)
        assert parent.stdin is not None
        parent.stdin.close()
