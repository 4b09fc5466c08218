"""Joins new predictions and new outcomes with each other and with the old ones, so that every pair is counted once.

What is counted is a function of *all predictions up to a version* and *all outcomes up to a cursor*; a step adds exactly
what that function gained::

    new outcomes x predictions up to the new version   +   old outcomes x new predictions

Old outcomes without a prediction wait in a small table; which partitions hold the predictions of new outcomes is known
from the ids, which carry their time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kaizenml.context import Context
from kaizenml.features.signature import TaskKind
from kaizenml.monitoring import live, pairs
from kaizenml.monitoring.live import DayState
from kaizenml.monitoring.pairs import PairState
from kaizenml.monitoring.reference import Answers
from kaizenml.monitoring.store import AccuracyKey, Cursors, PairKey
from kaizenml.serving import outcomes
from kaizenml.serving.journaling import predictions
from kaizenml.serving.outcomes import Kept

BATCH = 50_000  # outcomes in one step
COLUMNS = ["id", "at", "day", "role", "release", "arm", "decided_by", "value", "probabilities"]


class Gathered(NamedTuple):
    """What one step looks at."""

    after: Cursors
    fresh: pa.Table  # new predictions, all columns
    old: pa.Table  # older predictions of the outcomes below, COLUMNS and what was asked for
    truths: dict[str, Any]  # outcome by prediction id: new ones, and old ones that new predictions meet
    settled: set[str]  # ids of old outcomes: their old predictions are counted already
    waiting: list[Kept]  # new outcomes without a live prediction
    found: list[str]  # ids that waited and have met their live prediction
    received: int  # new outcomes


def gather(ctx: Context, endpoint: str, before: Cursors, pending: Mapping[str, Any], *, extra: list[str], drained_at: float) -> Gathered:
    """Read what came since the cursors, and the older predictions that new outcomes belong to.

    Parameters
    ----------
    before : how far was observed.
    pending : outcomes that wait for their prediction, by id.
    extra : further columns of the predictions.
    drained_at : when the journal was last drained.
    """
    arrived = outcomes.since(ctx.state, endpoint, before.outcomes, BATCH)
    # older predictions are read first: whatever is drained meanwhile is then among the new ones
    truths = {kept.id: kept.value for kept in arrived}
    old = _read(ctx, endpoint, truths, extra)
    fresh, version = predictions.added_since(ctx, endpoint, before.predictions)
    here = _ids(fresh)
    met = {identity: value for identity, value in pending.items() if identity in here} if pending else {}
    late = _stragglers(ctx, fresh, truths.keys() | met.keys(), before.outcomes)
    settled = set(met) | set(late)
    if settled:
        more = _read(ctx, endpoint, settled, extra)
        unseen, _ = predictions.added_since(ctx, endpoint, version)  # drained while we read: they have their turn next time
        old = pa.concat_tables([old, _without(more, unseen)], promote_options="default")
    truths |= met | late
    old = _without(_distinct(old), fresh)
    answered = _ids(fresh, "live") | _ids(old, "live")
    return Gathered(
        after=_advanced(before, version, arrived, drained_at),
        fresh=fresh,
        old=old,
        truths=truths,
        settled=settled,
        waiting=[kept for kept in arrived if kept.id not in answered],
        found=sorted(met.keys() & answered),
        received=len(arrived),
    )


def _advanced(before: Cursors, version: int, arrived: list[Kept], now: float) -> Cursors:
    """Move the cursors, and keep what is usual between arrivals of outcomes."""
    moments = sorted({kept.received_at for kept in arrived})
    if not moments:
        return before._replace(predictions=version, at=now)
    gaps = np.diff([before.labelled_at or moments[0], *moments])
    days = len({int(moment // 86_400) for moment in moments} - {int(before.labelled_at // 86_400)})
    return Cursors(
        version,
        arrived[-1].cursor,
        now,
        max(moments[-1], before.labelled_at),
        max(before.longest_gap_s, float(gaps.max(initial=0.0))),
        before.label_days + days,
    )


class Joined(NamedTuple):
    """What a step adds."""

    accuracy: dict[AccuracyKey, DayState]
    pairs: dict[PairKey, PairState]
    labelled: int  # rows with an outcome
    not_model: int  # new answers that no model gave


def join(gathered: Gathered, answers: Mapping[str, Answers], gaps: Mapping[str, npt.NDArray[np.bool_]]) -> Joined:
    """Sum what the step adds.

    Parameters
    ----------
    answers : of each release among the predictions.
    gaps : ``fresh`` and ``old``: for each row whether an input that hardly ever misses is missing.
    """
    accuracy: dict[AccuracyKey, DayState] = {}
    if gathered.fresh.num_rows:
        _count_answers(gathered.fresh, answers, accuracy)
    not_model = gathered.fresh.num_rows - count(gathered.fresh, "decided_by", "model")
    if not gathered.truths:
        return Joined(accuracy, {}, 0, not_model)
    wanted = pa.array(list(gathered.truths), pa.string())
    rows = _Rows(gathered, wanted, gaps)
    if not len(rows.place):
        return Joined(accuracy, {}, 0, not_model)
    truths = list(gathered.truths.values())
    loss = np.full(len(rows.place), np.nan)
    for release in sorted(set(rows.release)):
        mine = np.flatnonzero(rows.release == release)
        known = answers.get(release)
        if known is None:
            continue
        kept, scored = _score(known, rows, mine, truths)
        loss[kept] = scored.loss
        for key, state in _folded(known.task, release, rows, (kept, scored)):
            accuracy[key] = accuracy[key] + state if key in accuracy else state
    return Joined(accuracy, _pair(rows, loss, len(wanted)), int((rows.new & ~np.isnan(loss)).sum()), not_model)


class _Rows:
    """Labelled predictions, new and old, as arrays."""

    def __init__(self, gathered: Gathered, wanted: pa.Array, gaps: Mapping[str, npt.NDArray[np.bool_]]) -> None:
        parts, places, new, holes = [], [], [], []
        settled = np.array([identity in gathered.settled for identity in gathered.truths], bool)
        for name, table in (("fresh", gathered.fresh), ("old", gathered.old)):
            if not table.num_rows:
                continue
            place = pc.fill_null(pc.index_in(table["id"], value_set=wanted), -1).to_numpy().astype(np.int64)
            chosen = np.flatnonzero(place >= 0)
            parts.append(table.select(COLUMNS).take(pa.array(chosen)))
            places.append(place[chosen])
            holes.append(gaps[name][chosen])
            # an old prediction of an old outcome is counted already; it is here only to be paired with a new one
            new.append(np.ones(len(chosen), bool) if name == "fresh" else ~settled[place[chosen]])
        table = pa.concat_tables(parts, promote_options="default") if parts else gathered.fresh.slice(0, 0)
        self.place = np.concatenate(places) if places else np.zeros(0, np.int64)
        self.new = np.concatenate(new) if new else np.zeros(0, bool)
        self.release = _strings(table["release"]) if parts else np.zeros(0, object)
        self.role, self.arm, self.decided, self.day = (
            _strings(table[name]) if parts else np.zeros(0, object) for name in ("role", "arm", "decided_by", "day")
        )
        self.hour = hours_of(table["at"]) if parts else np.zeros(0, np.int64)
        self.table = table
        # shadows carry no inputs: the live row of the same id says whether there was a hole
        hole = np.zeros(len(wanted), bool)
        if holes:
            hole[self.place[np.concatenate(holes)]] = True
        self.gap = hole[self.place]


def _score(known: Answers, rows: _Rows, mine: npt.NDArray[np.int64], truths: list[Any]) -> tuple[npt.NDArray[np.int64], live.Scored]:
    """Score one release's rows; rows whose outcome or answer does not fit are left out."""
    truth = truth_of(known, [truths[place] for place in rows.place[mine]])
    table = rows.table.take(pa.array(mine))
    shares = matrix(table["probabilities"], len(known.classes)) if known.task != "regression" else None
    values = values_of(table["value"]) if known.task == "regression" else np.zeros(len(mine))
    fine = ~np.isnan(truth) & ~np.isnan(values) & (~np.isnan(shares).any(axis=1) if shares is not None else True)
    naive = np.array(known.naive) if known.naive else None
    return mine[fine], live.score(known.task, shares[fine] if shares is not None else None, values[fine], truth[fine], naive)


