"""Folders in an object store: known by the hashes of their files, fetched whole or not at all, and gone when they are to be forgotten."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines import S3
from kaizenml.context import Context
from kaizenml.errors import Corrupt, Unavailable
from kaizenml.project import open_project
from kaizenml.registry import files, objects

pytestmark = pytest.mark.slow


@pytest.fixture
def ctx(tmp_path: Path, s3: S3) -> Iterator[Context]:
    pytest.importorskip("obstore", reason="obstore is not installed: pip install 'kaizenml[s3]'")
    (tmp_path / "kaizen.toml").write_text(f'[project]\nname = "shop"\nobjects = "{s3.url}/shop"\n')
    ctx = open_project(tmp_path)
    yield ctx
    ctx.catalog.close()


@pytest.fixture
def folder(ctx: Context) -> Path:
    made = ctx.state / "models" / "shop" / "1"
    (made / "deep").mkdir(parents=True)
    (made / "a").write_bytes(b"alpha" * 500_000)
    (made / "deep" / "b c").write_bytes(b"")
    objects.keep(ctx, made)
    return made


def test_a_folder_comes_back_as_it_was(ctx: Context, folder: Path):
    known = files.hash_files(folder)
    shutil.rmtree(folder)
    assert objects.fetch(ctx, folder, digest=files.hash_of(known))
    assert files.hash_files(folder) == known


def test_what_is_not_there_or_changed_leaves_no_folder(ctx: Context, folder: Path):
    known = files.hash_files(folder)
    shutil.rmtree(folder)
    assert not objects.fetch(ctx, folder, digest="0" * 64)
    objects._client().put(objects._store(ctx), f"files/{known['a']}", b"changed by somebody")
    with pytest.raises(Corrupt, match="not what its name says"):
        objects.fetch(ctx, folder, known=known)
    assert [path.name for path in folder.parent.iterdir()] == []


def test_what_is_forgotten_is_gone_from_the_store_and_the_rest_stays(ctx: Context, folder: Path, tmp_path: Path):
    before = files.hash_files(folder)
    fresh = tmp_path / "fresh"
    shutil.copytree(folder, fresh)
    (fresh / "a").write_bytes(b"without")
    for _ in range(2):  # one who was killed calls it again
        objects.replace(ctx, folder, fresh)
    store = objects._store(ctx)
    assert not objects._has(store, f"files/{before['a']}")
    assert not objects._has(store, f"lists/{files.hash_of(before)}")
    shutil.rmtree(folder)
    assert objects.fetch(ctx, folder, digest=files.hash_of(files.hash_files(fresh)))
    assert files.hash_files(folder) == files.hash_files(fresh)


def test_a_server_that_is_away_is_told(ctx: Context, folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match="object store"):
        objects.keep(ctx, folder)
