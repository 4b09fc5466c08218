from __future__ import annotations

import datetime as dt

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaizenml.data import contract as rules
from kaizenml.data import contract_file
from kaizenml.data.dataset import Column, Contract
from kaizenml.data.kinds import normalise
from kaizenml.errors import ContractBroken, InvalidData

ORDERS = pa.table({"id": [1, 2, 3], "price": [1.5, 2.0, 4.0], "city": ["Rome", "Oslo", "Rome"], "paid": [True, False, True]})


def of(**kinds: str) -> Contract:
    return Contract(columns=[Column(name=name, kind=kind) for name, kind in kinds.items()])


def reasons(table: pa.Table, contract: Contract) -> dict[int, str]:
    checked = rules.check(normalise(table), contract)
    return dict(zip(checked.bad["_row"].to_pylist(), checked.bad["_reason"].to_pylist(), strict=True))


def test_a_learnt_contract_knows_kinds_and_promises_only_what_must_hold():
    contract = rules.infer(ORDERS, key="id")
    assert [(c.name, c.kind, c.nullable) for c in contract.columns] == [
        ("id", "integer", False), ("price", "number", True), ("city", "category", True), ("paid", "boolean", True),
    ]  # fmt: skip
    assert all(c.minimum is c.maximum is c.categories is None for c in contract.columns)


def test_words_that_repeat_are_categories_and_the_rest_is_text():
    many = pa.table({"code": [f"c{n % 300}" for n in range(900)], "name": [f"n{n}" for n in range(900)], "long": ["x" * 80] * 900})
    assert [c.kind for c in rules.infer(many).columns] == ["category", "text", "text"]


def test_a_time_given_as_text_is_taken_if_it_reads_as_dates():
    table = pa.table({"at": ["2020-01-01", "2020-01-02"], "x": [1, 2]})
    contract = rules.infer(table, time="at")
    assert contract.columns[0] == Column(name="at", kind="timestamp", nullable=False)
    assert rules.check(table, contract).good["at"].to_pylist()[1] == dt.datetime(2020, 1, 2, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("table", "roles", "said"),
    [
        (ORDERS, {"time": "price"}, "'price' is no date or time: it holds number, such as 1.5"),
        (ORDERS, {"time": "city"}, "'city' is no date or time: it holds category, such as 'Rome'"),
        (ORDERS, {"time": "tiem"}, "has no column 'tiem'"),
        (ORDERS, {"key": "pirce"}, "did you mean 'price'?"),
        (ORDERS, {"key": "city"}, "'city' does not identify a row: 'Rome' is on 2 rows"),
        (pa.table({"a": pa.nulls(2)}), {}, "no column holds any value"),
    ],
)
def test_a_role_that_a_column_cannot_play_is_refused(table, roles, said):
    with pytest.raises(InvalidData) as caught:
        rules.infer(table, **roles)
    assert said in caught.value.what
    assert caught.value.remedy


def test_each_broken_promise_is_a_reason_with_its_value():
    contract = Contract(
        columns=[
            Column(name="id", kind="integer", nullable=False),
            Column(name="age", kind="number", minimum=0, maximum=120),
            Column(name="city", kind="category", categories=["Rome", "Oslo"]),
        ],
        key="id",
    )
    table = pa.table(
        {
            "id": [1, 2, 2, None, 5, 6, 7],
            "age": [3.0, -1.0, 5.0, 6.0, 200.0, float("inf"), None],
            "city": ["Rome", "Rome", "Oslo", "Oslo", "Oslo", "Oslo", "Rom"],
        }
    )
    assert reasons(table, contract) == {
        2: "age: -1 is below 0",
        4: "id is missing",
        5: "age: 200 is above 120",
        6: "age: inf is not finite; age: inf is above 120",
        7: "city: 'Rom' is none of Rome, Oslo",
    }


