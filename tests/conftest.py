"""What all tests share: one thread for each process, because the tests' processes are the parallelism."""

from __future__ import annotations

import os

# OpenMP's threads wait by spinning: two processes of two threads on two cores took many times as long as four processes of
# one. Child processes inherit it. Said before anything loads the library.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

pytest_plugins = ["engines"]
