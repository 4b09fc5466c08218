"""Rates: never more than was allowed, never less than was promised, over any number of processes."""

from __future__ import annotations

import math
import struct
import subprocess
import sys
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kaizenml.access import buckets
from kaizenml.access.buckets import Buckets, take

RATES = st.floats(0.01, 1e5)
GAPS = st.lists(st.floats(0, 20), min_size=1, max_size=60)


@given(RATES, st.floats(0, 1e7), GAPS)
def test_in_any_stretch_of_time_no_more_is_taken_than_the_rate_and_one_bucketful(rate, now, gaps):
    full_at, taken = -1.0, []
    for gap in gaps:
        now += gap / rate
        full_at, wait = take(full_at, rate, now)
        if not wait:
            taken.append(now)
    for first, begun in enumerate(taken):
        for last in range(first, len(taken)):
            assert last - first + 1 <= max(rate, 1.0) + rate * (taken[last] - begun) + 1e-3


@given(RATES, st.floats(0, 1e7), st.lists(st.floats(1.000001, 5), max_size=60))
def test_who_asks_no_faster_than_the_rate_is_never_refused(rate, now, gaps):
    full_at = -1.0
    for gap in [0.0, *gaps]:
        now += gap / rate
        full_at, wait = take(full_at, rate, now)
        assert wait == 0


@given(st.floats(0.01, 300), st.floats(0, 1e6))
def test_who_waits_as_long_as_is_said_is_let_in(rate, now):
    full_at, wait = take(-1.0, rate, now)
    while not wait:
        full_at, wait = take(full_at, rate, now)
    assert 0 < wait <= 1 / rate + 1e-6
    assert take(full_at, rate, now + wait + 1e-6)[1] == 0
    assert take(full_at, rate, now + wait / 2)[1] == pytest.approx(wait / 2, abs=1e-6)


@given(st.floats(), RATES, st.floats(0, 1e7))
@example(math.nan, 1.0, 5.0)
@example(math.inf, 1.0, 5.0)
def test_whatever_stands_in_the_file_nobody_is_locked_out_for_longer_than_one_request_takes(found, rate, now):
    full_at, wait = take(found, rate, now)
    assert now <= full_at <= now + max(rate, 1.0) / rate + 1 + 1e-6
    assert 0 <= wait <= 1 / rate + 1 + 1e-6


TAKING = """
import sys, time
from pathlib import Path
from kaizenml.access.buckets import Buckets
found, taken, ends = Buckets(Path(sys.argv[1])), 0, float(sys.argv[2])
while time.monotonic() < ends:
    taken += found.take("abc00000", 300.0, time.monotonic()) == 0
print(taken)
"""


@pytest.mark.slow
def test_processes_share_one_bucket_to_the_request(tmp_path):
    path = tmp_path / "rates"
    begun = time.monotonic()
    ends = begun + 1.5
    takers = [subprocess.Popen([sys.executable, "-c", TAKING, str(path), str(ends)], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    taken = sum(int(taker.communicate()[0]) for taker in takers)
    assert taken <= 300 + 300 * (ends - begun) + 1
    assert taken >= 300  # the bucketful at least, however late they began


def test_a_file_of_another_length_is_mended_and_buckets_are_apart(tmp_path):
    path = tmp_path / "rates"
    path.write_bytes(b"x")
    found = Buckets(path)
    assert path.stat().st_size == buckets.SLOTS * 8
    assert found.take("00100000", 1.0, 10.0) == 0
    assert found.take("00100000", 1.0, 10.0) == pytest.approx(1.0)
    assert found.take("00200000", 1.0, 10.0) == 0
    assert Buckets(path).take("00100000", 1.0, 10.5) == pytest.approx(0.5)
    assert struct.unpack_from("<d", path.read_bytes(), 8)[0] == pytest.approx(11.0)
