"""Features on Spark: point-in-time joins and windows as window functions over the union of a view's rows and the rows that ask.

Every row that asks lies among the rows of its entity, at its moment. The newest value is then the last one before it, a window a range of
the order. Where rows became known late, or only the newest n count, the range is taken as a list, which is filtered, sorted and cut. What
was added later wins among equals: Spark tells the place of a row in its file, the files' order is given. No Python runs on the workers.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from py4j.protocol import Py4JJavaError  # type: ignore[import-not-found]
from pyspark.sql import Column, DataFrame, SparkSession, Window, WindowSpec
from pyspark.sql import functions as f
from pyspark.sql import types as t

from kaizenml.ports import Behind, Excluded, Wanted

_TYPES: dict[str, t.DataType] = {
    "number": t.DoubleType(), "integer": t.LongType(), "boolean": t.BooleanType(), "timestamp": t.TimestampType(),
    "category": t.StringType(), "text": t.StringType(),
}  # fmt: skip
_NUMBERS = frozenset({"number", "integer", "boolean"})
_SOURCE = "_source"
_PART = "_part"
_FILE_ROWS = 1 << 33
"""More rows than a file has: the place of a row among all is that of its file times this, and its place there."""
_CONF = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",
    "spark.sql.caseSensitive": "true",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.sql.parquet.datetimeRebaseModeInRead": "CORRECTED",
    "spark.sql.parquet.datetimeRebaseModeInWrite": "CORRECTED",
    "spark.sql.sources.partitionColumnTypeInference.enabled": "true",
}
_SMALL = 64_000_000  # bytes of rows that are not worth more than a few tasks


class SparkFrames:
    """The port's engine. Master, memory and libraries are what Spark's own configuration says (``SPARK_CONF_DIR``); without, this machine."""

    def __init__(self, scratch: Path) -> None:
        builder = SparkSession.builder.appName("kaizen").config("spark.ui.enabled", "false").config("spark.ui.showConsoleProgress", "false")
        self._spark = builder.config("spark.sql.warehouse.dir", str(scratch / "warehouse")).getOrCreate()
        self._spark.sparkContext.setLogLevel("ERROR")
        for name, value in _CONF.items():
            self._spark.conf.set(name, value)

    def reads(self, location: str) -> bool:
        """Tell whether Spark has the connector of an object store among its jars."""
        hadoop = self._spark.sparkContext._jsc.hadoopConfiguration()
        try:
            self._spark.sparkContext._jvm.org.apache.hadoop.fs.FileSystem.getFileSystemClass(urlsplit(location).scheme, hadoop)
        except Py4JJavaError:
            return False
        return True

    def join(self, asked: Path, behind: Behind, out: Path) -> None:
        """Answer each row of ``asked``."""
        if asked.stat().st_size < _SMALL and self._spark.sparkContext.master.startswith("local"):
            self._spark.conf.set("spark.sql.shuffle.partitions", str(self._spark.sparkContext.defaultParallelism))
        events = self._events(behind)
        keys = [f"k{place}" for place in range(len(behind.entities))]
        questions = self._spark.read.parquet(asked.resolve().as_uri())
        if behind.newest:
            newest = events.agg(f.max("known")).first()
            questions = questions.withColumn("t", f.lit(newest[0] if newest else None).cast("bigint"))
        there = _all([f.col(name).isNotNull() for name in (*keys, "t")])
        names = [f"f{place}" for place in range(len(behind.wanted))]
        union = _union(events, questions.where(there), keys, sorted({each.every_us or 0 for each in behind.wanted}))
        answered = union.select("*", *_features(behind, keys)).where(f.col("row").isNotNull()).select("row", *names)
        kinds = dict(answered.dtypes)
        nothing = questions.where(~there).select("row", *(f.lit(None).cast(kinds[name]).alias(name) for name in names))
        aside = out.with_name(f"{out.name}-unordered").resolve().as_uri()  # sorting looks at its input twice, and windows are dear
        answered.unionByName(nothing).write.mode("overwrite").parquet(aside)
        self._spark.read.parquet(aside).orderBy("row").write.mode("overwrite").parquet(out.resolve().as_uri())

    def close(self) -> None:
        """End the session, and with it the Java process where it runs on this machine."""
        self._spark.stop()

    def _events(self, behind: Behind) -> DataFrame:
        """Return the rows that count: entity as text, ``at`` and ``known`` in microseconds, ``seq`` in the order of addition, values."""
        hidden = {each.time for each in behind.excluded if each.time in behind.kinds}
        schema = t.StructType([t.StructField(name, _TYPES[kind]) for name, kind in behind.kinds.items()])
        if behind.excluded:
            schema = schema.add(_SOURCE, t.StringType())
        schema = schema.add(_PART, t.LongType())
        stored = self._spark.read.schema(schema).option("basePath", behind.root).parquet(*(file.location for file in behind.files))
        stored = stored.withColumns({"file": f.col("_metadata.file_name"), "place": f.col("_metadata.row_index")})
        listed = [(file.part, file.name, place, file.added_us) for place, file in enumerate(behind.files)]
        known = self._spark.createDataFrame(listed, "part bigint, name string, nth bigint, added bigint")
        rows = stored.join(f.broadcast(known), (stored[_column(_PART)] == known["part"]) & (stored["file"] == known["name"]))
        for each in behind.excluded:
            rows = rows.where(~_covered(each, behind.first_source, timed=each.time in hidden))
        at = _micros(behind.at) if behind.at is not None else f.lit(0).cast("bigint")
        rows = rows.where(at.isNotNull()) if behind.at is not None else rows
        learnt = at if behind.created is None else f.greatest(at, f.coalesce(_micros(behind.created), at))
        entity = [f.col(_column(name)).cast("string").alias(f"k{place}") for place, name in enumerate(behind.entities)]
        values = [f.col(_column(name)).alias(f"v{place}") for place, name in enumerate(_columns(behind))]
        seq = (f.col("nth") * f.lit(_FILE_ROWS) + f.col("place")).alias("seq")
        created = f.lit(None).cast("bigint") if behind.created is None else _micros(behind.created)
        rows = rows.select(*entity, at.alias("at"), learnt.alias("known"), seq, created.alias("created"), *values)
        rows = rows.where(_all([f.col(f"k{place}").isNotNull() for place in range(len(behind.entities))]))
        return rows if behind.once is None else _once(rows, behind)


def _once(rows: DataFrame, behind: Behind) -> DataFrame:
    """Keep the first of rows that agree in all that is read of them; what is no finite number counts as null."""
    assert behind.once is not None
    columns = _columns(behind)
    same = [_finite(f.col(f"v{columns.index(name)}"), behind.kinds[name]) for name in behind.once]
    order = Window.partitionBy(*(f"k{place}" for place in range(len(behind.entities))), "at", "created", *same).orderBy("seq")
    return rows.withColumn("again", f.row_number().over(order)).where("again = 1").drop("again")


def _union(events: DataFrame, questions: DataFrame, keys: list[str], steps: Sequence[int]) -> DataFrame:
    """Return both with what orders them: ``o0`` by the moment, ``o{step}`` by the step's end at or before it, ``r`` by what was known."""
    moment = f.col("t")
    ends = {f"o{every}": moment - f.pmod(moment, f.lit(every).cast("bigint")) if every else moment for every in {0, *steps}}
    asked = questions.select(*keys, "row", "t", moment.alias("r"), f.lit(1).alias("q"), *(column.alias(name) for name, column in ends.items()))
    held = events.withColumns({"r": f.col("known"), "q": f.lit(0), **{name: f.col("at") for name in ends}})
    return held.unionByName(asked, allowMissingColumns=True)


