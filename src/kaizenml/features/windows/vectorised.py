"""Aggregates as they were known at each row's moment, over whole columns. ``aggregates.py`` states the rules; both give the same values.

The view's rows are sorted once by entity, time, and when they became known. A window is then a range of positions, found by binary
search, and what is asked of it comes from prefix sums (exact ones, see ``exact.py``), from minima over powers of two, or from a count of
values whose last occurrence lies before the window. Where rows became known late, a range is taken as far as all of it was known by then,
and the rows after that are looked at one by one. Entities are taken in blocks, so that memory stays bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kaizenml.features.encoding.vectorised import category_text, microseconds
from kaizenml.features.join import MISSING, codes, parted
from kaizenml.features.view import Aggregate
from kaizenml.features.windows import aggregates as plain
from kaizenml.features.windows.exact import Limbs, whole_numbers

Int64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
BLOCK = 1_000_000  # rows of the view, or pairs of a question and a late row, that are worked on together


class Known(NamedTuple):
    """A range of counting rows for each question, and beside it single ones (those that were known although later ones were not)."""

    begin: Int64
    end: Int64
    question: Int64  # of each single row, ascending
    place: Int64  # of each single row; all after the range


class _Sorted(NamedTuple):
    """The view's rows with an entity and a time, in order, and the questions."""

    order: Int64  # places in the view
    code: Int64
    at: Int64
    known: Int64 | None  # None: known at their event time
    questions: Int64  # places among the rows to enrich
    asked: Int64  # their entities
    moment: Int64


def aggregate(
    rows: pa.Table,
    view: pa.Table,
    *,
    on: list[str],
    aggregates: Sequence[Aggregate],
    at: str | None,
    created: str | None,
    known_at: Int64 | None,
    ttl_us: int | None,
    block: int = BLOCK,
) -> pa.Table:
    """Return the aggregates for each of ``rows``.

    Parameters
    ----------
    rows : the table to enrich.
    view : the feature rows in the order in which they were added.
    on : the columns that make an entity together, in both tables.
    at, created : column names in ``view``. Without ``at`` only the order of addition counts.
    known_at : for each row the moment of asking, in microseconds since 1970 UTC; ``MISSING`` finds nothing. None: the newest time in the
        view, and no ttl.
    ttl_us : the view's.

    Returns
    -------
    A table with a column for each aggregate, as long as ``rows`` and in their order.

    >>> orders = pa.table({"who": ["a", "a"], "at": pa.array([0, 7_200_000_000], pa.timestamp("us")), "paid": [1.5, 2.0]})
    >>> asked = np.array([3_600_000_000, 7_200_000_000])
    >>> spend = [Aggregate(name="spend", function="sum", column="paid", last_s=10_000.0)]
    >>> aggregate(pa.table({"who": ["a", "a"]}), orders, on=["who"], aggregates=spend, at="at", created=None, known_at=asked,
    ...     ttl_us=None)["spend"].to_pylist()
    [1.5, 3.5]
    """
    of_rows, of_view = codes(rows, view, on)
    found = _sorted(view, of_rows, of_view, at=at, created=created, known_at=known_at)
    outputs = [_Output(each, rows.num_rows, None if each.column is None else view.column(each.column).type) for each in aggregates]
    columns = {name: _Column(view.column(name)) for name in dict.fromkeys(each.column for each in aggregates if each.column)}
    for piece in _blocks(found, block):
        _block(piece, columns, outputs, None if known_at is None else ttl_us, block)
    by_name = {each.aggregate.name: each for each in outputs}
    for each in outputs:
        if each.aggregate.function == "ratio":
            each.divide(*(by_name[name] for name in each.aggregate.of))
    return pa.table([each.array(view) for each in outputs], names=[each.aggregate.name for each in outputs])


