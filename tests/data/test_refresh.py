"""Sources of every kind, and taking what is new from them: each file and row once."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from kaizenml import events
from kaizenml.context import Context
from kaizenml.data import operations, tables
from kaizenml.errors import Conflict, InvalidData, NotFound, UsageError
from kaizenml.project import open_project


def csv(path: Path, *ids: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("id,x\n" + "".join(f"{one},0.5\n" for one in ids))
    return path


def ids(ctx: Context, ref: str = "t") -> list[int]:
    return tables.read(ctx, ref, ["id"])["id"].to_pylist()


@pytest.mark.parametrize("location", ["feed", "feed/*.csv", "feed/**/*.csv"])
def test_of_a_folder_or_glob_only_new_files_are_taken(ctx: Context, location: str):
    csv(ctx.root / "feed" / "a.csv", 1, 2)
    csv(ctx.root / "feed" / ".hidden.csv", 99)
    (ctx.root / "feed" / "readme.md").write_text("no rows")
    operations.add(ctx, "t", location if "*" not in location else str(ctx.root / location))
    assert operations.refresh(ctx, "t").version is None
    csv(ctx.root / "feed" / "b.csv", 3)
    taken = operations.refresh(ctx, "t")
    assert (taken.version, taken.new, taken.changed) == ("t@2", 1, [])
    csv(ctx.root / "feed" / "a.csv", 1, 2, 7)
    again = operations.refresh(ctx, "t")
    assert (again.version, again.changed) == (None, ["feed/a.csv"]), "a file that was taken and changed is told, not taken twice"
    assert sorted(value for value in ids(ctx) if value != 99) == [1, 2, 3]


def test_a_token_takes_once(ctx: Context):
    csv(ctx.root / "feed" / "a.csv", 1)
    operations.add(ctx, "t", "feed")
    csv(ctx.root / "feed" / "b.csv", 2)
    first = operations.refresh(ctx, "t", once="night-1")
    csv(ctx.root / "feed" / "c.csv", 3)
    assert operations.refresh(ctx, "t", once="night-1").version == first.version == "t@2"
    assert operations.refresh(ctx, "t", once="night-2").version == "t@3"


def test_a_single_file_that_is_another_one_takes_the_place_of_the_old(ctx: Context):
    path = csv(ctx.root / "rows.csv", 1)
    operations.add(ctx, "t", "rows.csv")
    assert operations.refresh(ctx, "t").said == "nothing is new"
    csv(path, 1, 2)
    assert operations.refresh(ctx, "t").version == "t@2"
    assert ids(ctx) == [1, 2]
    operations.add(ctx, "t", table=pa.table({"id": [3], "x": [0.5]}), source_name="feedback")
    csv(path, 5, 6, 7)
    with pytest.raises(Conflict, match="has rows of feedback too"):
        operations.refresh(ctx, "t")


def test_the_tasks_source_is_refreshed_though_it_was_never_added(root: Path):
    (root / "kaizen.toml").write_text('[project]\nname = "shop"\n[task]\ndataset = "t"\ntarget = "x"\nsource = "rows.csv"\n')
    csv(root / "rows.csv", 1)
    ctx = open_project(root)
    assert [operations.refresh(ctx, "t").version for _ in range(2)] == ["t@1", None]
    with pytest.raises(NotFound):
        operations.refresh(ctx, "other")
    ctx.online.close()
    ctx.catalog.close()


def test_what_was_never_taken_from_anywhere_cannot_be_refreshed(ctx: Context):
    operations.add(ctx, "t", table=pa.table({"id": [1]}))
    with pytest.raises(NotFound, match="nothing says where"):
        operations.refresh(ctx, "t")


def sqlite_of(path: Path, *ids: int) -> str:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS orders (id INTEGER, note TEXT, x REAL)")
        connection.executemany("INSERT INTO orders VALUES (?, 'a:b', ?)", [(one, one / 2) for one in ids])
    connection.close()
    return f"sqlite:///{path}"


def incremental(ctx: Context, url: str, more) -> None:
    query = "SELECT id, note, x FROM orders WHERE note = 'a:b'"
    operations.add(ctx, "t", url, query=query, cursor="id", key="id")
    assert operations.refresh(ctx, "t").version is None
    more()
    taken = operations.refresh(ctx, "t")
    assert (taken.version, taken.new) == ("t@2", 2)
    assert ids(ctx) == [1, 2, 3, 4]
    assert operations.refresh(ctx, "t").version is None


def test_rows_of_a_query_come_by_their_cursor(ctx: Context):
    url = sqlite_of(ctx.root / "shop.db", 2, 1)
    incremental(ctx, url, lambda: sqlite_of(ctx.root / "shop.db", 4, 3))


def test_a_file_of_sqlite_is_found_again_from_anywhere_and_never_made(ctx: Context, monkeypatch):
    sqlite_of(ctx.root / "shop.db", 1)
    (ctx.root / "inside").mkdir()
    monkeypatch.chdir(ctx.root)
    operations.add(ctx, "t", "sqlite:///shop.db", query="orders", cursor="id")
    monkeypatch.chdir(ctx.root / "inside")
    operations.add(ctx, "u", "sqlite:///../shop.db", query="orders", cursor="id")
    sqlite_of(ctx.root / "shop.db", 2)
    monkeypatch.chdir("/")
    assert [operations.refresh(ctx, name).new for name in ("t", "u")] == [1, 1]
    monkeypatch.chdir(ctx.root)
    with pytest.raises(NotFound, match="no file shp"):
        operations.add(ctx, "v", "sqlite:///shp.db", query="orders")
    assert not (ctx.root / "shp.db").exists()


def test_a_query_without_a_cursor_makes_a_version_only_when_it_gives_other_rows(ctx: Context):
    url = sqlite_of(ctx.root / "shop.db", 1)
    operations.add(ctx, "t", url, query="orders")
    assert operations.refresh(ctx, "t").version is None
    sqlite_of(ctx.root / "shop.db", 2)
    assert (operations.refresh(ctx, "t").version, ids(ctx)) == ("t@2", [1, 2])
    tables.verify(ctx, "t")


@pytest.mark.slow
def test_rows_of_postgres_come_by_their_cursor(ctx: Context, postgres: str):
    import sqlalchemy as sa

    engine = sa.create_engine(postgres)

    def more(*values: int) -> None:
        with engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE IF NOT EXISTS orders (id bigint, note text, x numeric)"))
            for value in values:
                connection.execute(sa.text("INSERT INTO orders VALUES (:id, :note, 1.25)"), {"id": value, "note": "a:b"})

    more(1, 2)
    incremental(ctx, postgres, lambda: more(3, 4))
    engine.dispose()


@pytest.mark.parametrize(
    ("url", "query", "error", "match"),
    [
        ("sqlite:///{db}", "SELECT prize FROM orders", InvalidData, "no such column: prize"),
        ("sqlite:///{db}", "SELECT id FROM orders WHERE id > 99", InvalidData, "gives no rows"),
        ("nosuch://x", "orders", UsageError, "no database 'nosuch'"),
        ("postgresql+psycopg://user:s3cr3t@127.0.0.1:9/x", "orders", UsageError, r"user:\*\*\*@127"),
        ("postgresql+psycopg://user:${{NO_SUCH}}@127.0.0.1:9/x", "orders", UsageError, "no NO_SUCH"),
    ],
)
def test_what_is_wrong_with_a_query_is_told_without_its_secrets(ctx: Context, url: str, query: str, error: type, match: str):
    sqlite_of(ctx.root / "shop.db", 1)
    with pytest.raises(error, match=match) as caught:
        operations.add(ctx, "t", url.format(db=ctx.root / "shop.db"), query=query)
    assert "s3cr3t" not in f"{caught.value} {caught.value.values}"


def test_a_secret_from_the_environment_is_nowhere_recorded(ctx: Context, monkeypatch):
    monkeypatch.setenv("SHOP_SECRET", "hunter2")
    sqlite_of(ctx.root / "hunter2.db", 1)
    operations.add(ctx, "t", f"sqlite:///{ctx.root}/${{SHOP_SECRET}}.db", query="orders", cursor="id")
    with ctx.catalog.read() as connection:
        told = str([event.data for event in events.read(connection)])
    assert "${SHOP_SECRET}" in told
    assert "hunter2" not in told
    ctx.catalog.close()
    assert b"hunter2" not in (ctx.state / "catalog.db").read_bytes()


def test_a_delta_table_is_taken_and_taken_anew_when_it_has_changed(ctx: Context):
    write_deltalake(ctx.root / "lake", pa.table({"id": [1], "x": [0.5]}))
    operations.add(ctx, "t", "lake")
    assert operations.refresh(ctx, "t").version is None
    write_deltalake(ctx.root / "lake", pa.table({"id": [2], "x": [0.5]}), mode="append")
    assert (operations.refresh(ctx, "t").version, sorted(ids(ctx))) == ("t@2", [1, 2])


@pytest.mark.slow
def test_files_in_an_object_store_are_taken_once(ctx: Context, s3, monkeypatch):
    from pyarrow import fs

    for name, value in s3.environ.items():
        monkeypatch.setenv(name, value)
    store = fs.S3FileSystem(endpoint_override=s3.environ["AWS_ENDPOINT_URL"].partition("://")[2], scheme="http", region="us-east-1")
    bucket = s3.url.removeprefix("s3://").rstrip("/")

    def put(name: str, text: str) -> None:
        with store.open_output_stream(f"{bucket}/feed/{name}") as file:
            file.write(text.encode())

    put("a.csv", "id,x\n1,0.5\n")
    operations.add(ctx, "t", f"s3://{bucket}/feed")
    put("b.csv", "id,x\n2,0.5\n")
    assert operations.refresh(ctx, "t").new == 1
    assert operations.refresh(ctx, "t").version is None
    assert ids(ctx) == [1, 2]
    with pytest.raises(NotFound, match="no file s3://"):
        operations.add(ctx, "u", f"s3://{bucket}/feed/nothing.csv")


def test_workbooks_are_read_where_what_reads_them_is_installed(ctx: Context):
    pytest.importorskip("python_calamine", reason="pip install 'kaizenml[excel]'")
    (ctx.root / "rows.xlsx").write_bytes(b"PK\x03\x04 no workbook")
    with pytest.raises(InvalidData, match="cannot be read as a workbook"):
        operations.add(ctx, "t", "rows.xlsx")


def test_a_scheme_that_holds_no_files_is_refused(ctx: Context):
    with pytest.raises(UsageError, match="ftp"):
        operations.add(ctx, "t", "ftp://host/rows.csv")


def test_the_projects_own_file_is_taken_once_and_never_over_the_rows_of_others(ctx: Context):
    (ctx.root / "own.csv").write_text("id,x\n1,0.5\n2,1.5\n")
    assert operations.take(ctx, "t", "own.csv", once="a", why="first") is not None
    operations.add(ctx, "u", "own.csv", key="id")
    assert operations.take(ctx, "u", "own.csv", once="a", why="it was added by hand") is None
    (ctx.root / "own.csv").write_text("id,x\n1,0.5\n3,2.5\n4,3.5\n")
    changed = operations.take(ctx, "t", "own.csv", once="b", why="changed")
    assert changed is not None
    assert (changed.rows, changed.parts) == (3, [2])
    (ctx.root / "partner.csv").write_text("id,x\n9,9.5\n")
    operations.add(ctx, "u", "partner.csv", source_name="feed7")
    with pytest.raises(Conflict, match=r"has rows of .*feed7"):
        operations.take(ctx, "u", "own.csv", once="b", why="changed")
    assert tables.read(ctx, "u").num_rows == 3, "the partner's rows are there"