def _features(behind: Behind, keys: list[str]) -> list[Column]:
    entity = Window.partitionBy(*keys)
    start = Window.unboundedPreceding
    event = f.col("q") == 0
    columns = _columns(behind)
    found = []
    young = f.lit(True)
    plain = [f"v{columns.index(str(each.column))}" for each in behind.wanted if each.function is None]
    behind_it = entity.orderBy("o0", "q", "seq").rowsBetween(start, Window.currentRow)
    last = f.last(f.when(event, f.struct("at", *dict.fromkeys(plain))), ignorenulls=True).over(behind_it)
    newest = f.max(f.when(event, f.struct("at", "known", "seq"))).over(entity.orderBy("r").rangeBetween(start, Window.currentRow))
    for place, each in enumerate(behind.wanted):
        row = last if each.function is None else newest
        if behind.ttl_us is not None and not behind.newest:
            young = row["at"] >= f.col("t") - f.lit(behind.ttl_us)
        value = last[f"v{columns.index(str(each.column))}"] if each.function is None else _aggregate(each, behind, entity)
        found.append(f.when(row.isNotNull() & young, value).alias(f"f{place}"))
    return found


def _aggregate(each: Wanted, behind: Behind, entity: WindowSpec) -> Column:
    """Return an aggregate over its window; the result for rows that hold no question is of no use."""
    low = Window.unboundedPreceding if each.last_us is None or each.last_us >= 1 << 62 else 1 - each.last_us
    frame = entity.orderBy(f"o{each.every_us or 0}").rangeBetween(low, Window.currentRow)
    kind = None if each.column is None else behind.kinds[each.column]
    value = f.lit(1) if each.column is None else f.col(f"v{_columns(behind).index(each.column)}")
    counted = (f.col("q") == 0) & (f.lit(True) if kind is None else _finite(value, kind).isNotNull())
    number = value if each.function in ("first", "latest") or kind not in _NUMBERS else _number(value, str(kind))
    if each.n is None and behind.created is None:
        return _framed(str(each.function), counted, number, kind, frame)
    held = f.collect_list(f.when(counted, f.struct("at", "known", "seq", number.alias("v")))).over(frame)
    held = f.array_sort(f.filter(held, lambda row: row["known"] <= f.col("t")))
    if each.n is not None:
        held = f.slice(held, f.greatest(f.size(held) - f.lit(each.n - 1), f.lit(1)), f.lit(each.n))
    return _listed(str(each.function), held, kind)


