"""Spark gives what this process gives, on the same data: the command runs in a process of its own, which has PySpark on its path."""

from __future__ import annotations

import datetime as dt
import glob
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from engines import S3
from kaizenml.context import Context
from kaizenml.data import exclusions
from kaizenml.data import operations as data
from kaizenml.errors import InvalidSettings, MissingExtra
from kaizenml.features.offline import frame
from kaizenml.features.offline.asking import features_for, rows_named
from kaizenml.features.view import FeatureView
from kaizenml.project import open_project

ROOT = Path(__file__).parents[2]
PYSPARK = glob.glob(str(ROOT / ".venv-spark" / "lib" / "python3.*" / "site-packages"))
QUICK = """
spark.sql.adaptive.enabled false
spark.sql.codegen.wholeStage false
spark.sql.codegen.factoryMode NO_CODEGEN
spark.driver.extraJavaOptions -XX:TieredStopAtLevel=1
"""
"""What makes few rows quick: compiling the plans takes longer than they do."""
ROUNDED = 1e-12  # of the values' magnitude: sums of numbers are rounded at every step on Spark, once here

TOML = """
[project]
name = "shop"
[task]
dataset = "asked"
target = "late"
time = "at"
[features.newest]
dataset = "orders"
entity = "who"
columns = ["amount", "pieces", "what", "paid", "seen"]
at = "ts"
ttl = "3h"
[features.look]
dataset = "people"
entity = "who"
columns = ["grade"]
"""
FILE = '''
from kaizenml import count, derived, distinct, features, first, latest, max_, mean, min_, ratio, since, std, sum_


@features(entity="who", source="orders", at="ts", ttl="9h")
class Sliding:
    s_rows = count(last="4h")
    s_count = count("amount", last="4h")
    s_sum = sum_("amount", last="4h")
    s_all = sum_("amount")
    s_pieces = sum_("pieces", last="4h")
    s_paid = sum_("paid", last="4h")
    s_mean = mean("amount", last="4h")
    s_whole = mean("pieces", last="4h")
    s_min = min_("amount", last="4h")
    s_max = max_("pieces", last="4h")
    s_std = std("amount", last="4h")
    s_distinct = distinct("what", last="4h")
    s_numbers = distinct("amount")
    s_first = first("what", last="4h")
    s_latest = latest("seen")
    s_last = latest("amount", last="2h")
    s_since = since("amount")
    s_ratio = ratio(s_pieces, s_count)


@features(entity=["who", "shop"], source="orders", at="ts")
class Stepped:
    t_rows = count(last="6h", every="2h")
    t_sum = sum_("amount", last="2h", every="2h")
    t_last = mean("amount", n=3)
    t_kinds = distinct("what", n=4, last="8h")
    t_std = std("pieces", n=5)
    t_first = first("what", n=2)
    t_least = min_("amount", n=2)


@features(entity="who", source="orders", at="ts", created="seen")
class Known:
    k_rows = count(last="5h")
    k_all = count("what")
    k_sum = sum_("amount", last="5h")
    k_pieces = sum_("pieces")
    k_latest = latest("what")
    k_max = max_("amount", last="5h", every="1h")
    k_since = since()


@features(entity="who", source="people")
class Ever:
    e_count = count()
    e_latest = latest("grade")


@derived
def spread(s_max: int | None, s_mean: float | None) -> float | None:
    return None if s_max is None or s_mean is None else s_max - s_mean
'''


def on(hour: float) -> dt.datetime:
    return dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(hours=hour)


