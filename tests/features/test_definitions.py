"""Features defined in Python: from the file to the training frame, the signature and a request."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from kaizenml.context import Context
from kaizenml.data import operations as data
from kaizenml.data import tables
from kaizenml.errors import InvalidInput, InvalidSettings, KaizenError, NotFound
from kaizenml.features import operations
from kaizenml.features.defining import definitions, expressions
from kaizenml.features.offline import frame
from kaizenml.features.offline.asking import features_for
from kaizenml.features.offline.fields import fields_of
from kaizenml.features.online.reading import look_up
from kaizenml.features.signature import Derived

FILE = '''
from kaizenml import count, derived, features, latest, mean, ratio, since, sum_

FLOOR = 0.5


@features(entity="customer_id", source="orders", at="ts", ttl="30d", owner="ann", tags=["money"])
class Spend:
    """What a customer spent."""

    spend_30d = sum_("amount", last="30d")
    limit = latest("credit_limit")
    orders = count(last="30d")
    each = ratio(spend_30d, orders)


@derived
def spend_ratio(spend_30d: float, limit: float) -> float:
    return spend_30d / limit if limit else 0.0


@derived
def strained(spend_ratio: float, asked: float | None) -> float:
    """How near the limit this order brings the customer."""
    if asked is None:
        return spend_ratio
    return spend_ratio + max(asked, FLOOR) / 100
'''
DAY = dt.timedelta(days=1)


def on(day: float) -> dt.datetime:
    return dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + day * DAY


@pytest.fixture
def shop(ctx: Context, reopen: Callable[..., Context]) -> Context:
    toml = '[project]\nname = "shop"\n[task]\ndataset = "asked"\ntarget = "late"\ntime = "at"\n'
    opened = reopen(toml)
    (opened.root / "features.py").write_text(FILE)
    orders = [
        {"customer_id": 7, "ts": on(0), "amount": 10.0, "credit_limit": 100.0},
        {"customer_id": 7, "ts": on(20), "amount": 30.5, "credit_limit": None},
        {"customer_id": 8, "ts": on(20), "amount": 5.0, "credit_limit": 0.0},
        {"customer_id": 7, "ts": on(20), "amount": 30.5, "credit_limit": None},  # the same row once more
    ]
    data.add(opened, "orders", table=pa.Table.from_pylist(orders))
    asked = [
        {"customer_id": 7, "at": on(25), "asked": 20.0, "late": True},
        {"customer_id": 7, "at": on(31), "asked": None, "late": False},
        {"customer_id": 8, "at": on(25), "asked": 1.0, "late": True},
        {"customer_id": 9, "at": on(25), "asked": 1.0, "late": False},
        {"customer_id": 7, "at": on(60), "asked": 1.0, "late": False},
    ]
    data.add(opened, "asked", table=pa.Table.from_pylist(asked))
    return opened


def test_what_is_defined_in_python_is_in_the_training_frame(shop: Context) -> None:
    table = frame.training_frame(shop, "asked")
    rows = table.select(["customer_id", "spend_30d", "limit", "orders", "each", "spend_ratio", "strained"]).to_pylist()
    nothing = dict.fromkeys(["spend_30d", "limit", "orders", "each", "spend_ratio", "strained"])
    assert rows == [
        {"customer_id": 7, "spend_30d": 40.5, "limit": 100.0, "orders": 2, "each": 20.25, "spend_ratio": 0.405, "strained": 0.605},
        {"customer_id": 8, "spend_30d": 5.0, "limit": 0.0, "orders": 1, "each": 5.0, "spend_ratio": 0.0, "strained": 0.01},
        {"customer_id": 9, **nothing},
        {"customer_id": 7, "spend_30d": 30.5, "limit": 100.0, "orders": 1, "each": 30.5, "spend_ratio": 0.305, "strained": 0.305},
        {"customer_id": 7, **nothing},  # the newest order is older than the ttl
    ]
    kinds = frame.kinds_of(shop, "asked")
    assert (kinds["spend_30d"], kinds["orders"], kinds["spend_ratio"]) == ("number", "integer", "number")
    fields = fields_of(table, target="late", views=frame.views(shop), derived=frame.derived(shop), kinds=kinds)
    assert {field.name: field.view for field in fields}["strained"] == "@derived"


def test_a_request_finds_online_what_the_training_frame_holds(shop: Context) -> None:
    found = definitions.of(shop)
    operations.materialize(shop, "spend")
    table = frame.training_frame(shop, "asked").to_pylist()
    for row in table:
        request = msgspec.json.decode(msgspec.json.encode({name: row[name] for name in ("customer_id", "asked")}))
        features = look_up(shop.online, frame.uses(found.views), [request], row["at"].timestamp(), found.derived)[0]
        assert features == {name: row[name] for name in features}
        assert features.keys() >= {"spend_30d", "limit", "each", "spend_ratio", "strained"}
    sent = look_up(shop.online, frame.uses(found.views), [{"customer_id": 7, "asked": 1, "spend_ratio": 2.0}], on(25).timestamp(), found.derived)
    assert sent[0]["strained"] == 2.01  # the request wins
    assert "spend_ratio" not in sent[0]


def test_a_request_without_what_a_derived_input_needs_is_refused(shop: Context) -> None:
    found = definitions.of(shop)
    with pytest.raises(InvalidInput, match=r"inputs\[0\].asked is absent; 'strained' is computed from it"):
        look_up(shop.online, frame.uses(found.views), [{"customer_id": 7}], 0.0, found.derived)
    with pytest.raises(InvalidInput, match="asked: 'much' is not of the kind number"):
        look_up(shop.online, frame.uses(found.views), [{"customer_id": 7, "asked": "much"}], 0.0, found.derived)


def test_a_change_below_a_derived_input_is_another_version_of_it(shop: Context) -> None:
    before = {each.name: each.version for each in frame.derived(shop)}
    (shop.root / "features.py").write_text(FILE.replace('last="30d")\n    limit', 'last="20d")\n    limit'))
    after = {each.name: each.version for each in frame.derived(shop)}
    assert before["spend_ratio"] != after["spend_ratio"]
    assert before["strained"] != after["strained"]
    (shop.root / "features.py").write_text(FILE.replace('owner="ann"', 'owner="bob"').replace("What a customer spent", "Money"))
    assert {each.name: each.version for each in frame.derived(shop)} == before
    assert frame.views(shop)[0].description == "Money."


def test_an_earlier_version_stays_within_reach_beside_the_current_one(shop: Context) -> None:
    frame.training_frame(shop, "asked")
    old = frame.views(shop)[0]
    (shop.root / "features.py").write_text(FILE.replace('sum_("amount", last="30d")', 'sum_("amount", last="10d")'))
    assert frame.view_named(shop, "spend") != old
    assert frame.view_named(shop, f"spend@{old.version}") == old
    assert frame.view_named(shop, f"spend@{old.version[:6]}") == old
    asked: list[str] = []
    sa.event.listen(shop.catalog.engine, "before_cursor_execute", lambda *call: asked.append(call[2]))
    assert frame.pinned(shop, [old.ref]) == [frame.view_named(shop, f"spend@{old.version[:9]}")] == [old]
    assert asked == [], "what was looked up once is known by either name"


def test_a_model_learns_from_the_versions_of_views_that_the_task_names(shop: Context, reopen: Callable[..., Context]) -> None:
    rows = frame.training_frame(shop, "asked").to_pylist()
    old = frame.views(shop)[0]
    more = """
