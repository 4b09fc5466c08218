"""Scratch folders: gone with their process, however it ended; those of the living stay."""

from __future__ import annotations

import subprocess
import sys

from kaizenml.scratch import Scratch

HOLD = """
import pathlib, sys
from kaizenml.scratch import Scratch
folder = Scratch(pathlib.Path(sys.argv[1]), "work-")
(folder.path / "rows").write_text("1,2")
print(folder.path.name, flush=True)
sys.stdin.read()
"""


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_uses_is_not(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    killed, living = (subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2))
    try:
        left, used = (process.stdout.readline().strip() for process in (killed, living))
        killed.kill()
        killed.communicate()
        (tmp_path / "work-not-a-folder").write_text("")
        (tmp_path / "other").mkdir()
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([left, used, "work-not-a-folder", "other"])
        with Scratch(tmp_path, "work-") as mine:
            assert sorted(path.name for path in tmp_path.iterdir()) == sorted([mine.name, used, "work-not-a-folder", "other"])
            assert (tmp_path / used / "rows").read_text() == "1,2"
        assert not mine.exists()
    finally:
        living.kill()
        living.communicate()


def test_a_folder_goes_also_when_the_work_failed_or_moved_it(tmp_path):
    try:
        with Scratch(tmp_path / "deep" / "er", ".", ".new") as folder:
            (folder / "half").mkdir()
            raise ZeroDivisionError
    except ZeroDivisionError:
        assert list((tmp_path / "deep" / "er").iterdir()) == []
    with Scratch(tmp_path, "work-") as folder:
        folder.rename(tmp_path / "kept")
    assert (tmp_path / "kept").is_dir()