def once(view: pa.Table, *, on: list[str], times: list[str], values: list[str]) -> pa.Table:
    """Return the rows without those that agree with an earlier one in entity, times and values."""
    found, _ = codes(view, view, on)
    keys = [found, *(_times(view, name)[0] for name in times)]
    order = np.lexsort(keys[::-1])
    same = np.ones(max(len(order) - 1, 0), bool)
    for key in keys:
        same &= key[order][1:] == key[order][:-1]
    doubtful = np.sort(order[np.concatenate([same, [False]]) | np.concatenate([[False], same])]) if len(order) else order
    if not len(doubtful):
        return view
    rows = view.select(list(dict.fromkeys([*on, *times, *values]))).take(pa.array(doubtful))
    for place, name in enumerate(rows.column_names):
        if pa.types.is_floating(rows.schema.field(name).type):  # what is no finite number is null to the online store
            column = rows.column(name)
            rows = rows.set_column(place, name, pc.if_else(pc.fill_null(pc.is_finite(column), False), column, None))
    seen: set[tuple[Any, ...]] = set()
    again = []
    for place, row in zip(doubtful.tolist(), zip(*(column.to_pylist() for column in rows.columns), strict=True), strict=True):
        if row in seen:
            again.append(place)
        seen.add(row)
    keep = np.ones(view.num_rows, bool)
    keep[again] = False
    return view.filter(pa.array(keep)) if again else view


def _sorted(view: pa.Table, of_rows: Int64, of_view: Int64, *, at: str | None, created: str | None, known_at: Int64 | None) -> _Sorted:
    times, missing = _times(view, at)
    known = times
    if created is not None:
        learnt, unsaid = _times(view, created)
        known = np.where(unsaid, times, np.maximum(learnt, times))
    usable = np.flatnonzero((of_view >= 0) & ~missing)
    code, times, known = of_view[usable], times[usable], known[usable]
    late = created is not None and bool((known > times).any())
    if late or not bool((times[1:] >= times[:-1]).all()):
        by_time = np.lexsort((known, times)) if late else np.argsort(times, kind="stable")  # stable: what was added later stays behind
        usable, code, times, known = usable[by_time], code[by_time], times[by_time], known[by_time]
    if len(code):
        _, order, times = parted(code, times, int(code.max()) + 1)
        usable, code, known = usable[order], code[order], known[order] if late else times
    if at is None:
        moments = np.zeros(len(of_rows), np.int64)
    elif known_at is None:
        moments = np.full(len(of_rows), known.max(initial=MISSING))
    else:
        moments = known_at
    questions = np.flatnonzero((of_rows >= 0) & (moments != MISSING))
    questions = questions[np.argsort(of_rows[questions], kind="stable")]
    return _Sorted(usable, code, times, known if late else None, questions, of_rows[questions], moments[questions])


def _times(view: pa.Table, name: str | None) -> tuple[Int64, Bools]:
    if name is None:
        return np.zeros(view.num_rows, np.int64), np.zeros(view.num_rows, bool)
    times = microseconds(view.column(name))
    return np.asarray(times.fill_null(0).to_numpy(), np.int64), np.asarray(times.is_null().to_numpy(), bool)


def _blocks(found: _Sorted, size: int) -> Iterator[_Sorted]:
    """Cut the entities, which are in order, into blocks of about ``size`` rows and questions."""
    ends = np.unique(found.code, return_index=True)[1]
    begin = 0
    while begin < len(found.code):
        after = int(np.searchsorted(ends, begin + size, side="right"))
        end = len(found.code) if begin + size >= len(found.code) else max(int(ends[after - 1]), _next(ends, begin, len(found.code)))
        low, high = np.searchsorted(found.asked, [found.code[begin], found.code[end - 1] + 1])
        for start in range(low, high, size):
            stop = min(start + size, high)
            yield _Sorted(
                found.order[begin:end], found.code[begin:end], found.at[begin:end], None if found.known is None else found.known[begin:end],
                found.questions[start:stop], found.asked[start:stop], found.moment[start:stop],
            )  # fmt: skip
        begin = end


def _next(ends: Int64, begin: int, last: int) -> int:
    """Return where the entity that begins at ``begin`` ends."""
    place = int(np.searchsorted(ends, begin, side="right"))
    return int(ends[place]) if place < len(ends) else last


class _Finder:
    """Finds positions by entity and time in one block."""

    def __init__(self, code: Int64, times: Int64) -> None:
        self.first, last = int(times.min()), int(times.max())
        self.code0 = int(code[0])
        self.size = last - self.first + 2
        self.times: Int64 | None = None
        if self.size * (int(code[-1]) - self.code0 + 1) >= 2**62:
            self.times = np.unique(times)
            self.size = len(self.times) + 1
        self.keys = self.key(code, times)

    def key(self, code: Int64, times: Int64) -> Int64:
        """Return numbers in the order of (entity, time)."""
        if self.times is None:
            ranks = np.clip(times, self.first - 1, self.first + self.size - 2) - (self.first - 1)
        else:
            ranks = np.searchsorted(self.times, times, side="right")
        key: Int64 = (code - self.code0) * self.size + ranks
        return key

    def after(self, code: Int64, times: Int64) -> Int64:
        """Return for each how many rows come up to and including that time of that entity."""
        found: Int64 = np.searchsorted(self.keys, self.key(code, times), side="right")
        return found