@features(entity="customer_id", source="orders", at="ts")
class Visits:
    visits = count(last="90d")


@derived
def often(visits: float) -> float:
    return visits / 90
"""
    (shop.root / "features.py").write_text(FILE.replace('sum_("amount", last="30d")', 'sum_("amount", last="10d")') + more)
    assert [row["spend_30d"] for row in frame.training_frame(shop, "asked").to_pylist()] != [row["spend_30d"] for row in rows]
    toml = '[project]\nname = "shop"\n[task]\ndataset = "asked"\ntarget = "late"\ntime = "at"\nviews = '
    pinned = reopen(f'{toml}["spend@{old.version[:6]}"]\n')
    assert frame.training_frame(pinned, "asked").to_pylist() == rows  # neither visits nor what is computed from them
    views, derived = frame.learnt_from(pinned)
    assert (views, [each.name for each in derived]) == ([old], ["spend_ratio", "strained"])
    assert [view.name for view in frame.views(pinned)] == ["spend", "visits"]  # which may be pushed to, filled and watched all the same
    assert operations.materialize(pinned, "spend").view == old.ref
    mixed = reopen(f'{toml}["visits", "spend@{old.version}"]\n')
    assert [row["spend_30d"] for row in frame.training_frame(mixed, "asked").to_pylist()] == [row["spend_30d"] for row in rows]
    assert "often" in frame.training_frame(mixed, "asked").column_names
    assert frame.training_frame(reopen(toml + "[]\n"), "asked").column_names == ["customer_id", "at", "asked", "late"]
    for said, views_ in (("did you mean 'spend'", '["spent"]'), ("twice", f'["spend", "spend@{old.version}"]'), ("spend@", '["spend@0000"]')):
        with pytest.raises(KaizenError, match=said):
            frame.training_frame(reopen(f"{toml}{views_}\n"), "asked")


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ('last="30d")\n    limit', 'last="30 days")\n    limit', 11, "last is '30 days', not a duration"),
        ('last="30d")\n    limit', 'lst="30d")\n    limit', 11, "did you mean 'last'"),
        ("ratio(spend_30d, orders)", 'ratio("spend_3d", orders)', 14, "did you mean 'spend_30d'"),
        ('latest("credit_limit")', "7", 7, "Spend.limit is 7, no feature"),
        ("-> float:\n    return spend_30d", "-> number:\n    return spend_30d", 17, "annotated 'number'"),
        ("spend_30d / limit if", "spend_30 / limit if", 19, "'spend_30' is none of its inputs; did you mean 'spend_30d'"),
        ("max(asked, FLOOR)", "open(asked)", 27, "'open' cannot be called in it"),
        ("    return spend_30d / limit", "    return (spend_30d / limit", 19, "was never closed"),
        ("import count, derived", "import coumt, derived", 2, "did you mean 'count'"),
        ("def spend_ratio(spend_30d: float", "def spend_ratio(strained: float, spend_30d: float", None, "in a circle"),
        ("def spend_ratio(", "def limit(", None, "'limit' is defined twice"),
    ],
)
def test_a_wrong_definition_names_its_place_and_what_is_meant(shop: Context, old: str, new: str, line: int | None, said: str) -> None:
    assert old in FILE
    (shop.root / "features.py").write_text(FILE.replace(old, new))
    with pytest.raises(InvalidSettings) as caught:
        frame.training_frame(shop, "asked")
    assert said.lower() in caught.value.what.lower()
    assert line is None or f"features.py:{line}:" in caught.value.what
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"amount"', '"amuont"', "orders has no column 'amuont'; did you mean 'amount'"),
        ('sum_("amount", last="30d")\n', 'sum_("ts", last="30d")\n', "is the sum of 'ts', which holds timestamp"),
        ("asked: float | None", "askd: float | None", "computed from 'askd', which asked lacks; did you mean 'asked'"),
    ],
)
def test_what_only_the_data_can_tell_is_told_with_the_nearest_name(shop: Context, old: str, new: str, said: str) -> None:
    text = FILE.replace(old, new)
    if "askd" in new:
        text = text.replace("asked is None", "True").replace("max(asked", "max(askd")
    (shop.root / "features.py").write_text(text)
    with pytest.raises(InvalidSettings, match="(?i)" + said.replace("'", ".")) as caught:
        frame.training_frame(shop, "asked")
    assert caught.value.remedy


def test_rows_may_come_from_a_query_that_reaches_nothing_else(shop: Context) -> None:
    pytest.importorskip("duckdb")
    query = "select customer_id, ts, amount, amount > 8 as large from orders where amount > 0"
    text = f'''
from kaizenml import features, max_, sum_

@features(entity="customer_id", source="orders", sql="{query}", at="ts")
class Large:
    large = sum_("large")
    most = max_("amount")
'''
    (shop.root / "features.py").write_text(text)
    rows = frame.training_frame(shop, "asked").to_pylist()
    assert [(row["large"], row["most"]) for row in rows] == [(2, 30.5), (0, 5.0), (None, None), (2, 30.5), (2, 30.5)]
    for bad in ("select * from read_csv(''/etc/passwd'')", "attach ''x.db''", "select 1; select 2"):
        (shop.root / "features.py").write_text(text.replace(query, bad.replace("''", "'")))
        with pytest.raises(Exception, match=r"query|SELECT|disabled"):
            frame.training_frame(shop, "asked")


VALUES = st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([0.0, -1.0, 1e308, 5e-324])
TEXTS = [
    "a / b if b else 0.0", "a ** b", "round(a, 2) % (b if b else 1)", "coalesce(a, 0) - (0 if b is None else b)", "a if 0 < a <= b else -b",
    "log(a) + sqrt(b)",
]  # fmt: skip


@given(text=st.sampled_from(TEXTS), rows=st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_a_derived_input_is_the_same_bits_over_columns_and_for_a_request(text: str, rows: list[tuple[Any, Any]]) -> None:
    each = Derived(name="d", inputs=["a", "b"], takes=["number", "number"], expression=text, kind="number", version="1")
    table = pa.table({"a": pa.array([a for a, _ in rows], pa.float64()), "b": pa.array([b for _, b in rows], pa.float64())})
    columns = frame._computed(table, each, "rows")["d"]
    served = []
    for a, b in rows:
        found: dict[str, Any] = {}
        kept = msgspec.json.decode(msgspec.json.encode(each), type=Derived)
        expressions.compute([kept], msgspec.json.decode(msgspec.json.encode({"a": a, "b": b})), found, 0)
        served.append(found["d"])
    assert columns.to_pylist() == served
    assert np.array([math.nan if v is None else v for v in served]).tobytes() == np.array(columns.to_numpy()).tobytes()


@pytest.mark.parametrize(
    "text",
    ["__import__('os')", "a.__class__", "(lambda: 1)()", "[x for x in a]", "'%99999999d' % a", "'x' * 9999999999", "f'{a}'", "a[0]", "a if b",
     "1 +" * 50_000 + "1", "a(1)", "(a := 1)", "9 ** 9 ** 9 ** 9"],
)  # fmt: skip
def test_an_expression_from_a_stranger_reaches_nothing_and_cannot_grow(text: str) -> None:
    each = Derived(name="d", inputs=["a"], takes=["number"], expression=text, kind="number")
    if text == "9 ** 9 ** 9 ** 9":
        assert expressions.compile_derived(each)(1.0) is None  # of doubles: too large to be held
        return
    with pytest.raises(InvalidSettings):
        expressions.compile_derived(each)


def test_versions_stand_side_by_side_in_a_frame_of_whatever_rows(shop: Context) -> None:
    frame.training_frame(shop, "asked")
    old = frame.views(shop)[0]
    (shop.root / "features.py").write_text(FILE.replace('sum_("amount", last="30d")', 'sum_("amount", last="10d")'))
    rows = pa.table({"customer_id": [8, 7, None, 7], "when": pa.array([on(22), on(31), on(22), None], pa.timestamp("us", "UTC")), "asked": [1.0] * 4})
    found = features_for(shop, rows, at="when", views=["spend", f"spend@{old.version[:6]}"])
    assert found.column_names[3:7] == ["spend_30d", "limit", "orders", "each"]
    assert found["spend_30d"].to_pylist() == [5.0, 0.0, None, None]
    assert found[f"spend_30d@{old.version}"].to_pylist() == [5.0, 30.5, None, None]
    assert found["spend_ratio"].to_pylist() == [0.0, 0.0, None, None]
    assert found["customer_id"].to_pylist() == [8, 7, None, 7]
    done = operations.frame(shop, "asked", at="at", out=shop.root / "known.csv")
    assert (done.rows, done.known["orders"]) == (5, 3)
    assert (shop.root / "known.csv").read_text().splitlines()[0].endswith('"spend_ratio","strained"')
    with pytest.raises(InvalidInput, match="no column 'whn'; did you mean 'when'"):
        features_for(shop, rows, at="whn")
    with pytest.raises(InvalidInput, match="no column 'customer_id', by which the features of 'spend' are found"):
        features_for(shop, rows.drop_columns(["customer_id"]), at="when")
    with pytest.raises(NotFound, match="spend@ffff"):
        features_for(shop, rows, views=["spend@ffff"])


def test_a_derived_input_is_no_view_and_is_told_apart(shop: Context) -> None:
    with pytest.raises(NotFound, match="'spend_ratio' is a derived input, computed from spend_30d, limit"):
        operations.show(shop, "spend_ratio")


def test_a_frame_is_of_files_that_are_there_and_goes_where_it_can_be_written(shop: Context) -> None:
    with pytest.raises(NotFound, match="there is no file"):
        operations.frame(shop, str(shop.root / "askd.csv"), at="at")
    with pytest.raises(NotFound, match="there is no folder"):
        operations.frame(shop, "asked", at="at", out=shop.root / "gone" / "known.csv")
    (shop.root / "some.tsv").write_text("customer_id\tat\n7\t2026-01-31T00:00:00Z\n")
    assert operations.frame(shop, str(shop.root / "some.tsv"), at="at").known["limit"] == 1


def test_a_hidden_entity_is_found_by_its_value_and_a_repeated_push_is_one_row(ctx: Context, reopen: Callable[..., Context]) -> None:
    now = dt.datetime.fromtimestamp(ctx.clock.timestamp(), dt.UTC)
    shop = reopen('[project]\nname = "shop"\n')
    (shop.root / "features.py").write_text(
        "from kaizenml import features, sum_\n"
        '@features(entity=["customer", "place"], source="orders", at="ts")\nclass Spend:\n    spent = sum_("amount")\n'
    )
    (shop.root / "contracts").mkdir(exist_ok=True)
    (shop.root / "contracts" / "orders.toml").write_text(
        'key = "id"\n[[columns]]\nname = "id"\nkind = "integer"\nnullable = false\n'
        '[[columns]]\nname = "customer"\nkind = "text"\npersonal = {kind = "id", decision = "pseudonym"}\n'
    )
    rows = [{"id": n, "customer": "ada|1", "place": "x", "ts": now - (3 - n) * DAY, "amount": 2.0} for n in range(3)]
    data.add(shop, "orders", table=pa.Table.from_pylist(rows))
    assert tables.read(shop, "orders")["customer"][0].as_py().startswith("kzp_")
    operations.materialize(shop, "spend")
    assert operations.get(shop, "spend", "ada\\|1|x").at == (now - DAY).timestamp()
    asked = pa.table({"customer": ["bob", "ada|1", None], "place": ["x"] * 3, "when": pa.array([now] * 3, pa.timestamp("us", "UTC"))})
    found = features_for(shop, asked, at="when")
    assert (found["spent"].to_pylist(), found.drop_columns(["spent"])) == ([None, 6.0, None], asked)
    for _ in range(2):
        operations.push(shop, "spend", [{"id": 9, "customer": "ada|1", "place": "x", "ts": now.isoformat(), "amount": 1.0}])
    flushed = operations.flush(shop, "spend")
    assert flushed is not None
    assert (flushed.rows, flushed.quarantined) == (4, 0)


def test_a_row_that_is_asked_about_may_not_count_in_its_own_features(shop: Context, reopen: Callable[..., Context]) -> None:
    toml = '[project]\nname = "shop"\n[task]\ndataset = "orders"\ntarget = "credit_limit"\ntime = "ts"\n'
    (shop.root / "features.py").write_text(FILE[: FILE.index("@derived")])
    with pytest.raises(InvalidSettings, match="would count in its own features"):
        frame.training_frame(reopen(toml), "orders")
    rows = frame.training_frame(reopen(toml + 'asked_before = "1s"\n'), "orders").to_pylist()
    assert [row["spend_30d"] for row in rows] == [None, 10.0, None, 10.0]
