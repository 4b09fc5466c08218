from __future__ import annotations

import datetime as dt
import shutil
import typing
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kaizenml import events
from kaizenml.context import Context
from kaizenml.data import contract_file, operations, tables
from kaizenml.data.kinds import normalise
from kaizenml.errors import Conflict, ContractBroken, Corrupt, InvalidData, NotFound, UsageError

FIRST = pa.table({"id": [1, 2, 3], "price": [1.5, None, 4.0], "at": ["2020-01-01", "2020-01-02", "2020-01-03"]})


def orders(*ids: int | None, price: float = 1.0) -> pa.Table:
    return pa.table({"id": list(ids), "price": [price] * len(ids), "at": ["2020-02-01"] * len(ids)})


def test_the_first_addition_makes_the_dataset_its_contract_and_version_1(ctx: Context):
    (ctx.root / "orders.csv").write_text("id,price,at\n1,1.5,2020-01-01\n2,,2020-01-02\n")
    version = operations.add(ctx, "orders", "orders.csv", key="id", time="at", why="to begin")
    assert (version.ref, version.parts, version.rows, version.quarantined, version.source) == ("orders@1", [1], 2, 0, "orders.csv")
    assert version.columns == {"id": "integer", "price": "number", "at": "timestamp"}
    assert version.profile["price"]["missing"] == 1
    assert tables.read(ctx, "orders")["at"].to_pylist()[0] == dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    dataset = operations.list(ctx)[0]
    assert (dataset.name, dataset.source, dataset.trust) == ("orders", "orders.csv", "internal")
    assert contract_file.read(ctx.root / "contracts" / "orders.toml") == dataset.contract
    assert dataset.contract.key == "id"
    with ctx.catalog.read() as connection:
        event = events.read(connection)[-1]
    assert (event.kind, event.subject, event.why, event.data["rows"]) == ("data.added", "orders@1", "to begin", 2)


def test_versions_stay_as_they_were_when_rows_are_appended_or_replaced(ctx: Context):
    operations.add(ctx, "orders", table=FIRST, key="id", time="at")
    operations.add(ctx, "orders", table=orders(4, 5))
    operations.add(ctx, "orders", table=orders(1, 9), mode="replace")
    operations.add(ctx, "orders", table=orders(10))
    ids = {ref: tables.read(ctx, ref, ["id"])["id"].to_pylist() for ref in ("orders@1", "orders@2", "orders@3", "orders")}
    assert ids == {"orders@1": [1, 2, 3], "orders@2": [1, 2, 3, 4, 5], "orders@3": [1, 9], "orders": [1, 9, 10]}
    assert [version.parts for version in operations.versions(ctx, "orders")] == [[3, 4], [3], [1, 2], [1]]
    assert len({version.hash for version in operations.versions(ctx, "orders")}) == 4
    for number in range(1, 5):
        tables.verify(ctx, f"orders@{number}")


def test_equal_rows_have_equal_hashes_however_they_are_chunked(ctx: Context):
    one = operations.add(ctx, "one", table=FIRST)
    two = operations.add(ctx, "two", table=pa.concat_tables([FIRST.slice(0, 1), FIRST.slice(1)]))
    other = operations.add(ctx, "other", table=FIRST.slice(0, 2))
    assert one.hash == two.hash != other.hash


def test_bad_rows_go_to_quarantine_with_reasons_and_good_rows_land(ctx: Context):
    operations.add(ctx, "orders", table=FIRST, key="id", time="at")
    version = operations.add(ctx, "orders", table=orders(7, 2, None, 7, 8))
    assert (version.rows, version.quarantined) == (5, 3)
    assert tables.read(ctx, "orders", ["id"])["id"].to_pylist() == [1, 2, 3, 7, 8]
    kept_out = operations.quarantine(ctx, "orders")
    assert kept_out.rows == 3
    assert [(row["_version"], row["_row"], row["_reason"]) for row in kept_out.samples] == [
        (2, 2, "id: 2 is in orders@1 already"), (2, 3, "id is missing"), (2, 4, "id: 7 was there before"),
    ]  # fmt: skip
    assert kept_out.reasons == {"id is in orders@1 already": 1, "id is missing": 1, "id was there before": 1}
    assert operations.show(ctx, "orders").quarantined == 3
    assert operations.quarantine(ctx, "orders@1").rows == 0


def test_nothing_is_written_when_every_row_is_bad(ctx: Context):
    operations.add(ctx, "orders", table=FIRST, key="id", time="at")
    with pytest.raises(ContractBroken, match=r"none of the 2 rows keeps the contract; row 1: id: 1 is in orders@1"):
        operations.add(ctx, "orders", table=orders(1, 2))
    assert operations.show(ctx, "orders").version.number == 1
    assert operations.quarantine(ctx, "orders").rows == 0


