"""What reaches through all rooms: cut off a source and see everything that it went into, forget a person and show it."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Literal

import msgspec

from kaizenml.context import Context
from kaizenml.data import exclusions as kept
from kaizenml.data import keys as project_keys
from kaizenml.data import store, tables
from kaizenml.data.exclusions import Exclusion
from kaizenml.errors import NotFound, UsageError, not_found
from kaizenml.governance import protecting
from kaizenml.governance.cutting_off import cutting
from kaizenml.governance.cutting_off import picture as drawing
from kaizenml.governance.cutting_off import radius as following
from kaizenml.governance.cutting_off.radius import Radius
from kaizenml.governance.forgetting import asking, certificate
from kaizenml.governance.forgetting import subject as subjects
from kaizenml.governance.forgetting.asking import Decision, Forgetting, Readmitted
from kaizenml.governance.protecting import Protected

__all__ = ["decide", "exclude", "exclusions", "forget", "forgotten", "include", "protect", "radius", "readmit"]


def exclude(
    ctx: Context,
    dataset: str | None = None,
    *,
    source: str | None = None,
    since: str | None = None,
    until: str | None = None,
    why: str = "",
    then: Literal["rollback", "retrain"] | None = None,
    picture: bool = False,
    progress: Callable[[str, float], None] | None = None,
) -> Radius:
    """Keep rows of a source or a range of time out of every later training and feature, and show all that they went into.

    The rows stay where they are, also those that will still come, and so do versions and hashes: this is a filter, and
    ``include`` takes it away again. Online values that came from such rows are made again from what remains. Repeating it is harmless.
    On the command line it is also `kaizen data quarantine`, with the options below.

    Parameters
    ----------
    dataset : its name; left out, every dataset that has this source.
    source : rows of this source only.
    since : rows from this day or time on, such as 2026-11-01 or 2026-11-01T06:00Z; by the dataset's time, or when they were added.
    until : rows before this day or time only.
    why : the reason, for the record.
    then : ``rollback`` takes releases that learnt from the rows off their endpoints, for the newest former champion that is free of
        them; ``retrain`` trains without them and puts the result on trial. Default: only show what could be done.
    picture : also draw it, as SVG.
    progress : told (step, share done 0..1) while it retrains.

    Returns
    -------
    The blast radius: versions, views, models, releases, endpoints and answers, what would help, and what was done.

    Raises
    ------
    UsageError : neither source nor time is given, or a time cannot be read.
    NotFound : no such dataset or source; names the nearest.

    Examples
    --------
    ``kaizen data exclude --source feed7 --since 2026-11-01 --why "prices in cents" --then rollback``
    """
    made = cutting.cut_off(ctx, cutting.planned(ctx, dataset, source=source, since=since, until=until, why=why))
    found = following.radius(ctx, made)
    reason = why or f"learnt from rows that are excluded: {following.name_of(made)}"
    done: builtins.list[str] = []
    if then == "rollback":
        done = cutting.roll_back(ctx, found, reason)
    elif then == "retrain":
        done = cutting.retrain(ctx, found, reason, progress)
    found = msgspec.structs.replace(following.radius(ctx, made) if done else found, done=done)
    return drawing.drawn(found) if picture else found


def include(
    ctx: Context, exclusion: int | None = None, *, dataset: str | None = None, source: str | None = None, why: str = ""
) -> builtins.list[Exclusion]:
    """Lift exclusions: their rows count again in every later training and feature.

    What was trained without them stays as it is. On the command line it is also `kaizen data release`, with ``--source``.

    Parameters
    ----------
    exclusion : its number, as `kaizen data exclusions` shows it.
    dataset : lift those on this dataset.
    source : lift those of this source.
    why : the reason, for the record.

    Returns
    -------
    The exclusions that were lifted.

    Raises
    ------
    UsageError : nothing says which.
    NotFound : no such exclusion holds.

    Examples
    --------
    ``kaizen data include --source feed7 --why "the feed was mended"``
    """
    return cutting.take_back(ctx, cutting.lifting(ctx, exclusion, dataset=dataset, source=source), why)


def exclusions(ctx: Context, dataset: str | None = None, *, lifted: bool = False) -> builtins.list[Exclusion]:
    """List the exclusions that hold: which rows nothing learns from, since when and why.

    Parameters
    ----------
    dataset : only those on this dataset.
    lifted : also those that were lifted.

    Returns
    -------
    Exclusions, oldest first.

    Raises
    ------
    NotFound : no such dataset.

    Examples
    --------
    ``kaizen data exclusions --lifted``
    """
    with ctx.catalog.read() as connection:
        known = [each.name for each in store.every(connection)]
        if dataset is not None and dataset not in known:
            raise not_found("dataset", dataset, known, remedy="kaizen data list")
        return [each for each in kept.every(connection, dataset) if lifted or each.active]


def radius(
    ctx: Context,
    dataset: str | None = None,
    *,
    source: str | None = None,
    since: str | None = None,
    until: str | None = None,
    exclusion: int | None = None,
    picture: bool = False,
) -> Radius:
    """Show everything that rows of a source or a range of time went into, without keeping them out: what ``exclude`` would show.

    Parameters
    ----------
    dataset : its name; left out, every dataset that has this source.
    source : rows of this source only.
    since : rows from this day or time on.
    until : rows before this day or time only.
    exclusion : the rows of this exclusion instead, by its number.
    picture : also draw it, as SVG.

    Returns
    -------
    The blast radius.

    Raises
    ------
    UsageError : neither source nor time is given, a time cannot be read, or an exclusion and something else.
    NotFound : no such dataset, source or exclusion.

    Examples
    --------
    ``kaizen data radius --source feed7 --since 2026-11-01``
    """
    if exclusion is not None and any(each is not None for each in (dataset, source, since, until)):
        raise UsageError("say which rows by an exclusion, or by dataset, source and time, not both", remedy=f"--exclusion {exclusion}")
    cut = cutting.planned(ctx, dataset, source=source, since=since, until=until) if exclusion is None else [_one(ctx, exclusion)]
    found = following.radius(ctx, cut)
    return drawing.drawn(found) if picture else found


def _one(ctx: Context, exclusion: int) -> Exclusion:
    with ctx.catalog.read() as connection:
        found = [each for each in kept.every(connection) if each.id == exclusion]
    if not found:
        raise NotFound(f"there is no exclusion {exclusion}", remedy="kaizen data exclusions --lifted", values={"exclusion": exclusion})
    return found[0]


def forget(
    ctx: Context,
    *,
    subject: builtins.list[str] | None = None,
    why: str = "",
    dry_run: bool = False,
    progress: Callable[[str, float], None] | None = None,
) -> Forgetting:
    """Forget persons: remove their rows from everything that the project keeps, for good.

    Datasets with all versions, quarantine, features, predictions, outcomes, examples, statistics. Pinned versions stay readable without
    the rows. A forgetting that was interrupted goes on first; without a subject it is all that is done. Rows of the subjects that come
    again are left out, until ``readmit``.

    Parameters
    ----------
    subject : whom: the column that says whom a row is about, and the value, such as ``customer_id=42``; several at once.
    why : the reason, for the record; it is kept, so it must not name the person.
    dry_run : only say what would go.
    progress : told (step, share done 0..1).

    Returns
    -------
    What went from where, the certificate, and the releases that have learnt from it, each with its decision.

    Raises
    ------
    UsageError : no subject, or the reason names it.
    NotFound : nothing here has the column by which a person is named, but one of nearly that name.
    Conflict : files from before the project moved to servers still hold what is forgotten there.
    Waiting : a serving process has not let go of its journal; repeat.
    Unavailable : another forgetting, the loop or a reader holds what is needed.

    Examples
    --------
    kaizen data forget --subject customer_id=42 --why "asked by letter"
    """
    wanted = subjects.parse(subject or [])
    asking.check_why(why, wanted)
    return asking.would(ctx, wanted, why) if dry_run else asking.carry_out(ctx, wanted, why, progress or (lambda _step, _share: None))


def readmit(ctx: Context, *, subject: builtins.list[str], why: str) -> Readmitted:
    """Take rows of persons again who were forgotten: they have come back, and their rows are no longer left out.

    Nothing comes back by itself: what was left out has to be added again.

    Parameters
    ----------
    subject : whom, as they were forgotten: ``customer_id=42``; several at once.
    why : the reason, for the record; it is kept, so it must not name the person.

    Returns
    -------
    How many are let in again.

    Raises
    ------
    UsageError : no subject, or no reason, or one that names the subject.
    NotFound : rows of one of them are not left out; then none is let in.
    Conflict : one of them is being forgotten.

    Examples
    --------
    kaizen data readmit --subject customer_id=42 --why "a customer again since May"
    """
    wanted = subjects.parse(subject)
    asking.check_why(why, wanted)
    return asking.let_in(ctx, wanted, why)


def forgotten(ctx: Context, *, number: int | None = None) -> builtins.list[Forgetting]:
    """List the forgettings with their certificates, each checked against its signature, and what is decided on the releases.

    Parameters
    ----------
    number : of one certificate; default all.

    Returns
    -------
    Forgettings, the newest first.

    Raises
    ------
    NotFound : there is no such certificate.
    Corrupt : a certificate was changed after it was signed.

    Examples
    --------
    kaizen data forgotten --number 1
    """
    found = [certificate.find(ctx.state, number)] if number is not None else certificate.every(ctx.state)[::-1]
    keys = project_keys.open_keys(ctx.state)
    for each in found:
        certificate.check(each, keys)
    return [asking.shown(ctx, each) for each in found]


def decide(ctx: Context, release: str, *, decision: Literal["retrain", "keep"], why: str) -> builtins.list[Decision]:
    """Decide what becomes of a release that has learnt from someone who was forgotten since.

    ``retrain`` asks the loop for an improvement of every endpoint that the release answers; ``keep`` lets it go on, for a reason.

    Parameters
    ----------
    release : ``name@number``, as a certificate lists it.
    decision : ``retrain`` or ``keep``.
    why : the reason, for the record.

    Returns
    -------
    Every decision as it stands now.

    Raises
    ------
    NotFound : no certificate lists this release.
    UsageError : there is no reason.

    Examples
    --------
    kaizen data decide shop@3 --decision keep --why "one row of 40,000; replaced on Friday"
    """
    return asking.settle(ctx, release, decision, why)


def protect(
    ctx: Context, dataset: str, *, column: str | None = None, decision: Literal["drop", "pseudonym", "encrypt", "keep"] | None = None, why: str = ""
) -> Protected:
    """Hide a column that tells of persons as decided, in every version and in the quarantine, for good.

    With ``column`` and ``decision`` the decision is written to the contract's file first; without, what the file says is carried out on the
    rows that are there. Versions stay readable, and releases that have pinned one still resolve: the old hash is linked to the new one by
    a signed record. Repeating it is harmless.

    Parameters
    ----------
    dataset : its name.
    column : on which is decided; left out, all whose decision the contract's file has.
    decision : ``drop`` (nothing of it stays), ``pseudonym``, ``encrypt``, or ``keep`` for a reason.
    why : the reason, for the record and the contract.

    Returns
    -------
    What was rewritten, and what holds values of the column besides.

    Raises
    ------
    NotFound : no such dataset or column.
    UsageError : a column without a decision or the other way round; to keep without a reason.
    InvalidData : a decision that the column's role does not allow.
    Conflict : a version holds the column in a form from which the values cannot be brought back.

    Examples
    --------
    kaizen data protect customers --column email --decision pseudonym --why "only to join"
    """
    if (column is None) != (decision is None):
        raise UsageError("a column and its decision go together", remedy="--column email --decision drop", values={"column": column})
    with ctx.catalog.read() as connection:
        found = store.find(connection, dataset)
    if found is None:
        tables.version(ctx, dataset)  # names the nearest
        raise NotFound(f"there is no dataset {dataset!r}", remedy="kaizen data list")
    return protecting.protect(ctx, found, column, decision, why)
