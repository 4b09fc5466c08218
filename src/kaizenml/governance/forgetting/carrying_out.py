"""One forgetting from the wish to the certificate.

It looks everywhere, writes down what it found (nobody else will know any more), takes it out place by place, and looks again, until a
look finds nothing. Each place can be emptied again, so a process killed anywhere is followed by one that ends its work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from kaizenml import scratch
from kaizenml.context import Context
from kaizenml.data import keys as project_keys
from kaizenml.data.dataset import Dataset
from kaizenml.data.keys import Keys
from kaizenml.data.people import left_out
from kaizenml.errors import Conflict, Unavailable
from kaizenml.features import operations as features
from kaizenml.governance.forgetting import answers, certificate, datasets, models, naming, online, sqlite, watching
from kaizenml.governance.forgetting import learnt as training
from kaizenml.governance.forgetting import subject as subjects
from kaizenml.governance.forgetting import wish as wishes
from kaizenml.governance.forgetting.certificate import Certificate, Place, Renewed
from kaizenml.governance.forgetting.models import Telling
from kaizenml.governance.forgetting.wish import Wish
from kaizenml.registry import objects
from kaizenml.registry import store as registry
from kaizenml.releases import store as releases
from kaizenml.serving.journaling import predictions

TURNS = 3
"""Looks at most: what comes in all the time is new data, and stays."""
_LOCK_WAIT_S = 600.0
Progress = Callable[[str, float], None]


@contextmanager
def alone(ctx: Context) -> Iterator[None]:
    """Hold the project against another forgetting, and against the loop: what it trains meanwhile would have learnt from rows that go.

    Raises
    ------
    Unavailable : one of them has been at work for ten minutes.
    """
    with ExitStack() as stack:
        for name, who in ((wishes.FOLDER, "another forgetting"), ("loop", "the loop")):
            if not stack.enter_context(ctx.hold(name, wait_s=_LOCK_WAIT_S)):
                raise Unavailable(f"{who} has been at work for {_LOCK_WAIT_S:.0f} s", remedy="wait for it, then repeat")
        yield


def check_moved(ctx: Context) -> None:
    """Raise Conflict where files lie about that nothing looks at any more, since the project moved to servers."""
    project = ctx.settings.project
    old = (("catalog.db", project.catalog), ("online.db", project.online), ("data", project.objects))
    left = [ctx.state / name for name, moved in old if moved and _holds_rows(ctx.state / name)]
    if left:
        names = ", ".join(path.name for path in left)
        remove = " ".join(f"{path}*" if path.suffix else str(path) for path in left)
        raise Conflict(
            f"{names} in {ctx.state} are from before the project moved, and hold persons that would not be forgotten there",
            remedy=f"see that all is well where it is now (kaizen audit verify), then: rm -r {remove}",
            values={"files": [str(path) for path in left]},
        )


def _holds_rows(path: Path) -> bool:
    return path.is_file() or (path.is_dir() and next(path.rglob("*.parquet"), None) is not None)


def look(ctx: Context, wish: Wish, keys: Keys) -> int:
    """Look everywhere for the subjects and note in the wish what will go; return how much there is."""
    forms = wish.forms(keys)
    found = {dataset.name: (dataset, datasets.look(ctx, dataset, forms)) for dataset in datasets.holding(ctx, forms)}
    total = 0
    for name, (dataset, files) in found.items():
        total += _note(wish, f"rows of {name}", sum(file.found for file in files))
        total += _note(wish, f"quarantine of {name}", sum(file.found for file in datasets.look_aside(ctx, dataset, forms)))
        if files:
            _note_rows(ctx, wish, dataset, files, forms)
    known = {each.release for each in wish.learnt}
    wish.learnt += [each for each in training.learnt(ctx, found, forms) if each.release not in known]
    wanted = requested(ctx, wish, forms)
    total += _note(wish, "pushed features", online.look_pushed(ctx, wanted))
    for endpoint in predictions.endpoints(ctx.state):
        ids = answers.look(ctx, endpoint, wanted)
        wish.keep(wish.ids, endpoint, ids)
        total += _note(wish, f"predictions of {endpoint}", len(ids))
        total += _note(wish, f"features given to others in predictions of {endpoint}", answers.look_given(ctx, endpoint, _given(ctx, wish)[0]))
    total += _note(wish, "outcomes", answers.count_outcomes(ctx, [identity for ids in wish.ids.values() for identity in ids]))
    for view in online.views(ctx):
        wish.keep(wish.entities, view.ref, online.look_online(ctx, view, wanted))
        total += _note(wish, f"online features of {view.ref}", len(online.look_online(ctx, view, wanted)))
    return total


def purge(ctx: Context, wish: Wish, keys: Keys, save: Callable[[], None], progress: Progress) -> None:
    """Take out what the wish says, place by place. Pushed rows go first: they are on their way into a dataset."""
    forms = wish.forms(keys)
    wanted = requested(ctx, wish, forms)
    progress("pushed features", 0.2)
    online.purge_pushed(ctx, wanted)
    for place, dataset in enumerate(holding := datasets.holding(ctx, forms)):
        progress(dataset.name, 0.25 + 0.35 * place / len(holding))
        datasets.purge(ctx, dataset, wish, keys, save)
    progress("predictions and outcomes", 0.6)
    answers.purge(ctx, wish, _given(ctx, wish)[0])
    progress("online features", 0.7)
    online.purge_online(ctx, wish)
    progress("models, cards and references", 0.8)

    def planned(folder: str) -> None:
        if folder not in wish.folders:
            wish.folders.append(folder)
        save()

    words = _words(ctx, wish, wanted)
    _note(wish, "models and cards", models.purge(ctx, wish, keys, words, planned))
    _note(wish, "monitoring", watching.purge_references(ctx, words) + watching.purge_windows(ctx, wanted))
    for name in wish.found:
        wish.settle(name)
    save()


def run(ctx: Context, wish: Wish, progress: Progress) -> Certificate:
    """Forget the subjects of a wish, whatever of it is done already, and return the certificate."""
    keys = project_keys.open_keys(ctx.state)
    scratch.clean(ctx.state / scratch.FOLDER)
    keep_out(ctx, wish, keys)

    def save() -> None:
        wishes.save(ctx.state, wish)

    for turn in range(TURNS):
        progress("looking", 0.05)
        answers.close_journal(ctx)
        found = look(ctx, wish, keys)
        save()
        if turn and not found:
            break
        purge(ctx, wish, keys, save, progress)
    destroyed = _destroy_keys(ctx, wish, keys)
    progress("certificate", 0.95)
    return _finish(ctx, wish, keys, destroyed)


def keep_out(ctx: Context, wish: Wish, keys: Keys) -> None:
    """See that rows of the subjects are left out from now on, wherever they come from.

    It is done before the first look: an addition that is under way has the dataset, and what it adds is found when it has let go of it.
    """
    with ctx.catalog.write() as connection:
        left_out.keep(connection, keys, wish.number, [(each.column, subjects.texts(each.value)) for each in wish.subjects])
    features.publish(ctx)  # serving processes take pushed rows


def requested(ctx: Context, wish: Wish, forms: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Return which values of requests' inputs, of pushed rows and of example rows are about the subjects."""
    aliases: dict[str, str] = {}
    task, key = ctx.settings.task, None
    for dataset in datasets.holding(ctx, forms):
        aliases |= {column.name: column.holds for column in dataset.contract.columns if column.holds}
        if task is not None and task.dataset == dataset.name and len(dataset.contract.keys) == 1:
            key = (dataset.name, dataset.contract.keys[0])
    return answers.requested(wish, forms, aliases, key)