def test_the_edited_file_is_the_contract(ctx: Context):
    operations.add(ctx, "orders", table=FIRST, key="id", time="at")
    path = ctx.root / "contracts" / "orders.toml"
    path.write_text(path.read_text().replace('name = "price"', 'name = "price"\nminimum = 0.5'))
    assert operations.add(ctx, "orders", table=pa.concat_tables([orders(4), orders(5, price=0.1)])).quarantined == 1
    assert operations.list(ctx)[0].contract.columns[1].minimum == 0.5
    path.unlink()
    assert operations.add(ctx, "orders", table=orders(6, price=0.7)).quarantined == 0
    assert contract_file.read(path) == operations.list(ctx)[0].contract


def test_a_new_column_extends_the_contract_and_is_null_in_older_rows(ctx: Context):
    operations.add(ctx, "orders", table=FIRST, key="id")
    operations.add(ctx, "orders", table=orders(4).append_column("city", pa.array(["Rome"])))
    assert tables.read(ctx, "orders", ["city"])["city"].to_pylist() == [None, None, None, "Rome"]
    assert "city" not in tables.read(ctx, "orders@1").column_names
    assert 'name = "city"' in (ctx.root / "contracts" / "orders.toml").read_text()


def test_fractions_widen_a_column_and_older_versions_read_as_before(ctx: Context):
    first = operations.add(ctx, "t", table=pa.table({"n": [3, None, 2**53], "s": ["b", None, "a"]}))
    operations.add(ctx, "t", table=pa.table({"n": [0.5], "s": ["c"]}))
    assert tables.read(ctx, "t")["n"].to_pylist() == [3.0, None, 2.0**53, 0.5]
    assert tables.read(ctx, "t@1").to_pylist() == [{"n": 3, "s": "b"}, {"n": None, "s": None}, {"n": 2**53, "s": "a"}]
    assert first.columns["n"] == "integer"
    tables.verify(ctx, "t@1")
    tables.verify(ctx, "t@2")


def test_a_kind_changed_in_the_file_needs_replace_and_keeps_older_versions(ctx: Context):
    moments = [dt.datetime(2020, 1, 1, 5, 6, 7, 89, tzinfo=dt.UTC), None]
    operations.add(ctx, "t", table=pa.table({"x": [0.1, 1e300], "n": [2**63 - 1, 1], "b": [True, None], "w": moments, "s": ["5", "6"]}))
    old = tables.read(ctx, "t")
    path = ctx.root / "contracts" / "t.toml"
    text = path.read_text()
    for kind in ("number", "integer", "boolean", "timestamp"):
        text = text.replace(f'kind = "{kind}"', 'kind = "text"')
    path.write_text(text.replace('kind = "category"', 'kind = "integer"'))
    changed = pa.table({"x": ["p"], "n": ["q"], "b": ["r"], "w": ["s"], "s": [7]})
    with pytest.raises(ContractBroken, match="'s' a kind that older rows may not have"):
        operations.add(ctx, "t", table=changed)
    operations.add(ctx, "t", table=changed, mode="replace")
    assert tables.read(ctx, "t").to_pylist() == [{"x": "p", "n": "q", "b": "r", "w": "s", "s": 7}]
    assert tables.read(ctx, "t@1").equals(old)
    tables.verify(ctx, "t@1")
    operations.add(ctx, "t", table=changed)
    assert tables.read(ctx, "t")["s"].to_pylist() == [7, 7]


def test_partial_rows_are_taken_with_nulls(ctx: Context):
    operations.add(ctx, "orders", table=FIRST, key="id", time="at")
    operations.add(ctx, "orders", table=pa.table({"id": [8]}), partial=True, origin="feedback")
    assert tables.read(ctx, "orders").to_pylist()[-1] == {"id": 8, "price": None, "at": None}
    with pytest.raises(ContractBroken, match="'price' is gone"):
        operations.add(ctx, "orders", table=pa.table({"id": [9]}))


def test_a_token_adds_once(ctx: Context):
    first = operations.add(ctx, "orders", table=FIRST, once="batch-1")
    assert operations.add(ctx, "orders", table=orders(5), once="batch-1") == first
    assert operations.add(ctx, "orders", table=orders(5), once="batch-2").number == 2
    assert operations.add(ctx, "others", table=orders(5), once="batch-1").ref == "others@1"


def test_the_task_gives_key_and_time_to_its_own_dataset(root: Path):
    from kaizenml.project import open_project

    (root / "kaizen.toml").write_text('[project]\nname = "shop"\n[task]\ndataset = "orders"\ntarget = "price"\nkey = "id"\ntime = "at"\n')
    ctx = open_project(root)
    operations.add(ctx, "orders", table=FIRST)
    operations.add(ctx, "others", table=FIRST)
    assert [(d.name, d.contract.key, d.contract.time) for d in operations.list(ctx)] == [("orders", "id", "at"), ("others", None, None)]
    ctx.online.close()
    ctx.catalog.close()