def _framed(function: str, counted: Column, value: Column, kind: str | None, frame: WindowSpec) -> Column:
    seen = f.when(counted, value)
    count = f.count(seen).over(frame)
    if function == "count":
        return count
    if function == "distinct":
        return f.size(f.collect_set(seen).over(frame)).cast("bigint")
    if function in ("sum", "mean"):
        summed = f.sum(seen if kind == "number" else seen.cast("decimal(19,0)")).over(frame)
        return _summed(function, f.coalesce(summed, f.lit(0)), count, kind)
    if function in ("min", "max"):
        return (f.min if function == "min" else f.max)(seen).over(frame)
    if function == "std":
        return f.stddev_samp(seen.cast("double")).over(frame)
    row = f.when(counted, f.struct("at", "known", "seq", value.alias("v")))
    found = (f.min if function == "first" else f.max)(row).over(frame)
    return _since(found["at"]) if function == "since" else found["v"]


def _listed(function: str, held: Column, kind: str | None) -> Column:
    count = f.size(held).cast("bigint")
    values = f.transform(held, lambda row: row["v"])
    if function == "count":
        return count
    if function == "distinct":
        return f.size(f.array_distinct(values)).cast("bigint")
    if function in ("sum", "mean"):
        if kind == "number":
            return _summed(function, f.aggregate(values, f.lit(0.0), operator.add), count, kind)
        whole = f.lit(0).cast("decimal(38,0)")
        return _summed(function, f.aggregate(values, whole, lambda summed, value: (summed + value).cast("decimal(38,0)")), count, kind)
    if function in ("min", "max"):
        return (f.array_min if function == "min" else f.array_max)(values)
    if function == "std":
        doubles = f.transform(values, lambda value: value.cast("double"))
        mean = f.aggregate(doubles, f.lit(0.0), operator.add) / f.greatest(count, f.lit(1))
        squares = f.aggregate(f.transform(doubles, lambda value: (value - mean) * (value - mean)), f.lit(0.0), operator.add)
        return f.when(count > 1, f.sqrt(squares / f.greatest(count - 1, f.lit(1))))
    row = f.try_element_at(held, f.lit(1 if function == "first" else -1))
    return _since(row["at"]) if function == "since" else row["v"]


def _summed(function: str, summed: Column, count: Column, kind: str | None) -> Column:
    """Return a sum, whole where it fits 64 bits, or the mean from it."""
    found = summed if kind == "number" else summed.try_cast("bigint")
    return found if function == "sum" else f.when(count > 0, found.cast("double") / f.greatest(count, f.lit(1)))


def _since(at: Column) -> Column:
    return (f.col("t") - at).cast("double") / f.lit(1e6)


def _covered(each: Excluded, first_source: str, *, timed: bool) -> Column:
    found = f.lit(True) if each.source is None else f.coalesce(f.col(_SOURCE), f.lit(first_source)) == f.lit(each.source)
    time = f.coalesce(_micros(str(each.time)), f.col("added")) if timed else f.col("added")
    if each.since_us is not None:
        found &= time >= f.lit(each.since_us)
    if each.until_us is not None:
        found &= time < f.lit(each.until_us)
    return found


def _columns(behind: Behind) -> list[str]:
    """Return the columns of values, each once."""
    return list(dict.fromkeys([*(each.column for each in behind.wanted if each.column is not None), *(behind.once or ())]))


def _column(name: str) -> str:
    """Quote a column's name."""
    return "`" + name.replace("`", "``") + "`"


def _micros(name: str) -> Column:
    return f.unix_micros(f.col(_column(name)))


def _finite(value: Column, kind: str) -> Column:
    if kind != "number":
        return value
    return f.when(~f.isnan(value) & (f.abs(value) < f.lit(float("inf"))), value)


def _number(value: Column, kind: str) -> Column:
    """Return truth values as 0 and 1, and no negative zero."""
    return value.cast("bigint") if kind == "boolean" else value + f.lit(0.0) if kind == "number" else value


def _all(conditions: Sequence[Column]) -> Column:
    return functools.reduce(operator.and_, conditions)
