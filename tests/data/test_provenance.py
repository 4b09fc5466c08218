"""Each row keeps the source it came from; rows from before that count as the first source's."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pyarrow as pa
import pytest
import sqlalchemy as sa
from alembic import command

from kaizenml import events, migrations
from kaizenml.context import Context
from kaizenml.data import contract, hashing, operations, tables
from kaizenml.data.dataset import DatasetVersion
from kaizenml.errors import InvalidData, UsageError
from kaizenml.project import open_project


def rows(*ids: int | str | None) -> pa.Table:
    return pa.table({"id": list(ids), "x": [0.5] * len(ids)})


def sources_of(ctx: Context, ref: str) -> list[str]:
    return tables.read(ctx, ref, ["id", "_source"])["_source"].to_pylist()


def test_rows_are_of_the_first_source_until_another_is_named(ctx: Context):
    (ctx.root / "orders.csv").write_text("id,x\n1,0.5\n")
    operations.add(ctx, "orders", "orders.csv")
    operations.add(ctx, "orders", table=rows(2, 3), source_name="feed 7", trust="public")
    newest = operations.add(ctx, "orders", table=rows(4))
    assert sources_of(ctx, "orders") == ["main", "feed 7", "feed 7", "main"]
    assert newest.sources == {"main": 2, "feed 7": 2}
    dataset = operations.list(ctx)[0]
    assert [(source.name, source.location, source.trust) for source in dataset.sources] == [
        ("main", "orders.csv", "internal"), ("feed 7", "python", "public"),
    ]  # fmt: skip
    assert dataset.trust == "public", "a dataset is trusted as far as the least trusted of its sources"
    with ctx.catalog.read() as connection:
        assert [event.data["sources"] for event in events.read(connection)][-2:] == [{"feed 7": 2}, {"main": 1}]
    for number in (1, 2, 3):
        tables.verify(ctx, f"orders@{number}")


def test_the_source_is_no_column_of_the_contract_and_not_read_unless_asked_for(ctx: Context):
    version = operations.add(ctx, "orders", table=rows(1), source_name="feed7")
    assert "_source" not in version.columns
    assert "_source" not in tables.read(ctx, "orders").column_names
    assert tables.read(ctx, "orders", ["_source"]).to_pylist() == [{"_source": "feed7"}]
    with pytest.raises(InvalidData, match="kept for kaizenml"):
        operations.add(ctx, "orders", table=pa.table({"id": [1], "_source": ["other"]}))


def test_a_column_can_say_which_source_each_row_came_from(ctx: Context):
    table = rows(*range(12), 1).append_column("feed", pa.array(["a"] * 10 + [None, "b", "b"]))
    version = operations.add(ctx, "orders", table=table, key="id", source_column="feed", source_name="rest", trust="partner")
    assert sources_of(ctx, "orders") == ["a"] * 10 + ["rest", "b"]
    assert version.sources == {"a": 10, "rest": 1, "b": 1}
    assert [row["_source"] for row in operations.quarantine(ctx, "orders").samples] == ["b"], "rows in quarantine keep theirs too"
    assert {source.trust for source in operations.list(ctx)[0].sources} == {"partner"}


def test_the_trust_of_one_source_can_be_changed_and_leaves_the_others(ctx: Context):
    operations.add(ctx, "orders", table=rows(1))
    operations.add(ctx, "orders", table=rows(2), source_name="feed", trust="public")
    operations.add(ctx, "orders", table=rows(3), source_name="feed", trust="internal")
    dataset = operations.list(ctx)[0]
    assert (dataset.trust, [source.trust for source in dataset.sources]) == ("internal", ["internal", "internal"])


def test_a_version_that_starts_over_counts_only_its_own_rows(ctx: Context):
    operations.add(ctx, "orders", table=rows(1, 2))
    assert operations.add(ctx, "orders", table=rows(3), source_name="feed", mode="replace").sources == {"feed": 1}


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"source_column": "fed"}, InvalidData, "did you mean 'feed'"),
        ({"source_column": "id"}, InvalidData, "does not name sources: it has 1,001 values"),
        ({"source_name": " "}, UsageError, "no name for a source"),
        ({"source_name": "a\nb"}, UsageError, "no name for a source"),
    ],
)
def test_what_cannot_name_a_source_is_refused(ctx: Context, arguments, error, match):
    table = rows(*range(1001)).append_column("feed", pa.array(["a"] * 1001))
    with pytest.raises(error, match=match) as caught:
        operations.add(ctx, "orders", table=table, **arguments)
    assert caught.value.remedy
    assert operations.list(ctx) == []


def test_rows_from_before_rows_had_a_source_count_as_the_first_ones(root: Path):
    table = rows(1, 2)
    state = root / ".kaizen"
    state.mkdir()
    columns = {"id": "integer", "x": "number"}
    version = DatasetVersion(
        dataset="old", number=1, parts=[1], rows=2, hash=hashing.version_hash(columns, [hashing.content_hash(table)]), columns=columns,
        source="old.csv", quarantined=0, code=None, created_at=1.0,
    )  # fmt: skip
    engine = sa.create_engine(f"sqlite:///{state / 'catalog.db'}")
    with engine.begin() as connection:
        command.upgrade(migrations.config(connection), "0002")
        promise = msgspec.json.encode(contract.infer(table))
        connection.execute(sa.text("INSERT INTO datasets VALUES ('old', :contract, 'old.csv', 'partner', 1.0)"), {"contract": promise})
        body = msgspec.json.encode({name: value for name, value in msgspec.to_builtins(version).items() if name != "sources"})
        part = {"hash": hashing.content_hash(table), "columns": msgspec.json.encode(table.column_names), "body": body}
        connection.execute(sa.text("INSERT INTO dataset_versions VALUES ('old', 1, :hash, :columns, NULL, :body)"), part)
    engine.dispose()
    tables.append_part(state / "data" / "old", table, 1)
    ctx = open_project(root, actor="test")
    assert [(source.name, source.location, source.trust) for source in operations.list(ctx)[0].sources] == [("main", "old.csv", "partner")]
    assert sources_of(ctx, "old") == ["main", "main"]
    tables.verify(ctx, "old@1")
    assert operations.add(ctx, "old", table=rows(3), source_name="feed").sources == {"main": 2, "feed": 1}
    assert sources_of(ctx, "old") == ["main", "main", "feed"]
    assert sources_of(ctx, "old@1") == ["main", "main"]
    tables.verify(ctx, "old@1")
    tables.verify(ctx, "old@2")
    ctx.online.close()
    ctx.catalog.close()