def test_a_check_tells_without_adding(ctx: Context):
    fresh = operations.check(ctx, "orders", table=FIRST)
    assert (fresh.good, fresh.bad, len(fresh.contract.columns)) == (3, 0, 3)
    operations.add(ctx, "orders", table=FIRST, key="id")
    found = operations.check(ctx, "orders", table=orders(3, 4).append_column("city", pa.array(["a", "b"])))
    assert (found.good, found.bad, found.reasons, found.changes) == (1, 1, {"id is in orders@1 already": 1}, ["city: new, category"])
    assert operations.show(ctx, "orders").version.number == 1


def test_what_does_not_exist_is_named_with_the_nearest(ctx: Context):
    operations.add(ctx, "orders", table=FIRST)
    with pytest.raises(NotFound, match="did you mean 'orders'"):
        operations.show(ctx, "order")
    with pytest.raises(NotFound, match="no version 7; the newest is 1"):
        tables.read(ctx, "orders@7")
    with pytest.raises(InvalidData, match="did you mean 'price'"):
        tables.read(ctx, "orders", ["prise"])


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"table": FIRST, "mode": "apend"}, UsageError),
        ({"table": FIRST, "trust": "friends"}, UsageError),
        ({}, UsageError),
        ({"table": FIRST, "source": "a.csv"}, UsageError),
        ({"table": FIRST.slice(0, 0)}, InvalidData),
        ({"table": [1, 2]}, InvalidData),
        ({"table": FIRST, "key": "price"}, Conflict),
    ],
)
def test_calls_that_cannot_be_meant_are_refused(ctx: Context, arguments, error):
    operations.add(ctx, "orders", table=FIRST, key="id")
    with pytest.raises(error) as caught:
        operations.add(ctx, "orders", **arguments)
    assert caught.value.remedy
    with pytest.raises(UsageError):
        operations.add(ctx, "../orders", table=FIRST)


def test_a_lost_or_changed_table_is_corrupt_not_empty(ctx: Context):
    operations.add(ctx, "orders", table=FIRST)
    operations.add(ctx, "orders", table=orders(7))
    part = next((tables.folder(ctx, "orders") / "_part=2").glob("*.parquet"))
    whole = part.read_bytes()
    part.write_bytes(whole[:-30])
    with pytest.raises(Corrupt):
        tables.read(ctx, "orders")
    part.unlink()
    with pytest.raises(Corrupt):
        tables.read(ctx, "orders")
    shutil.rmtree(tables.folder(ctx, "orders"))
    with pytest.raises(Corrupt, match="gone"):
        tables.read(ctx, "orders@1")


def test_changed_rows_are_found_by_their_hash(ctx: Context):
    operations.add(ctx, "orders", table=FIRST)
    DeltaTable(tables.folder(ctx, "orders")).update({"price": "99.0"}, predicate="id = 1")
    with pytest.raises(Corrupt, match="orders@1"):
        tables.verify(ctx, "orders")


class Frame:
    """Stands for a pandas or Polars frame: all that is asked of one is the Arrow stream."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)


def test_frames_are_taken_through_the_arrow_stream(ctx: Context):
    frame = Frame(pa.table({"x": pa.array([1.0, float("nan")]), "__index_level_0__": [5, 6]}))
    operations.add(ctx, "frame", table=frame)
    assert tables.read(ctx, "frame").to_pylist() == [{"x": 1.0}, {"x": None}]


def test_signatures_can_be_resolved_by_the_faces():
    for name in operations.__all__:
        hints = typing.get_type_hints(getattr(operations, name))
        assert hints["return"] is not None


def test_odd_names_and_values_survive_storage(ctx: Context):
    table = pa.table({"mean radius": [1.5], "a,b;{}()\t=": ["x\ny"], "größe \U0001f4a9": [""], "n\n": [True]})
    operations.add(ctx, "odd", table=table)
    operations.add(ctx, "odd", table=table)
    assert tables.read(ctx, "odd").equals(pa.concat_tables([table, table]))


cells = st.fixed_dictionaries(
    {
        "n": st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
        "x": st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)),
        "s": st.one_of(st.none(), st.text(st.characters(codec="utf-8"), max_size=8)),
        "b": st.one_of(st.none(), st.booleans()),
    }
)
SCHEMA = pa.schema([("n", pa.int64()), ("x", pa.float64()), ("s", pa.string()), ("b", pa.bool_())])
ANCHOR = {"n": 1, "x": 0.5, "s": "a", "b": True}


@pytest.mark.slow
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.lists(cells, min_size=1, max_size=8), min_size=1, max_size=3), st.integers(0, 10**9))
def test_what_is_added_is_what_is_read(ctx: Context, batches, salt):
    name = f"d{salt}x{len(operations.list(ctx))}"
    batches[0].insert(0, ANCHOR)
    for batch in batches:
        operations.add(ctx, name, table=pa.Table.from_pylist(batch, schema=SCHEMA))
    found = tables.read(ctx, name)
    assert found.to_pylist() == [row for batch in batches for row in batch]
    tables.verify(ctx, name)
    assert normalise(found).equals(found)
