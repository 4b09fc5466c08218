"""Sources in the object stores of Google and Azure: read by the same way as those on S3, with what the vendors' own variables say."""

from __future__ import annotations

import pytest

from kaizenml.context import Context
from kaizenml.data import operations, tables
from kaizenml.data.intake import object_stores
from kaizenml.errors import KaizenError, NotFound, UsageError


def put(folder: str, name: str, text: str) -> None:
    filesystem, path = object_stores.store_of(f"{folder}/{name}", folder)
    with filesystem.open_output_stream(path) as file:
        file.write(text.encode())


@pytest.mark.slow
@pytest.mark.parametrize("store", ["google", "azure"])
def test_files_of_a_bucket_are_added_and_new_ones_taken_later(ctx: Context, store: str, request: pytest.FixtureRequest):
    bucket = request.getfixturevalue(store)
    if store == "azure":
        filesystem, path = object_stores.store_of(bucket, bucket)
        filesystem.create_dir(path)
    put(bucket, "days/a.csv", "id,x\n1,0.5\n2,1.5\n")
    put(bucket, "days/b.csv", "id,x\n3,2.5\n")
    put(bucket, "other.jsonl", '{"id": 9, "x": 1.0}\n')
    assert operations.add(ctx, "t", f"{bucket}/days", key="id").rows == 3
    assert operations.refresh(ctx, "t").said == "nothing is new"
    put(bucket, "days/c.csv", "id,x\n4,3.5\n")
    taken = operations.refresh(ctx, "t")
    assert (taken.new, taken.version) == (1, "t@2")
    assert sorted(tables.read(ctx, "t")["id"].to_pylist()) == [1, 2, 3, 4]
    assert operations.add(ctx, "u", f"{bucket}/other.jsonl").source == f"{bucket}/other.jsonl"
    with pytest.raises(NotFound, match="there is no file"):
        operations.add(ctx, "v", f"{bucket}/none.csv")


def test_without_a_storage_account_it_is_asked_for(ctx: Context, monkeypatch: pytest.MonkeyPatch):
    for name in ("AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="needs the name of the storage account"):
        operations.add(ctx, "t", "az://box/rows.csv")
    filesystem, path = object_stores.store_of("abfss://box@shop.dfs.core.windows.net/days/", "")
    assert (filesystem.type_name, path) == ("abfs", "box/days")


@pytest.mark.slow
def test_a_store_that_does_not_answer_is_told(ctx: Context, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(object_stores, "_TRIED", object_stores.timedelta(seconds=1))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    with pytest.raises(KaizenError, match=r"gs://box/rows\.csv"):
        operations.add(ctx, "t", "gs://box/rows.csv")
