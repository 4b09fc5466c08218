"""Operations on feature views: push newest values, move them into the datasets, fill the online store, look up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from kaizenml.clock import parse_duration
from kaizenml.context import Context
from kaizenml.data import keys as project_keys
from kaizenml.data import operations as data
from kaizenml.data import tables
from kaizenml.data.dataset import DatasetVersion
from kaizenml.data.intake import sources
from kaizenml.errors import InvalidInput, NotFound, UsageError
from kaizenml.features import store
from kaizenml.features.offline import asking
from kaizenml.features.offline import frame as frames
from kaizenml.features.online import checking, corrections, filling, parity, streams, taking
from kaizenml.features.online.buffer import buffer_of
from kaizenml.features.online.parity import Parity
from kaizenml.features.online.push import Checker
from kaizenml.features.online.reading import Read, read_at
from kaizenml.features.online.streams import Consumed
from kaizenml.features.view import FeatureView, Framed, Kept, Materialized, Pushed, ViewState, key_of, parts_of
from kaizenml.features.windows.moments import keeps_rows
from kaizenml.settings import Engine

__all__ = ["check", "consume", "flush", "frame", "get", "list", "materialize", "push", "read", "show"]


def push(ctx: Context, view: str, rows: Sequence[Mapping[str, Any]], *, offline: bool = True) -> Pushed:
    """Take newest values of a feature view: online at once, and kept for its dataset.

    The rows are durable in the buffer before they are online. Late rows (older than what the online store
    holds) change nothing online, but reach the dataset, where point-in-time joins find them. Pushing the same
    rows again is harmless.

    Parameters
    ----------
    view : name of the view.
    rows : objects with the view's entity, its event time and all its columns; null where a value is not known.
    offline : also keep them for the dataset (`flush` moves them there); without, training never sees them.

    Returns
    -------
    How many rows are now the newest of their entity, and how many came late.

    Raises
    ------
    NotFound : there is no such view.
    InvalidInput : a column is absent, unknown, or of the wrong kind; nothing was taken.

    Examples
    --------
    kaizen features push weather '[{"origin": "JFK", "time_hour": "2013-04-01T05:00:00Z", "temp": 39.0}]'
    """
    found = _pushed_to(ctx, view)
    checker = checking.checker(ctx, found)
    try:
        checked = checker.check(rows)
    except InvalidInput:  # unless a column's kind has changed meanwhile
        checker = checking.checker(ctx, found, fresh=True)
        checked = checker.check(rows)
    if checked.offline and store.record_use(ctx, [found]):
        checking.checker(ctx, found)  # that this was written is no news to the next push
    return taking.take(ctx.state, ctx.online, checker, checked, former=_former(ctx, found), offline=offline)


def flush(ctx: Context, view: str) -> DatasetVersion | None:
    """Move the pushed rows of a view into its dataset, as one new version.

    Every row arrives exactly once, whatever crashes: a batch is sealed under a name before it is handed on, and the
    dataset takes a name once. A batch that the dataset refuses stays and is tried again.

    Parameters
    ----------
    view : name of the view.

    Returns
    -------
    The dataset's new version; null when nothing was waiting.

    Raises
    ------
    ContractBroken : the rows do not fit the dataset; mend its contract and flush again.

    Examples
    --------
    kaizen features flush weather
    """
    found = frames.view_named(ctx, view)
    with ctx.catalog.read() as connection:
        before = [each for each, _ in store.versions(connection, found.name) if each.ref != found.ref and "@" not in view]
    version = None
    for each in (*before, found):  # rows may have been pushed before the definition changed
        version = _flushed(ctx, each) or version
    return version


def _flushed(ctx: Context, found: FeatureView) -> DatasetVersion | None:
    buffer = buffer_of(ctx.state)
    version = None
    for _ in range(2):  # a batch that an earlier flush left sealed, and what came since
        batch = buffer.seal(found.ref)
        if batch is None:
            break
        rows = batch.rows
        if filling.keys_of(ctx, found.dataset):  # a push that was repeated is no row of its own
            rows = [*{msgspec.json.encode(row, order="sorted"): row for row in rows}.values()]
        table = checking.checker(ctx, found, fresh=True).table(rows)
        why = f"{len(rows)} pushed rows"
        version = data.add(
            ctx, found.dataset, table=table, mode="append", partial=True, origin=f"pushed to {found.ref}", source_name="pushed", once=batch.token,
            why=why,
        )  # fmt: skip
        buffer.done(batch)
        if not batch.left:
            break
    return version


def materialize(ctx: Context, view: str, *, everything: bool = False, progress: Callable[[str, float], None] | None = None) -> Materialized:
    """Fill the online store with what its dataset knows of a view.

    Flushes what was pushed into the views over its dataset first, then reads only what was added since the last time; all of it where
    rows were excluded or allowed again, or the online store was lost. Values that are newer online stay. May run at any time, beside
    pushes and reads.

    Parameters
    ----------
    view : name of the view.
    everything : replace all that the online store holds of the view, also when nothing has changed. Rows that were pushed online only go.
    progress : called with what is being done and the part that is done, 0 to 1.

    Returns
    -------
    The version of the dataset, and how many entities were looked at and written.

    Raises
    ------
    NotFound : there is no such view, or its dataset does not exist yet.

    Examples
    --------
    kaizen features materialize weather --everything
    """
    found = frames.view_named(ctx, view)
    flush(ctx, view)
    for each in filling.beside(ctx, found):
        flush(ctx, each.name)
    store.record_use(ctx, [found])
    done = _fill(ctx, found, everything=everything, progress=progress)
    publish(ctx)
    for each in _served(ctx, found) if "@" not in view else ():
        _fill(ctx, each, everything=everything)
    return Materialized(view=found.ref, dataset=done.version.ref, entities=done.entities, kept=done.kept)


def frame(
    ctx: Context, rows: str, *, at: str | None = None, views: Sequence[str] | None = None, out: Path | None = None, engine: Engine | None = None
) -> Framed:
    """Put features beside rows, as they were known at each row's moment.

    Every row comes back, in its order. Versions of before stand beside those of now: `spend,spend@3f2a`.

    Parameters
    ----------
    rows : a dataset (`orders` or `orders@2`), a file such as .csv or .parquet, or a SELECT over datasets; with the views' entities.
    at : the column with the moments; without, the newest values are taken.
    views : names of views, or name@version for a definition of before; default all.
    out : a .csv or .parquet file to write; without, only what was found is told.
    engine : what computes them, `local` or `spark`; default what `[project] engine` says.

    Returns
    -------
    How many rows there are, and for each column that was added in how many of them it is known.

    Raises
    ------
    NotFound : there is no such dataset, file, folder, view or version.
    InvalidInput : `at` is no column with times, or the rows lack the column of a view's entity.
    MissingExtra : Spark is asked for and not installed.

    Examples
    --------
    kaizen features frame orders --at ordered --views taste --out known.parquet
    """
    engine = engine or ctx.settings.project.engine
    if out is not None:
        asking.check_out(out)
    whole = rows.lstrip().lower().startswith(("select ", "with ")) or (sources.loadable(Path(rows)) and not rows.endswith(".parquet"))
    if engine != "local" and out is not None and out.suffix == ".parquet" and not whole:
        return asking.written(ctx, rows, out, at=at, views=views, engine=engine)
    before = asking.rows_named(ctx, rows)
    table = asking.features_for(ctx, before, at=at, views=views, engine=engine)
    if out is not None:
        asking.write(table, out)
    known = {name: table.num_rows - table.column(name).null_count for name in table.column_names[before.num_columns :]}
    return Framed(rows=table.num_rows, known=known, out=None if out is None else str(out))


def get(ctx: Context, view: str, key: str) -> Kept:
    """Look up what the online store holds for an entity.

    Parameters
    ----------
    view : name of the view.
    key : the entity, as text.

    Returns
    -------
    The values, their event time and age in seconds, and whether the view still counts them.

    Raises
    ------
    NotFound : there is no such view, or it holds nothing for this entity.

    Examples
    --------
    kaizen features get weather JFK
    """
    kept = read(ctx, view, [key])[0]
    if kept.status in ("missing", "empty"):
        raise NotFound(
            f"the online store holds nothing for {key!r} in the view {view!r}",
            remedy=f"kaizen features materialize {view}",
            values={"view": kept.view, "key": key},
        )
    return kept


def read(ctx: Context, view: str, keys: Sequence[str]) -> Sequence[Kept]:
    """Look up what the online store holds for many entities at once, as it is at this moment.

    Parameters
    ----------
    view : name of the view.
    keys : the entities, as text; the parts of a key over several columns with ``|`` between them.

    Returns
    -------
    For each entity in the order asked: values, their event time and age in seconds, and their status: present, stale (older than
    the view allows: as if missing), missing (nothing is known of it), or empty (nothing has come into the view yet). ``beyond`` names
    the values that are missing because their windows take more rows than are kept of an entity.

    Raises
    ------
    NotFound : there is no such view.

    Examples
    --------
    kaizen features read weather JFK,LGA,EWR
    """
    found = frames.view_named(ctx, view)
    now = ctx.clock.timestamp()
    stored = ctx.online.read(found.ref, _as_stored(ctx, found, keys))
    told = read_at(found.columns, found.aggregates, None, stored, round(now * 1e6))
    nothing = "missing" if any(stored) or next(ctx.online.keys(found.ref), None) is not None else "empty"
    return [_kept(found, key, one, now, nothing) for key, one in zip(keys, told, strict=True)]


def _as_stored(ctx: Context, view: FeatureView, keys: Sequence[str]) -> Sequence[str]:
    """Return the keys of entities as they are stored, where the dataset holds pseudonyms."""
    hidden = asking.hidden_entities(ctx, view)
    if not hidden:
        return keys
    pseudonym = project_keys.open_keys(ctx.state).pseudonym_of
    parts = [parts_of(key) if len(view.entities) > 1 else [key] for key in keys]
    made = [[pseudonym(value) if name in hidden else value for name, value in zip(view.entities, each, strict=False)] for each in parts]
    return [(key_of(each) if len(each) == len(view.entities) else None) or key for key, each in zip(keys, made, strict=True)]


def consume(
    ctx: Context, view: str, stream: str, *, url: str | None = None, reader: str | None = None, idle: str | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> Consumed:  # fmt: skip
    """Take rows of a view out of a Redis stream or a Kafka topic, as pushes; each exactly once, whatever is killed when.

    Each entry of a Redis stream holds a field ``row`` with one row as JSON; of a Kafka topic, its value is that. Readers share the
    consumer group ``kaizen``; after a crash the next start goes on where it was. Rows that do not fit are put aside in the stream
    ``STREAM:refused``, on Kafka the topic ``STREAM.refused``, with the reason.

    Parameters
    ----------
    view : name of the view.
    stream : name of the stream or topic.
    url : the server, ``redis://host:6379/0`` or ``kafka://host:9092``; default the project's online store.
    reader : name of this reader, unique among those that run; default the machine's name.
    idle : end when nothing has come for so long, such as ``10s``; default only when interrupted.
    progress : called with how many rows were taken.

    Returns
    -------
    How many rows were taken, how many had been taken before a crash, and how many were refused.

    Raises
    ------
    NotFound : there is no such view.
    UsageError : no server is named.
    Unavailable : the server does not answer.

    Examples
    --------
    kaizen features consume weather observations --idle 10s
    """
    found = _pushed_to(ctx, view)
    store.record_use(ctx, [found])
    idle_s = None if idle is None else parse_duration(idle)
    return streams.consume(
        ctx, found, stream, checkers=lambda: (checking.checker(ctx, found), _former(ctx, found)), url=url, reader=reader, idle_s=idle_s,
        progress=progress,
    )  # fmt: skip


def check(ctx: Context, view: str, *, entities: int = 100) -> Parity:
    """Compare what requests read online with what training reads offline, at one moment and exactly.

    Flushes and materializes first, so that what is compared is meant to be the same. The loop does this every hour, and raises an
    alert when it is not.

    Parameters
    ----------
    view : name of the view.
    entities : how many are compared, 1 or more, drawn at random from both sides.

    Returns
    -------
    How many entities and values were compared, how many values differ, and the first of those with both values.

    Raises
    ------
    NotFound : there is no such view, or its dataset does not exist yet.
    UsageError : nothing is to be compared.

    Examples
    --------
    kaizen features check weather --entities 1000
    """
    found = frames.view_named(ctx, view)
    if entities < 1:
        raise UsageError(f"entities is {entities}; one at least is compared", remedy="--entities 100", values={"entities": entities})
    done = materialize(ctx, view)
    return parity.compare(ctx, found, done.dataset, entities=entities)


def list(ctx: Context) -> Sequence[ViewState]:
    """List the project's feature views and how far their values have come.

    Returns
    -------
    One state for each view, in the order of kaizen.toml.

    Examples
    --------
    kaizen features list
    """
    return [_state(ctx, view) for view in frames.views(ctx)]


def show(ctx: Context, view: str) -> ViewState:
    """Show a feature view: its definition, its version, and how far its values have come.

    Parameters
    ----------
    view : name of the view.

    Raises
    ------
    NotFound : there is no such view.

    Examples
    --------
    kaizen features show weather
    """
    return _state(ctx, frames.view_named(ctx, view))


def _state(ctx: Context, view: FeatureView) -> ViewState:
    with ctx.catalog.read() as connection:
        used_at = next((at for definition, at in store.versions(connection, view.name) if definition.version == view.version), None)
        done = store.materialized(connection, view.ref)
    try:
        number = tables.version(ctx, view.dataset).number
    except NotFound:
        number = None
    features = [*view.features]
    waiting = buffer_of(ctx.state).waiting(view.ref)
    return ViewState(view=view, ref=view.ref, features=features, used_at=used_at, dataset_version=number, materialized=done, waiting=waiting)


def heed(ctx: Context, view: FeatureView) -> int:
    """Bring the online values of a definition in line with the exclusions on its dataset; return how many entities changed."""
    if not keeps_rows(view) and view.sql is None:
        return corrections.correct(ctx, view, filling.online_rows)
    try:
        return _fill(ctx, view).kept
    except NotFound:  # the dataset was named before it was made
        return 0


def _fill(ctx: Context, view: FeatureView, *, everything: bool = False, progress: Callable[[str, float], None] | None = None) -> filling.Filled:
    if not keeps_rows(view) and view.sql is None:
        heed(ctx, view)
    done = filling.fill(ctx, view, everything=everything, progress=progress)
    if done.entities:
        checker = checking.checker(ctx, view, fresh=True)
        for rows in filling.waiting_rows(ctx, view):  # pushed since: what was replaced is put once more
            taking.put(ctx.online, checker, checker.check(rows))
        with ctx.catalog.write() as connection:
            store.set_materialized(connection, view.ref, done.version.number)
            ctx.record(connection, "features.materialized", view.ref, dataset=done.version.ref, entities=done.entities, kept=done.kept)
    return done


def renew(ctx: Context, view: FeatureView, keys: Sequence[str]) -> int:
    """Make the online values of some entities anew, for example after rows of theirs are no more; return how many differ.

    Pushed rows that wait for their dataset are put once more. What was pushed online only, of these entities, goes.
    """
    changed = filling.renew(ctx, view, keys)
    checker = checking.checker(ctx, view, fresh=True)
    for rows in filling.waiting_rows(ctx, view):
        taking.put(ctx.online, checker, checker.check(rows))
    return changed


def put_waiting(ctx: Context) -> int:
    """Put all pushed rows that wait for their datasets online once more, for the versions that are served as well; return how many there are."""
    rows = 0
    for view in frames.views(ctx):
        for each in (view, *_served(ctx, view)) if view.sql is None else ():
            checker = checking.checker(ctx, each, fresh=True)
            for pushed in filling.waiting_rows(ctx, each):
                taking.put(ctx.online, checker, checker.check(pushed))
                rows += len(pushed)
    return rows


def _kept(view: FeatureView, key: str, found: Read, now: float, nothing: str) -> Kept:
    if found.at is None:
        return Kept(view=view.ref, key=key, values=found.values, at=None, age_s=None, fresh=False, status=nothing)
    if view.at is None:
        return Kept(view=view.ref, key=key, values=found.values, at=None, age_s=None, fresh=True)
    age_s = now - found.at
    fresh = view.ttl_s is None or age_s <= view.ttl_s
    status = "present" if fresh else "stale"
    return Kept(view=view.ref, key=key, values=found.values, at=found.at, age_s=age_s, fresh=fresh, status=status, beyond=[*found.beyond])


def _pushed_to(ctx: Context, name: str) -> FeatureView:
    view = frames.view_named(ctx, name)
    if view.sql is not None:
        raise InvalidInput(
            f"the rows of {view.name!r} are what a query gives; none can be pushed into it",
            remedy=f"add rows to {' or '.join(frames.datasets_behind(ctx, view))}, then kaizen features materialize {view.name}",
            values={"view": view.ref},
        )
    return view


def publish(ctx: Context) -> None:
    """Tell serving processes which views rows can be pushed into, and what such a row holds."""
    kept = taking.published(ctx.state)
    views = [checking.known(ctx, view) for view in frames.views(ctx) if view.sql is None]
    _publish(ctx, views, kept.served if kept else [])


def serve(ctx: Context, refs: Sequence[str]) -> None:
    """Say which versions of views releases read that answer or watch now, ``name.version``: pushed rows reach these, too.

    What is known of the views is told anew, for another machine may have forgotten somebody.
    """
    kept = taking.published(ctx.state)
    served = sorted({view.ref for view in frames.ever_used(ctx, refs)})
    if kept is not None or served:
        _publish(ctx, [checking.known(ctx, each.view) for each in kept.views] if kept else [], served)


def hidden_entities(ctx: Context, refs: Sequence[str]) -> tuple[dict[str, Sequence[str]], str]:
    """Return for versions of views what they are looked up by that their datasets hold as pseudonyms by now, and the fingerprint of the key."""
    found: dict[str, Sequence[str]] = {}
    key_print = ""
    for view in frames.ever_used(ctx, refs):
        if names := asking.hidden_entities(ctx, view):
            found[view.ref] = names
            key_print = key_print or tables.version(ctx, view.dataset).key_print
    return found, key_print


def online(ctx: Context) -> dict[str, FeatureView]:
    """Return what requests may read online, by the name that operations take: the views of today, and other versions that releases read."""
    today, kept = frames.views(ctx), taking.published(ctx.state)
    refs = {view.ref for view in today}
    served = [view for view in frames.ever_used(ctx, kept.served) if view.ref not in refs] if kept else []
    return {view.name: view for view in today} | {f"{view.name}@{view.version}": view for view in served}


def _publish(ctx: Context, views: Sequence[taking.Known], served: Sequence[str]) -> None:
    current = {each.view.name: each.view.ref for each in views}
    former = [view for view in frames.ever_used(ctx, served) if view.ref != current.get(view.name, view.ref) and view.sql is None]
    taking.publish(ctx.state, taking.Kept(views=[*views], served=[*served], former=[checking.known(ctx, view) for view in former]))


def _served(ctx: Context, view: FeatureView) -> Sequence[FeatureView]:
    """Return the other versions of a view, over the same dataset, that are served."""
    kept = taking.published(ctx.state)
    found = frames.ever_used(ctx, kept.served) if kept and kept.served else []
    return [each for each in found if each.name == view.name and each.ref != view.ref and each.dataset == view.dataset]


def _former(ctx: Context, view: FeatureView) -> Sequence[Checker]:
    return [checking.checker(ctx, each) for each in _served(ctx, view) if each.sql is None]
