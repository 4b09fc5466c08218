"""The counters' files: room is taken at the start, and counting goes on where there is none."""

from __future__ import annotations

import resource

from kaizenml.serving.metrics import Counters

SERIES = 'kaizen_requests_total{kind="predict",endpoint="shop",status="200"}'


def test_a_workers_file_has_all_its_room_from_the_start_and_is_continued(tmp_path):
    Counters(tmp_path, 0).add(SERIES, 2)
    (path,) = tmp_path.iterdir()
    about = path.stat()
    assert about.st_blocks * 512 >= about.st_size > 0  # a hole would be filled later, and without room end the process
    Counters(tmp_path, 1).add(SERIES, 5)
    again = Counters(tmp_path, 0)
    again.add(SERIES)
    assert f"{SERIES} 8\n" in again.render({})
    assert "kaizen_workers 2\n" in again.render({})


def test_counting_goes_on_where_the_disk_is_full(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # less than a file needs: said as a full disk is
    try:
        counters = Counters(tmp_path, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    counters.add(SERIES, 3)
    assert f"{SERIES} 3\n" in counters.render({})
    assert list(tmp_path.iterdir()) == []
