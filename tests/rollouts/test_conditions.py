"""The language of conditions: what it accepts, what it says of what it does not, and that it never fails on a row."""

from __future__ import annotations

import math
import operator
import timeit
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaizenml.errors import InvalidSettings
from kaizenml.rollouts.conditions import read

PIECES = ["a", "==", "'x", "'x'", "(", ")", "not", "in", "[", "]", "is", "null", "and", "1e400", "-", ",", "`"]
NAMES = ["carrier", "distance", "odd name", "é"]
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**25), 10**25), st.floats(), st.sampled_from(["XX", "it's", 'say "hi"', "", "10"]), st.text(max_size=5)
)
LITERALS = st.one_of(
    st.booleans(), st.integers(-(10**25), 10**25), st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["XX", "it's", 'say "hi"']),
    st.text(max_size=5),
)  # fmt: skip
SIGNS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}

OPERANDS = st.one_of(st.tuples(st.just("input"), st.sampled_from(NAMES)), st.tuples(st.just("value"), LITERALS))
TREES = st.recursive(
    st.one_of(
        st.tuples(st.sampled_from(["==", "!=", *SIGNS]), OPERANDS, OPERANDS),
        st.tuples(st.sampled_from(["in", "not in"]), OPERANDS, st.lists(LITERALS, min_size=1, max_size=3)),
        st.tuples(st.sampled_from(["is null", "is not null"]), OPERANDS),
    ),
    lambda inner: st.one_of(st.tuples(st.just("not"), inner), st.tuples(st.sampled_from(["and", "or"]), inner, inner)),
    max_leaves=8,
)


def literal(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return repr(value)


def operand(tree: tuple[str, Any]) -> str:
    kind, what = tree
    return literal(what) if kind == "value" else what if what.isidentifier() else f"`{what}`"


def written(tree: Any) -> str:
    verb = tree[0]
    if verb == "not":
        return f"not ({written(tree[1])})"
    if verb in ("and", "or"):
        return f"({written(tree[1])}) {verb} ({written(tree[2])})"
    if verb in ("in", "not in"):
        return f"{operand(tree[1])} {verb} [{', '.join(map(literal, tree[2]))}]"
    return f"{operand(tree[1])} {verb}" if verb.startswith("is") else f"{operand(tree[1])} {verb} {operand(tree[2])}"


def meant(tree: Any, row: dict[str, Any]) -> bool:
    """Say what the language means, in the plainest Python."""

    def value(tree: tuple[str, Any]) -> Any:
        found = row.get(tree[1]) if tree[0] == "input" else tree[1]
        return None if isinstance(found, float) and math.isnan(found) else found

    verb = tree[0]
    if verb == "not":
        return not meant(tree[1], row)
    if verb == "and":
        return meant(tree[1], row) and meant(tree[2], row)
    if verb == "or":
        return meant(tree[1], row) or meant(tree[2], row)
    left = value(tree[1])
    if verb in ("is null", "is not null"):
        return (left is None) == (verb == "is null")
    if verb in ("in", "not in"):
        return (left is not None and any(left == one for one in tree[2])) == (verb == "in")
    right = value(tree[2])
    if verb in ("==", "!="):
        return (left is not None and right is not None and left == right) == (verb == "==")
    comparable = (isinstance(left, str) and isinstance(right, str)) or (isinstance(left, int | float) and isinstance(right, int | float))
    return comparable and SIGNS[verb](left, right)


@settings(max_examples=40, deadline=None)
@given(tree=TREES, rows=st.lists(st.dictionaries(st.sampled_from(NAMES), VALUES), min_size=1, max_size=4))
def test_a_condition_means_what_plain_python_says_on_every_row(tree: Any, rows: list[dict[str, Any]]) -> None:
    condition = read(written(tree))
    assert [condition.test(row) for row in rows] == [meant(tree, row) for row in rows]


@settings(max_examples=40, deadline=None)
@given(
    text=st.one_of(
        st.text(max_size=60),
        st.lists(st.sampled_from(PIECES)).map(" ".join),
    ),
    row=st.dictionaries(st.text(max_size=3), st.one_of(VALUES, st.lists(st.integers()), st.dictionaries(st.text(), st.integers()))),
)
def test_whatever_is_written_is_read_or_refused_with_its_place(text: str, row: dict[str, Any]) -> None:
    place, answer = 0, None
    try:
        answer = read(text).test(row)
    except InvalidSettings as error:
        place = error.values["position"]
    assert answer in (True, False) if answer is not None else 1 <= place <= len(text) + 1


@pytest.mark.parametrize(
    ("text", "position", "says"),
    [
        ("carrier = 'XX'", 9, "equality is '=='"),
        ("carrier == 'XX", 12, "without its closing quote"),
        ("carrier == 'XX' and", 20, "at the end"),
        ("1 < distance < 9", 14, "'and' or 'or'"),
        ("gift", 5, "a comparison"),
        ("carrier == null", 12, "is null"),
        ("carrier in []", 13, "a value is expected"),
        ("(a == 1", 8, "')' is expected"),
        ("a == 1e999", 6, "a double"),
        ("not " * 60 + "a == 1", 201, "deeper than 50"),
        ("__import__('os')", 11, "a comparison"),
    ],
)
def test_what_cannot_be_read_is_met_with_its_place(text: str, position: int, says: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        read(text)
    assert caught.value.values["position"] == position
    assert says in caught.value.what


def test_a_condition_too_long_is_refused() -> None:
    with pytest.raises(InvalidSettings, match="the limit is 2,000"):
        read(" or ".join(["a == 1"] * 300))


def test_a_condition_knows_the_inputs_that_it_asks_for() -> None:
    assert read("carrier == 'XX' or (`odd name` is null and not carrier in ['AA'])").inputs == {"carrier": 0, "odd name": 20}


def test_a_condition_takes_about_a_microsecond() -> None:
    test, row = read("carrier == 'XX' and distance > 2000").test, {"carrier": "XX", "distance": 2500.0}
    best = min(timeit.repeat(lambda: test(row), number=5000, repeat=10)) / 5000
    assert best < 10e-6  # 1 us on a quiet machine