def _block(piece: _Sorted, columns: dict[str, _Column], outputs: Sequence[_Output], ttl_us: int | None, size: int) -> None:
    """Answer a block's questions."""
    finder = _Finder(piece.code, piece.at)
    start = np.searchsorted(piece.code, piece.asked, side="left")
    now = finder.after(piece.asked, piece.moment)
    safe = now
    if piece.known is not None:
        by_known = _Finder(piece.code, piece.known)
        # once a row was not known yet, the running maximum stays beyond the moment until the next entity
        furthest = np.maximum.accumulate(by_known.keys)
        safe = np.minimum(np.searchsorted(furthest, by_known.key(piece.asked, piece.moment), side="right"), now)
        safe = np.maximum(safe, start)

    def known(begin: Int64, end: Int64, counted: Int64 | None, whole: bool) -> Iterator[tuple[slice, Known]]:
        return _known(piece, begin, end, safe=safe, counted=counted, whole=whole, size=size)

    alive = np.zeros(len(start), bool)
    for part, rows in known(start, now, None, False):
        newest = _last(rows)
        old = piece.at[np.maximum(newest, 0)] < _minus(piece.moment[part], ttl_us) if ttl_us is not None else newest < 0
        alive[part] = (newest >= 0) & ~old
    taken: dict[str | None, _Values] = {None: _Values(piece.at, None, None)}
    for output in outputs:
        each = output.aggregate
        if each.function == "ratio":
            continue
        if each.column not in taken:
            taken[each.column] = columns[str(each.column)].values(piece)
        values = taken[each.column]
        end, begin = now, start
        if each.every_s is not None:
            end = np.minimum(now, finder.after(piece.asked, _stepped(piece.moment, each.every_s)))
        if each.last_s is not None:
            close = piece.moment if each.every_s is None else _stepped(piece.moment, each.every_s)
            begin = np.minimum(finder.after(piece.asked, _minus(close, round(each.last_s * plain.SECOND_US))), end)
        for part, rows in known(begin, end, values.counted, each.n is not None or each.function == "distinct"):
            chosen = rows if each.n is None else _newest(rows, each.n)
            output.take(piece.questions[part], alive[part], values, chosen, piece.moment[part])


def _known(
    piece: _Sorted, begin: Int64, end: Int64, *, safe: Int64, counted: Int64 | None, whole: bool, size: int
) -> Iterator[tuple[slice, Known]]:
    """Yield which rows of [begin, end) were known, for slices of the questions; as places among those that count.

    ``whole``: where some were not known, all are given singly.
    """
    late = safe < end
    split = np.where(late, begin, end) if whole else np.clip(safe, begin, end)
    lengths = np.where(late, end - split, 0)
    places = counted if counted is not None else np.arange(len(piece.code) + 1)
    total = np.cumsum(lengths)
    low = 0
    while low < len(begin):
        high = max(low + 1, int(np.searchsorted(total, (total[low - 1] if low else 0) + size, side="right")))
        part = slice(low, high)
        length = lengths[part]
        question = np.repeat(np.arange(high - low), length)
        place = np.arange(len(question)) - np.repeat(np.cumsum(length) - length, length) + np.repeat(split[part], length)
        if len(place) and piece.known is not None:
            keep = piece.known[place] <= piece.moment[part][question]
            if counted is not None:
                keep &= counted[place + 1] > counted[place]
            question, place = question[keep], place[keep]
        yield part, Known(places[begin[part]], places[split[part]], question, places[place])
        low = high


def _last(rows: Known) -> Int64:
    """Return the newest place of each question, or -1."""
    found = np.where(rows.end > rows.begin, rows.end - 1, -1)
    found[rows.question] = rows.place  # ascending: the last one stays
    return found


def _first(rows: Known) -> Int64:
    found = np.where(rows.end > rows.begin, rows.begin, -1)
    question, place = rows.question[::-1], rows.place[::-1]
    single = np.full(len(found), -1, np.int64)
    single[question] = place
    return np.where(found >= 0, found, single)