def orders(seed: int, rows: int) -> pa.Table:
    """Rows with ties, the same row again, rows without an entity, a time or a value, and rows that became known late."""
    rng = random.Random(seed)
    found: list[dict[str, Any]] = []
    for _ in range(rows):
        hour = rng.choice([rng.randrange(24), rng.randrange(24), rng.uniform(0, 24)])
        found.append({
            "who": rng.choice(["a", "b", "c", "only", None]),
            "shop": rng.choice([1, 2, None]),
            "ts": None if rng.random() < 0.03 else on(hour),
            "seen": None if rng.random() < 0.3 else on(hour + rng.choice([-1.0, 0.0, 0.0, 0.5, 6.0])),
            "amount": rng.choice([None, 0.1, 0.2, -0.0, 1e6 / 3, rng.uniform(-5, 5)]),
            "pieces": rng.choice([None, 0, 1, 7, 2**40 + 1]),
            "what": rng.choice([None, "x", "y", "ü", ""]),
            "paid": rng.choice([None, True, False]),
        })  # fmt: skip
    found += rng.sample(found, rows // 10)
    schema = pa.schema([
        ("who", pa.string()), ("shop", pa.int64()), ("ts", pa.timestamp("us", "UTC")), ("seen", pa.timestamp("us", "UTC")),
        ("amount", pa.float64()), ("pieces", pa.int64()), ("what", pa.string()), ("paid", pa.bool_()),
    ])  # fmt: skip
    return pa.Table.from_pylist(found, schema=schema)


def asked(seed: int, rows: int) -> pa.Table:
    """Questions at whole hours too, where rows lie and windows and ttls end; some of nobody, of somebody unknown, or of no moment."""
    rng = random.Random(seed)
    found = [
        {
            "who": rng.choice(["a", "b", "c", "only", "nobody", None]),
            "shop": rng.choice([1, 2, 3, None]),
            "at": None if rng.random() < 0.05 else on(rng.choice([rng.randrange(-2, 40), rng.uniform(-2, 40)])),
            "late": rng.choice([True, False]),
        }
        for _ in range(rows)
    ]
    schema = pa.schema([("who", pa.string()), ("shop", pa.int64()), ("at", pa.timestamp("us", "UTC")), ("late", pa.bool_())])
    return pa.Table.from_pylist(found, schema=schema)


@pytest.fixture
def shop(reopen: Callable[..., Context]) -> Context:
    return filled(reopen(TOML))


def filled(opened: Context) -> Context:
    (opened.root / "features.py").write_text(FILE, encoding="utf-8")
    data.add(opened, "orders", table=orders(1, 150), source_name="till")
    data.add(opened, "orders", table=orders(2, 100), source_name="feed")
    data.add(opened, "people", table=pa.table({"who": ["a", "b", "a", None, "c"], "grade": [1, 2, 3, 4, None]}))
    data.add(opened, "asked", table=asked(3, 120))
    with opened.catalog.write() as connection:
        left_out = [("feed", "ts", on(4), on(7)), (None, "ts", on(20), on(21)), ("none", None, None, None)]
        for number, (source, time, since, until) in enumerate(left_out, 1):
            since_s, until_s = (None if moment is None else moment.timestamp() for moment in (since, until))
            one = exclusions.Exclusion(id=number, dataset="orders", source=source, time=time, since=since_s, until=until_s, by="test", at=0.0)
            exclusions.save(connection, one)
    return opened


def spark(ctx: Context, code: str, *more: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a program with the project, in a process that has PySpark."""
    if not PYSPARK:
        pytest.skip(".venv-spark is not there: ./x spark")
    if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
        pytest.skip("there is no Java: install default-jre-headless")
    (ctx.root / "spark-defaults.conf").write_text(QUICK, encoding="utf-8")
    known = {**os.environ, "PYTHONPATH": PYSPARK[0], "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_CONF_DIR": str(ctx.root), **environ}
    start = [sys.executable, "-c", code, str(ctx.root), *more]
    return subprocess.run(start, capture_output=True, text=True, timeout=200, env=known)


TAKE = """
import sys
import pyarrow.parquet as pq
from pathlib import Path
from kaizenml.cli import main
from kaizenml.features.offline import asking, frame
from kaizenml.project import open_project
root = Path(sys.argv[1])
ctx = open_project(root)
pq.write_table(frame.training_frame(ctx, "asked"), root / "frame.parquet")
if len(sys.argv) > 2:  # the same rows in a bucket, of which this Spark has no connector
    there = open_project(Path(sys.argv[2]))
    pq.write_table(asking.features_for(there, asking.rows_named(there, "asked"), at="at", views=["newest"]), root / "bucket.parquet")
asking.PIECE = 60
out = str(root / "newest.parquet")
wanted = ["--views", "known,look", "--engine", "spark", "--out", out]
sys.argv = ["kaizen", "--project", str(root), "features", "frame", "asked", *wanted, "--json"]
main()
"""


def differing(found: pa.Table, expected: pa.Table) -> list[tuple[Any, ...]]:
    """Return where two tables differ: not by a bit, but for sums of numbers."""
    assert found.schema.equals(expected.schema), (found.schema, expected.schema)
    wrong = []
    for name in expected.column_names:
        rounded = name.startswith(("s_sum", "s_all", "s_mean", "s_std", "t_sum", "t_last", "t_std", "k_sum", "spread"))
        for row, (one, other) in enumerate(zip(found[name].to_pylist(), expected[name].to_pylist(), strict=True)):
            if rounded and one is not None and other is not None:
                if abs(one - other) > ROUNDED * max(abs(other), 1.0 if name == "t_std" else 1e6):
                    wrong.append((name, row, one, other))
            elif repr(one) != repr(other):
                wrong.append((name, row, one, other))
    return wrong


@pytest.mark.slow
def test_spark_gives_what_this_process_gives(shop: Context, s3: S3, tmp_path: Path):
    in_bucket = tmp_path / "bucket"
    in_bucket.mkdir()
    (in_bucket / "kaizen.toml").write_text(TOML.replace('name = "shop"', f'name = "shop"\nobjects = "{s3.url}/shop"'), encoding="utf-8")
    there = filled(open_project(in_bucket))
    done = spark(shop, TAKE, str(in_bucket), KAIZEN_PROJECT_ENGINE="spark")
    assert done.returncode == 0, done.stderr[-4000:]
    before = rows_named(shop, "asked")
    newest = features_for(shop, before, views=["known", "look"])
    bucket = features_for(there, rows_named(there, "asked"), at="at", views=["newest"])
    for name, expected in (("frame", frame.training_frame(shop, "asked")), ("newest", newest), ("bucket", bucket)):
        assert not differing(pyarrow.parquet.read_table(shop.root / f"{name}.parquet"), expected)
        known = sum(len(column) - column.null_count for column in expected.columns[before.num_columns :])
        assert known > (100 if name == "bucket" else 400)  # there was something to compare
    assert json.loads(done.stdout[done.stdout.index("{") :])["rows"] == before.num_rows
    assert not [*(shop.state / "frames").iterdir(), *(there.state / "frames").iterdir()]  # nothing is left behind
    there.online.close()
    there.catalog.close()


def test_without_pyspark_the_command_that_installs_it_is_named(shop: Context):
    with pytest.raises(MissingExtra, match="kaizenml\\[spark\\]"):
        features_for(shop, asked(4, 3), at="at", engine="spark")


@pytest.mark.parametrize(
    ("view", "told"),
    [
        (FeatureView(name="asks", dataset="orders", entity="who", columns=["sold"], sql="SELECT who, 1 AS sold FROM orders"), "what a query gives"),
        (FeatureView(name="priced", dataset="orders", entity="amount", columns=["what"], at="ts"), "'amount', which holds number"),
        (FeatureView(name="misspelt", dataset="orders", entity="who", columns=["amuont"], at="ts"), "did you mean 'amount'"),
    ],
)  # fmt: skip
def test_what_spark_cannot_compute_is_told_before_it_starts(shop: Context, view: FeatureView, told: str):
    rows = pa.table({"who": ["a"], "amount": [1.5]})
    with pytest.raises(InvalidSettings, match=told) as caught:
        frame.with_features(shop, rows, [view], [], known_at=None, told="the rows", engine="spark")
    assert "--engine local" in caught.value.remedy or view.name == "misspelt"