def _note(wish: Wish, place: str, number: int) -> int:
    wish.count(place, number)
    return number


def _note_rows(ctx: Context, wish: Wish, dataset: Dataset, files: list[Any], forms: Mapping[str, list[str]]) -> None:
    """Note what is known of rows only as long as they are there: their parts and keys, whose features change, what tells who it was."""
    name = dataset.name
    wish.parts[name] = sorted({*wish.parts.get(name, []), *(int(file.partition) for file in files)})
    views = [view for view in online.views(ctx) if view.dataset == name]
    inputs = {field.name for signature in answers.signatures(ctx) for field in signature.fields}
    # a view's column is an input under the view's own name for it
    inputs |= {column for view in views for feature, column in view.features.items() if feature in inputs}
    only, ends = datasets.only_theirs(ctx, dataset, files, dict(forms), sorted(inputs))
    for column, values in only.items():
        have = wish.only.setdefault(name, {}).setdefault(column, [])
        have.extend(value for value in values if value not in have)
    wish.ends.setdefault(name, {}).update(ends)
    key = dataset.contract.keys
    rows = datasets.read(ctx, dataset, files, dict(forms), sorted({*key, *(column for view in views for column in view.entities)}))
    if len(key) == 1 and key[0] in rows.column_names:
        wish.keep(wish.keys, name, datasets.key_values(rows, key[0]))
    for view in views:
        wish.keep(wish.entities, view.ref, online.there(ctx, view, online.entities_of(view, rows)))


def _given(ctx: Context, wish: Wish) -> tuple[dict[str, list[Any]], dict[str, list[float]]]:
    """Return the values by feature that views gave only from the subjects' rows, and the ends of the numbers that are left."""
    values: dict[str, list[Any]] = {}
    ends: dict[str, list[float]] = {}
    for view in online.views(ctx):
        for feature, column in view.features.items():
            if of := wish.only.get(view.dataset, {}).get(column):
                values.setdefault(feature, []).extend(of)
                if pair := wish.ends.get(view.dataset, {}).get(column):
                    ends[feature] = pair
    return values, ends