def _newest(rows: Known, n: int) -> Known:
    """Keep the newest ``n`` of each question: where there are single rows, there is no range."""
    counts = np.bincount(rows.question, minlength=len(rows.begin))
    rank = np.arange(len(rows.question)) - np.repeat(np.cumsum(counts) - counts, counts)
    keep = rank >= counts[rows.question] - n
    return Known(np.maximum(rows.begin, rows.end - n), rows.end, rows.question[keep], rows.place[keep])


def _minus(moments: Int64, us: int) -> Int64:
    """Subtract without going below all times."""
    us = min(us, 2**63 - 1)
    return np.where(moments >= MISSING + us, moments - us, MISSING)


def _stepped(moments: Int64, every_s: float) -> Int64:
    every = round(every_s * plain.SECOND_US)
    return np.where(moments >= MISSING + every, moments // every * every, moments)


class _Column:
    """A column of the view, read once."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        if pa.types.is_decimal(column.type):
            column = column.cast(pa.float64())
        self.numbers: npt.NDArray[Any] | None = None
        self.codes: Int64 | None = None
        self.valid = np.asarray(column.is_valid().to_numpy(), bool)
        kind = column.type
        if pa.types.is_boolean(kind):
            column = column.cast(pa.int64())
        if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
            self.numbers = np.asarray(column.fill_null(0).cast(pa.int64()).to_numpy(), np.int64)
        elif pa.types.is_floating(kind):
            self.numbers = np.asarray(column.fill_null(0.0).cast(pa.float64()).to_numpy(), np.float64) + 0.0
            finite = np.isfinite(self.numbers)
            self.valid &= finite
            self.numbers[~finite] = 0.0
        else:
            times = pa.types.is_timestamp(kind) or pa.types.is_date(kind)
            encoded = (microseconds(column) if times else category_text(column)).combine_chunks().dictionary_encode()
            self.codes = np.asarray(encoded.indices.fill_null(-1).to_numpy(), np.int64)

    def values(self, piece: _Sorted) -> _Values:
        """Return what counts of it among a block's rows."""
        valid = self.valid[piece.order]
        kept = np.flatnonzero(valid)
        counted = np.concatenate([[0], np.cumsum(valid)])
        if self.numbers is not None:
            return _Values(piece.at[kept], counted, self.numbers[piece.order[kept]], order=piece.order[kept])
        return _Values(piece.at[kept], counted, None, order=piece.order[kept], coded=None if self.codes is None else self.codes[piece.order[kept]])


class _Values:
    """The counting values of a column in a block, and what is worked out of them once."""

    def __init__(
        self, at: Int64, counted: Int64 | None, numbers: npt.NDArray[Any] | None, *, order: Int64 | None = None, coded: Int64 | None = None
    ) -> None:
        self.at, self.counted, self.numbers, self.order, self.coded = at, counted, numbers, order, coded
        self._limbs: Limbs | None = None
        self._prefix: Int64 | None = None
        self._before: Int64 | None = None
        self._whole: tuple[npt.NDArray[np.object_], npt.NDArray[np.object_], int] | None = None

    def limbs(self) -> Limbs:
        if self._limbs is None:
            assert self.numbers is not None
            self._limbs = Limbs(self.numbers.astype(np.float64))
        return self._limbs

    def whole(self) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.object_], int]:
        """Return prefix sums of values and of squares as Python's whole numbers, and their shift."""
        if self._whole is None:
            assert self.numbers is not None
            whole, shift = whole_numbers(self.numbers)
            self._whole = _prefixed(whole), _prefixed(whole * whole), shift
        return self._whole

    def large(self) -> bool:
        """Whether sums of whole numbers may not fit 64 bits."""
        assert self.numbers is not None
        return bool(np.abs(self.numbers.astype(np.float64)).sum() >= 2.0**62)

    def prefix(self) -> Int64:
        """Return prefix sums of whole numbers."""
        if self._prefix is None:
            assert self.numbers is not None
            self._prefix = np.concatenate([[0], np.cumsum(self.numbers)])
        return self._prefix

    def before(self) -> Int64:
        """Return for each value the place of its occurrence before, plus one; 0 where there is none."""
        if self._before is None:
            coded = self.codes()
            order = np.argsort(coded, kind="stable")
            same = coded[order][1:] == coded[order][:-1]
            self._before = np.zeros(len(coded), np.int64)
            self._before[order[1:][same]] = order[:-1][same] + 1
        return self._before

    def codes(self) -> Int64:
        """Return values as numbers of which equal ones are equal."""
        if self.coded is None:
            assert self.numbers is not None
            self.coded = np.unique(self.numbers, return_inverse=True)[1].astype(np.int64)
        return self.coded