def _folded(task: TaskKind, release: str, rows: _Rows, labelled: tuple[npt.NDArray[np.int64], live.Scored]) -> Iterator[tuple[AccuracyKey, DayState]]:
    kept, scored = labelled
    new = np.flatnonzero(rows.new[kept])
    index = kept[new]
    for key, chosen in _groups(rows.role[index], rows.arm[index], rows.decided[index], rows.day[index]):
        at = new[chosen]
        part = live.Scored(*(column[at] for column in scored))
        yield AccuracyKey(release, *key), live.fold(task, part, rows.hour[kept[at]], rows.gap[kept[at]])


def _pair(rows: _Rows, loss: npt.NDArray[np.float64], ids: int) -> dict[PairKey, PairState]:
    """Differences of every two releases whose models answered the same labelled row."""
    usable = ~np.isnan(loss) & (rows.decided == "model")
    releases = sorted(set(rows.release[usable]))
    losses, new = np.full((len(releases), ids), np.nan), np.zeros((len(releases), ids), bool)
    hour, day = np.zeros(ids, np.int64), np.full(ids, "", object)
    for number, release in enumerate(releases):
        chosen = np.flatnonzero(usable & (rows.release == release))
        places = rows.place[chosen]
        losses[number, places], new[number, places] = loss[chosen], rows.new[chosen]
        hour[places], day[places] = rows.hour[chosen], rows.day[chosen]
    found: dict[PairKey, PairState] = {}
    for one, first in enumerate(releases):
        for other in range(one + 1, len(releases)):
            both = np.flatnonzero(~np.isnan(losses[one]) & ~np.isnan(losses[other]) & (new[one] | new[other]))
            for (label,), chosen in _groups(day[both]):
                at = both[chosen]
                found[PairKey(first, releases[other], label)] = pairs.fold(losses[one][at] - losses[other][at], hour[at])
    return found


