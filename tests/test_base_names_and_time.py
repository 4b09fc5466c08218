"""References and clocks."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaizenml.clock import SimulatedClock, SystemClock, format_duration, open_clock, parse_duration
from kaizenml.errors import UsageError
from kaizenml.refs import NAME, Ref, parse_ref


@given(st.from_regex(NAME, fullmatch=True), st.none() | st.integers(1, 999_999_999))
def test_a_reference_written_is_the_reference_read(name, number):
    assert parse_ref(str(Ref(name, number))) == Ref(name, number)


BAD = ["", "@1", "shop@", "shop@0", "shop@-1", "shop@1.5", "shop@١", "1shop", "../x", "a/b", "a b", "shop@1@2", "a" * 64, "shop\n"]


@pytest.mark.parametrize("text", BAD)
def test_what_could_leave_its_folder_is_no_reference(text):
    with pytest.raises(UsageError):
        parse_ref(text)


GOOD = [("90s", 90), ("5min", 300), ("5m", 300), ("1.5h", 5400), ("14d", 1_209_600), ("2w", 1_209_600), (" 10 ms ", 0.01)]


@pytest.mark.parametrize(("text", "seconds"), GOOD)
def test_durations_are_read(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "5 bananas", "-5s", "1e3s", "h"])
def test_what_is_no_duration_is_refused_with_examples(text):
    with pytest.raises(UsageError, match="90s"):
        parse_duration(text)


def test_durations_are_written_as_people_read_them():
    assert [format_duration(s) for s in (0.012, 1, 90, 5400, 86400 * 14)] == ["12 ms", "1 s", "1.5 min", "1.5 h", "14 d"]


def test_a_simulated_clock_stands_and_is_seen_by_other_processes(tmp_path, monkeypatch):
    start = datetime(2013, 4, 1, 12, tzinfo=UTC)
    clock = SimulatedClock(tmp_path / "clock", start)
    assert clock.now() == start
    clock.advance(timedelta(days=1))
    assert SimulatedClock(tmp_path / "clock").now() == start + timedelta(days=1)
    monkeypatch.setenv("KAIZEN_CLOCK", str(tmp_path / "clock"))
    code = "from kaizenml.clock import open_clock; print(open_clock().now().isoformat())"
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == "2013-04-02T12:00:00+00:00"
    held = open_clock()
    clock.set(start)
    assert held.now() == start


def test_the_machines_clock_is_the_default(monkeypatch):
    monkeypatch.delenv("KAIZEN_CLOCK", raising=False)
    assert isinstance(open_clock(), SystemClock)
    assert open_clock().now().tzinfo is UTC