def _prefixed(values: npt.NDArray[np.object_]) -> npt.NDArray[np.object_]:
    found = np.empty(len(values) + 1, object)
    found[0] = 0
    found[1:] = np.add.accumulate(values) if len(values) else values
    return found


class _Output:
    """One aggregate's values for all rows."""

    def __init__(self, each: Aggregate, rows: int, column: pa.DataType | None) -> None:
        self.aggregate = each
        self.column = column
        self.valid = np.zeros(rows, bool)
        self.whole = each.function in ("count", "distinct", "first", "latest") or (each.function in ("sum", "min", "max") and _is_whole(column))
        self.values: npt.NDArray[Any] = np.zeros(rows, np.int64 if self.whole else np.float64)

    def take(self, questions: Int64, alive: Bools, values: _Values, rows: Known, moments: Int64) -> None:
        """Take the answers to some questions."""
        found, there = _REDUCED[self.aggregate.function](values, rows, moments)
        there = there & alive
        if found.dtype.kind == "f":
            there &= np.isfinite(found)
        if self.aggregate.function in ("first", "latest"):
            assert values.order is not None
            found = values.order[np.maximum(found, 0)] if len(values.order) else np.zeros_like(found)
        self.values[questions] = np.where(there, found, 0)
        self.valid[questions] = there

    def divide(self, above: _Output, below: _Output) -> None:
        """Take the ratio of two others."""
        first, second = above.values.astype(np.float64), below.values.astype(np.float64)
        self.valid = above.valid & below.valid & (second != 0)
        with np.errstate(over="ignore"):
            self.values = np.divide(first, second, out=np.zeros(len(first)), where=self.valid) + 0.0
        self.valid &= np.isfinite(self.values)

    def array(self, view: pa.Table) -> pa.ChunkedArray:
        """Return the column."""
        missing = ~self.valid
        if self.aggregate.function not in ("first", "latest"):
            return pa.chunked_array([pa.array(self.values, mask=missing)])
        column = view.column(str(self.aggregate.column))
        if pa.types.is_dictionary(column.type):
            column = category_text(column)
        combined = column.combine_chunks()
        if not len(combined):
            return pa.chunked_array([pa.nulls(len(missing), column.type)])
        return pa.chunked_array([pc.take(combined, pa.array(self.values, mask=missing))])


def _is_whole(column: pa.DataType | None) -> bool:
    return column is not None and (pa.types.is_integer(column) or pa.types.is_boolean(column))


def _counts(rows: Known) -> Int64:
    found: Int64 = rows.end - rows.begin + np.bincount(rows.question, minlength=len(rows.begin))
    return found


Reduced = tuple[npt.NDArray[Any], Bools]


def _count(values: _Values, rows: Known, moments: Int64) -> Reduced:
    counts = _counts(rows)
    return counts, np.ones(len(counts), bool)


def _sum(values: _Values, rows: Known, moments: Int64) -> Reduced:
    assert values.numbers is not None
    always = np.ones(len(rows.begin), bool)
    if values.numbers.dtype.kind == "f":
        limbs = values.limbs()
        sums = limbs.between(rows.begin, rows.end)
        if len(rows.question):
            for total, limb in zip(sums, limbs.limbs, strict=True):
                np.add.at(total, rows.question, limb[rows.place])
        return limbs.rounded(sums) + 0.0, always
    numbers = values.numbers
    if values.large():  # Python's whole numbers never overflow
        whole = values.whole()[0]
        exact = whole[rows.end] - whole[rows.begin]
        np.add.at(exact, rows.question, numbers[rows.place].astype(object))
        fits = np.array([-(2**63) <= each < 2**63 for each in exact], bool)
        return np.where(fits, exact, 0).astype(np.int64), fits
    prefix = values.prefix()
    summed = prefix[rows.end] - prefix[rows.begin]
    np.add.at(summed, rows.question, numbers[rows.place])
    return summed, always


