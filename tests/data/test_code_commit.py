from __future__ import annotations

import subprocess

import pytest

from kaizenml.code import commit


def git(folder, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def test_no_commit_outside_a_repository_or_before_the_first_one(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert commit(tmp_path) is None
    git(tmp_path, "init", "-q")
    assert commit(tmp_path) is None
    assert commit(tmp_path / "nowhere") is None


@pytest.mark.parametrize("inside", [".", "project"])
def test_the_commit_is_named_and_changes_make_it_dirty(tmp_path, monkeypatch, inside):
    git(tmp_path, "init", "-q")
    (tmp_path / inside).mkdir(exist_ok=True)
    (tmp_path / inside / "a").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "x")
    head = git(tmp_path, "rev-parse", "HEAD")
    # what a git hook exports must not lead elsewhere
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert commit(tmp_path / inside) == head
    (tmp_path / inside / "untracked").write_text("1")
    assert commit(tmp_path / inside) == head
    (tmp_path / inside / "a").write_text("2")
    assert commit(tmp_path / inside) == f"{head}-dirty"