def test_of_doubled_keys_the_first_good_row_stands():
    contract = Contract(columns=[Column(name="id", kind="text"), Column(name="x", kind="number", minimum=0)], key="id")
    table = pa.table({"id": ["a", "a", "a", "b"], "x": [-1, 1, 2, 3]})
    checked = rules.check(table, contract)
    assert checked.good.to_pylist() == [{"id": "a", "x": 1.0}, {"id": "b", "x": 3.0}]
    assert checked.rows.to_pylist() == [1, 3]
    assert checked.bad["_reason"].to_pylist() == ["x: -1 is below 0", "id: 'a' was there before"]


def test_single_values_of_another_kind_go_to_quarantine_as_they_came():
    checked = rules.check(pa.table({"price": ["1.5", "free", "2"], "n": [1, 2, 3]}), of(price="number", n="integer"))
    assert checked.good.to_pylist() == [{"price": 1.5, "n": 1}, {"price": 2.0, "n": 3}]
    assert checked.bad.to_pylist() == [
        {"price": "free", "n": "2", "_row": 2, "_rule": "price is not a number", "_reason": "price: 'free' is not a number"}
    ]


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        ("number", [1, 2], [1.0, 2.0]),
        ("integer", [1.0, None], [1, None]),
        ("integer", ["1", "2"], [1, 2]),
        ("boolean", [0, 1], [False, True]),
        ("boolean", ["true", "False"], [True, False]),
        ("category", [7, 8], ["7", "8"]),
        ("text", [True, None], ["true", None]),
        ("integer", [None, None], [None, None]),
        ("timestamp", ["2020-01-01", None], [dt.datetime(2020, 1, 1, tzinfo=dt.UTC), None]),
    ],
)
def test_what_means_the_same_is_brought_to_the_kind(kind, values, expected):
    checked = rules.check(normalise(pa.table({"x": values, "row": [1, 2]})), of(x=kind, row="integer"))
    assert checked.good["x"].to_pylist() == expected
    assert not checked.changes


def test_fractions_widen_whole_numbers():
    checked = rules.check(pa.table({"x": [1.0, 2.5]}), of(x="integer"))
    assert checked.contract == of(x="number")
    assert checked.changes == ["x: integer becomes number"]


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        ("number", ["a", "b", "1"], "'x' was number and is now category ('a' in row 1; 2 of 3 values)"),
        ("timestamp", [1, 2, 3], "'x' was timestamp and is now integer"),
        ("boolean", [4, 5, 1], "'x' was boolean and is now integer (4 in row 1"),
        ("number", [dt.datetime(2020, 1, 1)] * 3, "'x' was number and is now timestamp"),
    ],
)
def test_a_changed_kind_breaks_the_contract(kind, values, said):
    with pytest.raises(ContractBroken) as caught:
        rules.check(normalise(pa.table({"x": values})), of(x=kind))
    assert said in caught.value.what
    assert "x" in caught.value.values["changed"]


def test_a_column_that_is_gone_breaks_the_contract_and_a_new_one_does_not():
    with pytest.raises(ContractBroken) as caught:
        rules.check(pa.table({"Price": [1.0]}), of(price="number"))
    assert "'price' is gone (renamed to 'Price'?)" in caught.value.what
    checked = rules.check(pa.table({"price": [1.0], "vat": ["a"], "void": pa.nulls(1)}), of(price="number"))
    assert checked.changes == ["vat: new, category"]
    assert checked.contract == of(price="number", vat="category")
    with pytest.raises(ContractBroken, match="only in case"):
        rules.check(pa.table({"price": [1.0], "Price": [2.0]}), of(price="number"))


def test_partial_rows_lack_columns_without_breaking_anything():
    contract = Contract(columns=[Column(name="a", kind="number"), Column(name="b", kind="text", nullable=False)])
    assert rules.check(pa.table({"a": [1.0]}), contract, partial=True).good.to_pylist() == [{"a": 1.0, "b": None}]
    assert reasons(pa.table({"a": [1.0, 2.0], "b": [None, "x"]}), contract) == {1: "b is missing"}


