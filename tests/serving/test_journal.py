"""Ids and the journal: whole records or none, whatever happens to the writer or the disk."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaizenml.errors import Corrupt, StorageFull
from kaizenml.serving.ids import Ids, project_key, seconds_of
from kaizenml.serving.journaling import journal
from kaizenml.serving.journaling.journal import Journal


def _payloads(folder: Path) -> list[bytes | None]:
    return [found.payload for segment in journal.segments(folder) for found in journal.read(segment.path)]


@given(st.floats(0, 4e9), st.integers(1, 50))
def test_ids_are_unique_known_and_carry_their_second(at, count):
    ids = Ids(b"k" * 32)
    made = ids.make(at, count) + ids.make(at, count)
    assert len(set(made)) == 2 * count
    assert all(ids.known(text) and seconds_of(text) == int(at) and len(text) == 32 for text in made)
    other = Ids(b"x" * 32)
    assert not any(other.known(text) for text in made)


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0, 1, 1, 1, 2, 5, 100])), max_size=20))
def test_ids_asked_for_in_any_numbers_and_seconds_are_unique_and_in_order(asked):
    ids, made = Ids(b"k" * 32), []
    for at, count in asked:
        given = ids.make(at, count)
        assert [seconds_of(text) for text in given] == [at] * count
        made += given
    counted = [text[16:24] for text in made]
    assert counted == sorted(set(counted))
    assert all(map(ids.known, made))


def test_ids_that_had_a_hash_each_stay_known():
    assert Ids(b"k" * 32).known("6553f1000000002a00000007f80cc44c")


@pytest.mark.parametrize("text", ["", "x", "0" * 32, "A" * 32, "é" * 32, "0" * 33, "\0" * 32])
def test_an_id_of_nobody_is_unknown(text):
    assert not Ids(b"key").known(text)


def test_the_key_is_made_once_even_when_processes_race(tmp_path):
    script = "import sys; from pathlib import Path; from kaizenml.serving.ids import project_key; print(project_key(Path(sys.argv[1])).hex())"
    racing = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    keys = {process.communicate()[0] for process in racing}
    assert keys == {project_key(tmp_path).hex() + "\n"}
    assert [path.name for path in (tmp_path / "keys").iterdir()] == ["ids"]
    assert (tmp_path / "keys" / "ids").stat().st_mode & 0o077 == 0


@pytest.mark.slow
@settings(deadline=None)  # a disk takes the time it takes
@given(st.lists(st.binary(max_size=300), max_size=30), st.sampled_from([40, 500, 10**6]), st.sampled_from(["off", "tick", "request"]))
def test_records_come_back_in_order_across_rotations(tmp_path_factory, payloads, size, fsync):
    folder = tmp_path_factory.mktemp("journal")
    writer = Journal(folder, segment_bytes=size, fsync=fsync)
    for payload in payloads:
        writer.append(payload)
    writer.sync()
    assert _payloads(folder) == payloads
    writer.close()


def test_a_segment_is_finished_when_its_writer_leaves_it(tmp_path):
    writer = Journal(tmp_path, segment_bytes=100)
    for _ in range(5):
        writer.append(b"x" * 60)
    assert [segment.finished for segment in journal.segments(tmp_path)] == [True, True, False]
    writer.close()
    assert all(segment.finished for segment in journal.segments(tmp_path))


def test_a_segment_ends_by_age_too_also_when_nothing_comes_any_more(tmp_path):
    writer = Journal(tmp_path, segment_age_s=0.05)
    writer.append(b"a")
    writer.append(b"b")
    time.sleep(0.06)
    writer.append(b"c")
    assert [segment.finished for segment in journal.segments(tmp_path)] == [True, False]
    writer.turn()
    assert [segment.finished for segment in journal.segments(tmp_path)] == [True, False]  # not yet
    time.sleep(0.06)
    writer.turn()
    assert all(segment.finished for segment in journal.segments(tmp_path))
    writer.append(b"d")
    writer.close()
    assert _payloads(tmp_path) == [b"a", b"b", b"c", b"d"]


def test_syncing_from_another_thread_never_meets_a_segment_that_was_given_up(tmp_path):
    writer = Journal(tmp_path, segment_bytes=200, fsync="tick")
    wrong: list[Exception] = []
    ended = threading.Event()

    def sync() -> None:
        while not ended.is_set():
            try:
                writer.sync()
            except OSError as error:
                wrong.append(error)

    syncing = threading.Thread(target=sync)
    syncing.start()
    for number in range(60):
        writer.append(bytes([number % 256]) * 90)
    ended.set()
    syncing.join()
    writer.close()
    assert wrong == []
    assert len(_payloads(tmp_path)) == 60


@given(st.integers(0, 200))
def test_a_torn_tail_is_ignored_wherever_it_is_cut(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("journal")
    writer = Journal(folder)
    for number in range(5):
        writer.append(bytes([number]) * 40)
    writer.close()
    (segment,) = journal.segments(folder)
    whole = segment.path.read_bytes()
    segment.path.write_bytes(whole[: max(len(whole) - cut, 8)])
    found = _payloads(folder)
    assert found == [bytes([n]) * 40 for n in range(len(found))]
    assert len(found) == max(0, 5 - -(-cut // 48))


def test_a_record_that_rotted_is_told_and_the_next_ones_are_read(tmp_path):
    writer = Journal(tmp_path)
    for number in range(3):
        writer.append(bytes([number]) * 40)
    writer.close()
    (segment,) = journal.segments(tmp_path)
    raw = bytearray(segment.path.read_bytes())
    raw[8 + 48 + 20] ^= 1
    segment.path.write_bytes(raw)
    assert _payloads(tmp_path) == [b"\0" * 40, None, b"\2" * 40]


def test_a_file_that_is_no_segment_is_refused(tmp_path):
    (tmp_path / "x.journal").write_bytes(b"something else")
    with pytest.raises(Corrupt, match="not a journal segment"):
        _payloads(tmp_path)


def test_a_full_disk_leaves_no_half_record_and_the_journal_recovers(tmp_path):
    writer = Journal(tmp_path)
    writer.append(b"a" * 100)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # the kernel then writes a part, and refuses the rest
        with pytest.raises(StorageFull, match="not answered"):
            writer.append(b"b" * 5000)
        writer.append(b"c" * 100)
        assert not writer.append_all([b"e" * 100, b"f" * 5000])  # all or none, even where the first would fit
        assert writer.append_all([b"g" * 100, b"h" * 100])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    writer.append(b"d" * 5000)
    writer.close()
    assert _payloads(tmp_path) == [b"a" * 100, b"c" * 100, b"g" * 100, b"h" * 100, b"d" * 5000]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_device_without_room_says_so(tmp_path):
    writer = Journal(tmp_path)
    writer.append(b"a")
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, writer._handle)
    os.close(full)
    with pytest.raises(StorageFull):
        writer.append(b"b")
    writer.append(b"c")  # in a new segment: the old one could not be cut
    writer.close()
    assert _payloads(tmp_path) == [b"a", b"c"]


def test_a_killed_writer_leaves_whole_records_only(tmp_path):
    script = (
        "import sys; from pathlib import Path; from kaizenml.serving.journaling.journal import Journal\n"
        "j = Journal(Path(sys.argv[1]), segment_bytes=200_000); n = 0\n"
        "while True:\n    j.append(n.to_bytes(4, 'big') * 500); n += 1\n    print(n, flush=True)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while int(process.stdout.readline()) < 200:
        pass
    time.sleep(0.05)
    process.kill()
    told = process.communicate()[0].split()
    found = _payloads(tmp_path)
    assert len(found) >= int(told[-1] if told else 200)
    assert found == [n.to_bytes(4, "big") * 500 for n in range(len(found))]
    assert all(segment.finished for segment in journal.segments(tmp_path))
