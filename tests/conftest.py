"""What all tests share: one thread for each process, because the tests' processes are the parallelism."""

from __future__ import annotations

import os

from hypothesis import settings

# OpenMP's threads wait by spinning: two processes of two threads on two cores took many times as long as four processes of
# one. Child processes inherit it. Said before anything loads the library.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

# how long an example takes says more about what else the machine does than about the code
settings.register_profile("calm", deadline=None)
settings.load_profile("calm")

pytest_plugins = ["engines"]