def _count_answers(table: pa.Table, answers: Mapping[str, Answers], into: dict[AccuracyKey, DayState]) -> None:
    columns = [_strings(table[name]) for name in ("release", "role", "arm", "decided_by", "day")]
    hour = hours_of(table["at"])
    for row, chosen in _groups(*columns):
        key = AccuracyKey(*row)
        known = answers.get(key.release)
        own = np.zeros(len(chosen))
        if known is not None and known.task != "regression":
            own = np.nan_to_num(live.expected(matrix(table["probabilities"].take(pa.array(chosen)), len(known.classes))))
        state = live.answered(hour[chosen], own)
        into[key] = into[key] + state if key in into else state


def truth_of(known: Answers, values: list[Any]) -> npt.NDArray[np.float64]:
    """Return outcomes as class indices (or values for regression); NaN where one does not fit."""
    if known.task == "regression":
        return np.array([float(value) if isinstance(value, int | float) else np.nan for value in values])
    index: dict[Any, int] = {value: position for position, value in enumerate(known.classes)}
    by_text = {str(value): position for position, value in enumerate(known.classes)}
    found: dict[Any, float] = {}
    for value in {*values}:
        found[value] = float(index.get(value, by_text.get(str(value), np.nan)))
    return np.array([found[value] for value in values])


