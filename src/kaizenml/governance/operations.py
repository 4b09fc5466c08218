"""What reaches through all rooms: cut off a source, and see everything that it went into."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Literal

import msgspec

from kaizenml.context import Context
from kaizenml.data import exclusions as kept
from kaizenml.data.exclusions import Exclusion
from kaizenml.errors import NotFound
from kaizenml.governance import cutting, picture
from kaizenml.governance import radius as following
from kaizenml.governance.radius import Radius

__all__ = ["exclude", "exclusions", "include", "radius"]


def exclude(
    ctx: Context,
    dataset: str | None = None,
    *,
    source: str | None = None,
    since: str | None = None,
    until: str | None = None,
    why: str = "",
    then: Literal["rollback", "retrain"] | None = None,
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
    return picture.kept(ctx, found)


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

    Examples
    --------
    ``kaizen data exclusions --lifted``
    """
    with ctx.catalog.read() as connection:
        return [each for each in kept.every(connection, dataset) if lifted or each.active]


def radius(
    ctx: Context,
    dataset: str | None = None,
    *,
    source: str | None = None,
    since: str | None = None,
    until: str | None = None,
    exclusion: int | None = None,
) -> Radius:
    """Show everything that rows of a source or a range of time went into, without keeping them out: what ``exclude`` would show.

    Parameters
    ----------
    dataset : its name; left out, every dataset that has this source.
    source : rows of this source only.
    since : rows from this day or time on.
    until : rows before this day or time only.
    exclusion : the rows of this exclusion instead, by its number.

    Returns
    -------
    The blast radius.

    Raises
    ------
    UsageError : neither source nor time is given, or a time cannot be read.
    NotFound : no such dataset, source or exclusion.

    Examples
    --------
    ``kaizen data radius --source feed7 --since 2026-11-01``
    """
    if exclusion is None:
        return following.radius(ctx, cutting.planned(ctx, dataset, source=source, since=since, until=until))
    with ctx.catalog.read() as connection:
        found = [each for each in kept.every(connection) if each.id == exclusion]
    if not found:
        raise NotFound(f"there is no exclusion {exclusion}", remedy="kaizen data exclusions --lifted", values={"exclusion": exclusion})
    return following.radius(ctx, found)