@given(st.lists(st.one_of(st.none(), st.integers(-5, 5), st.sampled_from(["x", "1.5", "9"])), min_size=1, max_size=40))
def test_every_row_is_either_good_or_bad(values):
    table = pa.table({"x": pa.array([None if v is None else str(v) for v in values], pa.string()), "row": list(range(len(values)))})
    contract = Contract(columns=[Column(name="x", kind="number", minimum=-3, unique=True), Column(name="row", kind="integer")])
    try:
        checked = rules.check(table, contract)
    except ContractBroken:
        return
    kept, out = checked.good["row"].to_pylist(), [row - 1 for row in checked.bad["_row"].to_pylist()]
    assert sorted(kept + out) == list(range(len(values)))
    assert kept == checked.rows.to_pylist()


# --- the file

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(lambda name: name.strip())
bounds = st.one_of(st.none(), st.floats(-1e300, 0))
columns = st.builds(
    Column,
    name=names,
    kind=st.sampled_from(["number", "integer", "boolean", "category", "timestamp", "text"]),
    nullable=st.booleans(),
    minimum=bounds,
    maximum=st.one_of(st.none(), st.floats(0, 1e300)),
    categories=st.one_of(st.none(), st.lists(st.text(max_size=8), max_size=3)),
    unique=st.booleans(),
)


@given(st.lists(columns, min_size=1, max_size=5, unique_by=lambda column: column.name), st.data())
def test_a_contract_survives_its_file(found, data):
    times = [column.name for column in found if column.kind == "timestamp"]
    contract = Contract(
        columns=found,
        key=data.draw(st.sampled_from([None, found[0].name])),
        time=data.draw(st.sampled_from([None, *times])),
    )
    assert contract_file.parse(contract_file.render(contract, "shop")) == contract


def test_an_edited_file_keeps_its_comments_when_it_is_extended(tmp_path):
    path = tmp_path / "contracts" / "shop.toml"
    contract_file.write(path, of(a="integer", b="text"), "shop")
    edited = path.read_text().replace('name = "a"', '# counted by hand\nname = "a"')
    path.write_text(edited)
    contract_file.write(path, of(a="number", b="text", c="boolean"), "shop")
    assert "# counted by hand" in path.read_text()
    assert contract_file.read(path) == of(a="number", b="text", c="boolean")


def test_the_file_is_untouched_when_the_body_fails(tmp_path):
    path = tmp_path / "contracts" / "shop.toml"
    with pytest.raises(RuntimeError), contract_file.written(path, of(a="integer"), "shop"):
        raise RuntimeError
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("columns = [", "shop.toml"),
        ('[[columns]]\nname = "a"\nknd = "number"\n', "did you mean 'kind'?"),
        ('[[columns]]\nname = "a"\nkind = "float"\n', "invalid enum value 'float'"),
        ('[[columns]]\nname = "a"\nkind = "number"\nnullable = "no"\n', "expected `bool`"),
        ('key = "b"\n[[columns]]\nname = "a"\nkind = "number"\n', "key 'b' is none of its columns"),
        ('time = "a"\n[[columns]]\nname = "a"\nkind = "number"\n', "time 'a' is number"),
        ('[[columns]]\nname = "a"\nkind = "number"\nminimum = 2\nmaximum = 1\n', "minimum 2 is above the maximum 1"),
        ('[[columns]]\nname = "a"\nkind = "number"\n[[columns]]\nname = "a"\nkind = "text"\n', "'a' twice"),
    ],
)
def test_a_contract_that_cannot_be_meant_is_refused(tmp_path, text, said):
    path = tmp_path / "shop.toml"
    path.write_text(text)
    with pytest.raises(InvalidData) as caught:
        contract_file.read(path)
    assert said in caught.value.what
    assert str(path) in caught.value.what
    assert caught.value.remedy
