"""What a contract can promise beyond single values: rows told apart by several columns, freshness, row counts, checks in SQL, severities."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from kaizenml.context import Context
from kaizenml.data import contract as rules
from kaizenml.data import contract_file, operations, sql, tables
from kaizenml.data.addition import Before
from kaizenml.data.dataset import Column, Contract, Freshness, Query, RowLimits, Unique
from kaizenml.errors import ContractBroken, InvalidData, MissingExtra

NOW = datetime(2026, 11, 20, tzinfo=UTC)
DAYS = pa.table({"origin": ["JFK", "JFK", "LGA", "LGA"], "day": [1, 2, 1, 1], "delay": [3.0, 4.0, 5.0, 6.0]})


def held(table: pa.Table, *, severity: str = "quarantine", last: int | None = None, **promises) -> rules.Checked:
    columns = [Column(name=name, kind=kind, severity=severity) for name, kind in (("origin", "category"), ("day", "integer"), ("delay", "number"))]
    return rules.check(table, Contract(columns=columns, **promises), before=Before(NOW, last=last))


def rules_of(checked: rules.Checked) -> list[tuple[int, str]]:
    return list(zip(checked.bad["_row"].to_pylist(), checked.bad["_rule"].to_pylist(), strict=True))


def test_a_key_may_be_of_several_columns_and_holds_against_the_rows_that_are_there(ctx: Context):
    first = operations.add(ctx, "days", table=DAYS.slice(0, 3), key="origin,day")
    assert contract_file.read(contract_file.path_of(ctx.root, "days")).keys == ["origin", "day"]
    second = operations.add(ctx, "days", table=pa.table({"origin": ["JFK", "EWR", "EWR", None], "day": [2, 2, 2, 2], "delay": [0.0] * 4}))
    assert (first.rows, second.rows, second.quarantined) == (3, 4, 3)
    kept_out = operations.quarantine(ctx, "days").reasons
    assert set(kept_out) == {"origin, day is in days@1 already", "origin, day was there before", "origin is missing"}
    with pytest.raises(InvalidData, match="do not identify a row"):
        operations.add(ctx, "other", table=pa.table({"a": [1] * 9, "b": [2] * 9}), key="a,b")


def test_columns_that_are_unique_together_are_not_confused_by_what_stands_in_them():
    table = pa.table({"origin": ["a,1", "a", "a", None, None], "day": [1, 11, 11, 3, 3], "delay": [0.0] * 5})
    assert rules_of(held(table, unique=[Unique(columns=["origin", "day"])])) == [(3, "origin, day was there before")]


def test_a_unique_column_is_unique_over_all_additions(ctx: Context):
    operations.add(ctx, "tags", table=pa.table({"tag": ["a", "b"], "x": [1, 2]}))
    path = contract_file.path_of(ctx.root, "tags")
    path.write_text(path.read_text().replace('name = "tag"\n', 'name = "tag"\nunique = true\n'))
    assert operations.add(ctx, "tags", table=pa.table({"tag": ["b", "c"], "x": [1, 2]})).quarantined == 1


@pytest.mark.parametrize(("severity", "bad", "told", "refused"), [("quarantine", 1, {}, {}), ("warn", 0, {"delay is above 5": 1}, {})])
def test_a_severity_says_what_a_broken_promise_does(severity, bad, told, refused):
    contract = Contract(columns=[Column(name="delay", kind="number", maximum=5, severity=severity)])
    checked = rules.check(DAYS.select(["delay"]), contract)
    assert (checked.bad.num_rows, checked.warnings, checked.refusals) == (bad, told, refused)


def test_what_cannot_be_read_is_kept_out_even_where_a_warning_would_do():
    contract = Contract(columns=[Column(name="x", kind="integer", severity="warn")])
    checked = rules.check(pa.table({"x": ["1", "2", "many"]}), contract)
    assert (checked.good["x"].to_pylist(), checked.bad.num_rows) == ([1, 2], 1)


@pytest.mark.parametrize(
    ("limits", "last", "said"),
    [
        (RowLimits(minimum=5), None, "4 rows are fewer than 5"),
        (RowLimits(maximum=3), None, "4 rows are more than 3"),
        (RowLimits(shrink=0.5), 10, "4 rows are fewer than 0.5 times the 10 of the addition before"),
        (RowLimits(grow=2), 1, "4 rows are more than 2 times the 1 of the addition before"),
    ],
)
def test_an_addition_of_too_few_or_too_many_rows_is_refused_whole(limits, last, said):
    assert held(DAYS, rows=limits, last=last).refusals == {said: 4}
    assert held(DAYS, rows=RowLimits(minimum=1, maximum=4, shrink=0.5, grow=4), last=1).refusals == {}


def test_the_rows_of_the_addition_before_are_what_the_next_one_is_compared_with(ctx: Context):
    operations.add(ctx, "d", table=pa.table({"x": [*range(10)]}))
    operations.add(ctx, "d", table=pa.table({"x": [*range(4)]}))
    path = contract_file.path_of(ctx.root, "d")
    path.write_text("[rows]\ngrow = 2.0\n" + path.read_text())
    with pytest.raises(ContractBroken, match="9 rows are more than 2 times the 4 of the addition before"):
        operations.add(ctx, "d", table=pa.table({"x": [*range(9)]}))
    assert operations.add(ctx, "d", table=pa.table({"x": [*range(8)]})).rows == 22


def test_rows_are_refused_when_the_newest_of_all_is_too_old(ctx: Context):
    def at(days: float) -> pa.Table:
        return pa.table({"at": [ctx.clock.now() - timedelta(days=days)], "x": [1]})

    operations.add(ctx, "feed", table=at(9), time="at")
    path = contract_file.path_of(ctx.root, "feed")
    path.write_text(path.read_text().replace("[[columns]]", '[freshness]\nwithin = "2d"\n\n[[columns]]', 1))
    with pytest.raises(ContractBroken, match="is 7 d old, more than 2 d"):
        operations.add(ctx, "feed", table=at(7))
    with pytest.raises(ContractBroken, match="is 9 d old"):
        operations.check(ctx, "feed")
    operations.add(ctx, "feed", table=at(1))
    assert operations.add(ctx, "feed", table=at(30)).rows == 3  # a late row does not make the dataset old
    assert operations.check(ctx, "feed").rows == 3


def test_a_query_that_names_rows_puts_them_into_quarantine():
    pytest.importorskip("duckdb", reason="DuckDB is not installed: pip install 'kaizenml[duckdb]'")
    query = Query(name="short days", sql="select _row from rows where day = 1 and delay > 4")
    assert rules_of(held(DAYS, checks=[query])) == [(3, "check 'short days'"), (4, "check 'short days'")]


@pytest.mark.parametrize(
    ("text", "severity", "warned", "refused"),
    [
        ("select count(*) from rows where delay > 4", None, {}, {"check 'q' found 2": 2}),
        ("select count(*) from rows where delay > 4", "warn", {"check 'q' found 2": 2}, {}),
        ("select count(*) from rows where delay > 99", None, {}, {}),
        ("select origin from rows group by origin having count(*) < 9", "refuse", {}, {"check 'q' found 2": 2}),
        ("select _row from rows where delay > 5", "warn", {"check 'q'": 1}, {}),
    ],
)
def test_a_query_that_counts_refuses_or_tells(text, severity, warned, refused):
    pytest.importorskip("duckdb", reason="DuckDB is not installed: pip install 'kaizenml[duckdb]'")
    checked = held(DAYS, checks=[Query(name="q", sql=text, severity=severity)])
    assert (checked.warnings, checked.refusals, checked.bad.num_rows) == (warned, refused, 0)


@pytest.mark.parametrize(
    "text",
    [
        "select * from read_csv('/etc/passwd')", "select * from '/etc/passwd'", "select * from glob('/*')", "copy rows to '/tmp/out.csv'",
        "attach '/tmp/x.db'", "install httpfs", "set enable_external_access = true", "select 1; drop table rows", "select * from hidden",
        "selct 1", "",
    ],
)  # fmt: skip
def test_a_query_reads_its_tables_and_nothing_else(text):
    pytest.importorskip("duckdb", reason="DuckDB is not installed: pip install 'kaizenml[duckdb]'")
    hidden = pa.table({"x": [1]})
    with pytest.raises(InvalidData):
        sql.query(text, {"rows": DAYS})
    assert sql.query("select x from hidden", {"hidden": hidden}).num_rows == 1


def test_a_query_that_does_not_end_is_stopped():
    pytest.importorskip("duckdb", reason="DuckDB is not installed: pip install 'kaizenml[duckdb]'")
    with pytest.raises(InvalidData, match=r"longer than 0\.05 s"):
        sql.query("select count(*) from range(1000000) a, range(1000000) b where a.range * b.range % 7 = 3", {}, limit_s=0.05)


def test_without_duckdb_the_install_command_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "duckdb", None)
    with pytest.raises(MissingExtra, match=r"kaizenml\[duckdb\]"):
        held(DAYS, checks=[Query(name="q", sql="select 1")])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[freshness]\nwithin = "2d"', "asks for freshness, and has no time"),
        ('time = "t"\n[freshness]\nwithin = "soon"', "'soon' is not a duration"),
        ("[rows]\nminimum = 9\nmaximum = 2", "9 is above 2"),
        ('[rows]\nminimum = 9\nseverity = "quarantine"', "none can go to quarantine"),
        ('[rows]\nminimun = 9', "unknown word 'minimun'; did you mean 'minimum'?"),
        ('[[unique]]\ncolumns = ["x", "u"]', "the contract's unique 'u' is none of its columns"),
        ('key = ["x", "z"]', "the contract's key 'z' is none of its columns"),
        ('[[checks]]\nname = "a"\nsql = "select 1"\n[[checks]]\nname = "a"\nsql = "select 2"', "two checks named 'a'"),
        ('[[checks]]\nname = "a"\nsql = "select 1"\nseverity = "stop"', "nvalid enum value 'stop'"),
    ],
)
def test_a_promise_that_cannot_hold_is_told_when_the_file_is_read(text, said):
    with pytest.raises(InvalidData) as caught:
        contract_file.parse(f'{text}\n[[columns]]\nname = "x"\nkind = "number"\n[[columns]]\nname = "t"\nkind = "timestamp"\n')
    assert said in caught.value.what


def test_every_promise_reads_back_from_the_file_as_it_was_written():
    contract = Contract(
        columns=[Column(name="a b", kind="integer", severity="warn"), Column(name="t", kind="timestamp")], key=["a b", "t"], time="t",
        unique=[Unique(columns=["t", "a b"], severity="refuse")], freshness=Freshness(within="36h", severity="warn"),
        rows=RowLimits(minimum=3, grow=2.5),
        checks=[Query(name="it's", sql='select "a b"\nfrom rows'), Query(name="n", sql="select 0", severity="warn")],
    )  # fmt: skip
    assert contract_file.parse(contract_file.render(contract, "d")) == contract


def test_a_breaking_change_of_the_columns_is_refused_with_the_diff(ctx: Context):
    operations.add(ctx, "d", table=pa.table({"old": [1], "x": [1.5], "y": ["a"]}))
    with pytest.raises(ContractBroken) as caught:
        operations.add(ctx, "d", table=pa.table({"new": [1, 2], "x": ["wide", "far"], "y": ["b", "c"]}))
    error = caught.value
    assert error.exit_code == 3
    assert json.loads(json.dumps(error.values["diff"])) == {
        "gone": [{"name": "old", "kind": "integer"}], "added": [{"name": "new", "kind": "integer"}],
        "changed": [{"name": "x", "was": "number", "now": "category", "samples": ["'wide'", "'far'"]}],
    }  # fmt: skip
    assert "column 'old' is gone" in error.what
    assert tables.version(ctx, "d").number == 1


def test_a_check_of_what_is_there_finds_the_rows_that_an_edited_contract_would_keep_out(ctx: Context):
    operations.add(ctx, "d", table=pa.table({"x": [1.0, 2.0, 30.0]}))
    assert operations.check(ctx, "d").bad == 0
    path = contract_file.path_of(ctx.root, "d")
    path.write_text(path.read_text() + "maximum = 9\n")
    assert operations.check(ctx, "d").reasons == {"x is above 9": 1}
    path.write_text(path.read_text() + 'severity = "refuse"\n')
    with pytest.raises(ContractBroken) as caught:
        operations.check(ctx, "d")
    assert caught.value.values["refused"] == {"x is above 9": 1}