def values_of(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """Read answers (JSON text) of a regression as numbers; NaN for what is none."""
    texts = column if pa.types.is_string(column.type) else pc.cast(column, pa.string())
    try:
        return np.asarray(pc.cast(texts, pa.float64()).to_numpy(), np.float64)
    except pa.ArrowInvalid:
        return np.array([_number(text) for text in texts.to_pylist()])


def matrix(column: pa.ChunkedArray, classes: int) -> npt.NDArray[np.float64]:
    """Return a column of lists as (rows, classes); NaN for a row of another length."""
    rows = len(column)
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    result = np.full((rows, classes), np.nan)
    right = lengths == classes
    if right.all():
        return np.asarray(pc.list_flatten(column).to_numpy().reshape(rows, classes), np.float64)
    if right.any():
        result[right] = pc.list_flatten(column.filter(pa.array(right))).to_numpy().reshape(-1, classes)
    return result


def hours_of(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Return the hour of the day, UTC."""
    micros = pc.cast(column, pa.int64()).to_numpy()
    return np.asarray(micros // 3_600_000_000 % 24, np.int64)


def days_of(ids: Iterable[str]) -> list[str]:
    """Return the days of predictions, from their ids; an id that carries no time has none."""
    days = set()
    for identity in ids:
        try:
            days.add(int(identity[:8], 16) // 86_400)
        except ValueError:
            continue
    return sorted(datetime.fromtimestamp(day * 86_400, UTC).strftime("%Y-%m-%d") for day in days)


def _read(ctx: Context, endpoint: str, ids: Iterable[str], extra: list[str]) -> pa.Table:
    """Read the predictions with these ids."""
    wanted = pa.array(list(ids), pa.string())
    days = days_of(wanted.to_pylist())
    if not days:
        return _NOTHING.empty_table()
    table = predictions.read(ctx, endpoint, days=days, columns=[*COLUMNS, *extra])
    return table.filter(pc.is_in(table["id"], value_set=wanted))


def _stragglers(ctx: Context, fresh: pa.Table, known: set[str], counted: int) -> dict[str, Any]:
    """Outcomes, counted before, of ids whose shadow was drained later than their live row. There are hardly ever any."""
    if not fresh.num_rows:
        return {}
    ids, roles = _strings(fresh["id"]), _strings(fresh["role"])
    alone = set(ids[roles == "shadow"]) - set(ids[roles == "live"]) - known
    found = {}
    for identity in sorted(alone):
        kept = outcomes.find(ctx.state, identity)
        if kept is not None and kept.cursor <= counted:  # a newer one has its turn with its own step
            found[identity] = kept.value
    return found


def _keys(table: pa.Table) -> npt.NDArray[np.object_]:
    return np.asarray(pc.binary_join_element_wise(table["id"], table["release"], table["role"], " ").to_numpy(zero_copy_only=False), object)


def _without(table: pa.Table, others: pa.Table) -> pa.Table:
    if not table.num_rows or not others.num_rows:
        return table
    gone = set(_keys(others))
    return table.filter(pa.array([key not in gone for key in _keys(table)], pa.bool_()))


def _distinct(table: pa.Table) -> pa.Table:
    """Drop what two reads both brought."""
    if not table.num_rows:
        return table
    _, first = np.unique(_keys(table).astype(str), return_index=True)
    return table if len(first) == table.num_rows else table.take(pa.array(np.sort(first)))


def _ids(table: pa.Table, role: str | None = None) -> set[str]:
    if not table.num_rows:
        return set()
    return set((table["id"] if role is None else table["id"].filter(pc.equal(table["role"], role))).to_pylist())


def _strings(column: pa.ChunkedArray) -> npt.NDArray[np.object_]:
    return np.array([value or "" for value in column.to_pylist()] or [], object)


def count(table: pa.Table, column: str, value: str) -> int:
    return int(pc.sum(pc.equal(table[column], value)).as_py() or 0) if table.num_rows else 0


def _groups(*columns: npt.NDArray[np.object_]) -> Iterator[tuple[tuple[str, ...], npt.NDArray[np.int64]]]:
    """Yield each combination of texts that there is, in the order in which they first come, with the places of its rows."""
    if not len(columns[0]):
        return
    codes = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        coded = pa.array(column, pa.string()).dictionary_encode()
        codes = codes * len(coded.dictionary) + coded.indices.to_numpy()
    _, first, numbers = np.unique(codes, return_index=True, return_inverse=True)
    ordered = np.argsort(numbers, kind="stable")
    ends = np.cumsum(np.bincount(numbers))
    for number in np.argsort(first):
        key = tuple(str(column[first[number]]) for column in columns)
        yield key, ordered[ends[number - 1] if number else 0 : ends[number]]


def _number(text: str | None) -> float:
    try:
        return float(text) if text is not None else float("nan")
    except ValueError:
        return float("nan")


_NOTHING = pa.schema(
    [
        ("id", pa.string()), ("at", pa.timestamp("us", tz="UTC")), ("day", pa.string()), ("role", pa.string()), ("release", pa.string()),
        ("arm", pa.string()), ("decided_by", pa.string()), ("value", pa.string()), ("probabilities", pa.list_(pa.float64())),
    ]
)  # fmt: skip