def _words(ctx: Context, wish: Wish, wanted: dict[str, list[str]]) -> models.Words:
    """Return what tells in the inputs of models, by the dataset that they were trained on."""
    values, ends = _given(ctx, wish)

    def words(dataset: str | None) -> Telling:
        own = {} if dataset is None else wish.only.get(dataset, {})
        return Telling(requests=wanted, values={**values, **own}, ends={**ends, **({} if dataset is None else wish.ends.get(dataset, {}))})

    return words


def _destroy_keys(ctx: Context, wish: Wish, keys: Keys) -> int:
    destroyed = 0
    with_aliases = {subject.column: {subject.column} for subject in wish.subjects}
    for dataset in datasets.holding(ctx, wish.forms(keys)):
        for column in dataset.contract.columns:
            if column.holds in with_aliases:
                with_aliases[column.holds].add(column.name)
    for subject in wish.subjects:
        destroyed += sum(keys.destroy(column, subject.value) for column in sorted(with_aliases[subject.column]))
    return destroyed


def _finish(ctx: Context, wish: Wish, keys: Keys, destroyed: int) -> Certificate:
    """Write the certificate and its event, and remove the wish, the last that knew whom it was about."""
    known = {each.number for each in certificate.every(ctx.state)}
    if wish.number in known:
        made = certificate.find(ctx.state, wish.number)
    else:
        places = [Place(name=name, removed=number) for name, number in wish.found.items()]
        made = certificate.signed(
            Certificate(
                number=wish.number,
                subjects=[{"column": each.column, "digest": keys.digest(f"{each.column}={each.value}")} for each in wish.subjects],
                asked_at=wish.asked_at, done_at=ctx.clock.timestamp(), by=wish.actor, why=wish.why, places=places,
                renewed=_renewed(ctx, wish.number), learnt=wish.learnt, keys_destroyed=destroyed, not_reached=_not_reached(ctx, wish),
            ),
            keys,
        )  # fmt: skip
        certificate.write(ctx.state, made)
    with ctx.catalog.write() as connection:
        if not _told(connection, wish.number):
            ctx.record(
                connection, "data.forgotten", f"forgetting {wish.number}", wish.why, subjects=made.subjects,
                removed={place.name: place.removed for place in made.places}, releases=[each.release for each in made.learnt],
                signature=made.signature,
            )  # fmt: skip
    scrub(ctx)
    wishes.remove(ctx.state, wish)
    return made


def scrub(ctx: Context) -> None:
    """Write every SQLite file of the project anew, so that no page keeps what was deleted."""
    for path in sorted({*ctx.state.glob("*.db"), *ctx.state.glob("keys/*.db")}):
        sqlite.scrub(path)


def _renewed(ctx: Context, number: int) -> list[Renewed]:
    from kaizenml.data import store

    chains: dict[str, Any] = {}
    with ctx.catalog.read() as connection:
        for name in store.names(connection):
            chains |= {f"dataset {version.ref}": version.forgotten for version in store.versions(connection, name)}
        chains |= {f"model {model.ref}": model.forgotten for model in registry.every(connection)}
        for release in releases.every(connection):
            chains[f"release {release.ref}"] = releases.manifest(connection, release).forgotten
    return [
        Renewed(what=what, rows=link.rows, before=link.before, after=link.after, signature=link.signature)
        for what, links in chains.items()
        for link in links
        if link.number == number
    ]


def _not_reached(ctx: Context, wish: Wish) -> list[str]:
    with ctx.catalog.read() as connection:
        from kaizenml.data import store

        sources = {dataset.name: sorted({dataset.source, *(each.location for each in dataset.sources)}) for dataset in store.every(connection)}
    comes = "what is still in it is left out when it is added again; take it out there too"
    said = [f"The source of {name} ({', '.join(known)}): {comes}." for name, known in sources.items()]
    if not ctx.catalog.url.startswith("sqlite"):
        said.append("The catalog's database server: its free pages, its log and its backups are kept as its operator has set.")
    if ctx.settings.project.online:
        said.append("The online store's server: its log, its snapshots and its streams are kept as its operator has set.")
    if ctx.settings.project.objects:
        if objects.keeps_versions(ctx):
            said.append(
                "The object store: the bucket keeps older versions of objects, and so those with the rows that went. Let it end them (a lifecycle "
                f"rule on {ctx.settings.project.objects} for versions that are not current), or delete them."
            )
        said.append("The object store: replicas and backups of the bucket, where it has such.")
    return [
        *naming.not_kept(ctx, {each.column for each in wish.subjects}),
        *said,
        "What trained models have learnt: decided release by release, see above.",
        "Backups, copies and exports made before: restore none of them without forgetting again.",
        "The memory of processes that run: it goes when they end.",
    ]


def _told(connection: sa.Connection, number: int) -> bool:
    from kaizenml import events

    return bool(events.read(connection, kind="data.forgotten", subject=f"forgetting {number}", limit=1))