def _mean(values: _Values, rows: Known, moments: Int64) -> Reduced:
    summed, there = _sum(values, rows, moments)
    counts = _counts(rows)
    return summed.astype(np.float64) / np.maximum(counts, 1), there & (counts > 0)


def _std(values: _Values, rows: Known, moments: Int64) -> Reduced:
    prefix, squares, shift = values.whole()
    counts = _counts(rows)
    first, second = prefix[rows.end] - prefix[rows.begin], squares[rows.end] - squares[rows.begin]
    if len(rows.question):
        single = prefix[rows.place + 1] - prefix[rows.place]
        np.add.at(first, rows.question, single)
        np.add.at(second, rows.question, single * single)
    found = [plain.deviation(*each, shift) for each in zip(counts.tolist(), first, second, strict=True)]
    there = np.array([each is not None for each in found], bool)
    return np.array([0.0 if each is None else each for each in found], np.float64), there


def _least(values: _Values, rows: Known, moments: Int64) -> Reduced:
    return _extreme(values, rows, np.minimum)


def _greatest(values: _Values, rows: Known, moments: Int64) -> Reduced:
    return _extreme(values, rows, np.maximum)


def _extreme(values: _Values, rows: Known, better: np.ufunc) -> Reduced:
    """Take the best of each range from the best over powers of two, one power after the other."""
    level = values.numbers
    assert level is not None
    lengths = rows.end - rows.begin
    single = _first(Known(rows.begin, rows.begin, rows.question, rows.place))
    there = (lengths > 0) | (single >= 0)
    if not len(level):
        return np.zeros(len(lengths)), there
    found = level[np.where(lengths > 0, np.minimum(rows.begin, len(level) - 1), np.maximum(single, 0))].copy()
    powers = np.frexp(lengths.astype(np.float64))[1] - 1
    for power in range(int(powers.max(initial=0)) + 1):
        if power:
            level = better(level[: -(2 ** (power - 1))], level[2 ** (power - 1) :])
        mine = np.flatnonzero((powers == power) & (lengths > 0))
        found[mine] = better(level[rows.begin[mine]], level[rows.end[mine] - 2**power])
    better.at(found, rows.question, values.numbers[rows.place])  # type: ignore[index]
    return found, there


def _distinct(values: _Values, rows: Known, moments: Int64) -> Reduced:
    """Count the values in a range whose occurrence before lies before the range."""
    found = np.where(rows.end > rows.begin, _below(values.before(), rows.end, rows.begin + 1) - rows.begin, 0)
    if len(rows.question):
        coded = values.codes()
        size = int(coded.max()) + 1
        pairs = np.unique(rows.question * size + coded[rows.place])
        found += np.bincount(pairs // size, minlength=len(found))
    return found, np.ones(len(found), bool)


def _below(values: Int64, end: Int64, limit: Int64) -> Int64:
    """Count for each question the values before ``end`` that are below ``limit``, bit by bit (a wavelet matrix)."""
    found, low, high = np.zeros(len(end), np.int64), np.zeros(len(end), np.int64), end
    for bit in range(int(max(values.max(initial=0), limit.max(initial=0))).bit_length() - 1, -1, -1):
        ones = (values >> bit) & 1 == 1
        zeros = np.concatenate([[0], np.cumsum(~ones)])
        low0, high0 = zeros[low], zeros[high]
        up = (limit >> bit) & 1 == 1
        found += np.where(up, high0 - low0, 0)
        low, high = np.where(up, zeros[-1] + low - low0, low0), np.where(up, zeros[-1] + high - high0, high0)
        values = np.concatenate([values[~ones], values[ones]])
    return found


def _oldest(values: _Values, rows: Known, moments: Int64) -> Reduced:
    found = _first(rows)
    return found, found >= 0


def _latest(values: _Values, rows: Known, moments: Int64) -> Reduced:
    found = _last(rows)
    return found, found >= 0


def _since(values: _Values, rows: Known, moments: Int64) -> Reduced:
    found = _last(rows)
    if not len(values.at):
        return np.zeros(len(found)), found >= 0
    return (moments - values.at[np.maximum(found, 0)]) / 1e6, found >= 0


_REDUCED: dict[str, Callable[[_Values, Known, Int64], Reduced]] = {
    "count": _count, "sum": _sum, "mean": _mean, "std": _std, "min": _least, "max": _greatest, "distinct": _distinct,
    "first": _oldest, "latest": _latest, "since": _since,
}  # fmt: skip
