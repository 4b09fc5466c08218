"""Change which releases answer an endpoint. Each verb is one transaction with its event, then the snapshot is published."""

from __future__ import annotations

import builtins
from collections.abc import Callable

from kaizenml.context import Context
from kaizenml.errors import Conflict, InvalidSettings, NotFound, Refused, not_found
from kaizenml.refs import check_name
from kaizenml.releases import operations as releases
from kaizenml.releases.release import Release
from kaizenml.rollouts import publishing, rollout, store
from kaizenml.rollouts.rollout import Change, Rollout
from kaizenml.rollouts.snapshot import Snapshot
from kaizenml.training import model_file

__all__ = [
    "challenge", "deploy", "history", "kill", "list", "promote", "publish", "revive", "rollback", "shadow", "show", "unshadow", "withdraw",
]  # fmt: skip


def deploy(ctx: Context, endpoint: str, release: str, *, why: str = "", revision: int | None = None) -> Rollout:
    """Let a release answer all of an endpoint's traffic at once; the first deployment makes the endpoint.

    Parameters
    ----------
    endpoint : name that clients call.
    release : ``name@number`` of a release that passed its gates; a bare name means the newest.
    why : reason, for the record.
    revision : change only if the endpoint still is at this revision.

    Returns
    -------
    The rollout as it is now.

    Raises
    ------
    NotFound : there is no such release.
    Refused : a gate refused the release.
    Corrupt : its files differ from what was released.
    Conflict : it is champion already, answers another question than the champion, or the revision is another.
    InvalidSettings : the first release of an endpoint cannot follow the rules in kaizen.toml.

    Examples
    --------
    ``kaizen rollouts deploy shop shop@1``
    """
    check_name(endpoint)
    found = _deployable(ctx, release)
    with ctx.catalog.read() as connection:
        before = store.current(connection, endpoint)
    if before:
        _same_question(ctx, before, found)
    else:
        publishing.check(ctx, endpoint, found)

    def change(now: Rollout | None) -> Rollout:
        if now and before is None:
            raise Conflict(f"somebody else has just deployed {now.champion} to {endpoint}", remedy=f"kaizen rollouts show {endpoint}, then repeat")
        return rollout.deploy(now, found.ref) if now else rollout.start(endpoint, found.ref)

    return _change(ctx, endpoint, "deployed", change, release=found.ref, why=why, revision=revision, new=True)


def challenge(ctx: Context, endpoint: str, release: str, *, weight: float = 0.05, why: str = "", revision: int | None = None) -> Rollout:
    """Try a release on a share of an endpoint's traffic, or change the share of one that is on trial.

    Units (customers, sessions) stick to their arm; a share that grows keeps the units it has.

    Parameters
    ----------
    endpoint : name of the endpoint.
    release : ``name@number`` of a release that passed its gates; a bare name means the newest.
    weight : share of the units, 0.001 to 0.999 in steps of 0.001; the champion keeps at least 0.001.
    why : reason, for the record.
    revision : change only if the endpoint still is at this revision.

    Returns
    -------
    The rollout as it is now.

    Raises
    ------
    NotFound : there is no such endpoint or release.
    Refused : a gate refused the release.
    Corrupt : its files differ from what was released.
    Conflict : it is the champion, there is not so much traffic left, or the revision is another.

    Examples
    --------
    ``kaizen rollouts challenge shop shop@2 --weight 0.1``
    """
    steps = rollout.permille(weight)
    found = _deployable(ctx, release)
    before = show(ctx, endpoint)
    _same_question(ctx, before, found)
    verb = "reweighted" if before.arm(found.ref) else "challenged"
    share = steps / rollout.WHOLE
    return _change(
        ctx, endpoint, verb, lambda now: rollout.challenge(_there(now), found.ref, steps), release=found.ref, why=why, revision=revision, weight=share
    )


def promote(ctx: Context, endpoint: str, release: str | None = None, *, why: str = "", revision: int | None = None) -> Rollout:
    """Make a challenger the champion.

    Parameters
    ----------
    endpoint : name of the endpoint.
    release : the challenger; may be left out where there is only one.
    why : reason, for the record.
    revision : change only if the endpoint still is at this revision.

    Returns
    -------
    The rollout as it is now.

    Raises
    ------
    NotFound : there is no such endpoint or release.
    Corrupt : the release's files differ from what was released.
    Conflict : it does not challenge, or there is not exactly one challenger to choose.

    Examples
    --------
    ``kaizen promote shop``
    """
    before = show(ctx, endpoint)
    chosen = rollout.promote(before, release and releases.show(ctx, release).ref).champion
    _deployable(ctx, chosen)
    return _change(ctx, endpoint, "promoted", lambda now: rollout.promote(_there(now), chosen), release=chosen, why=why, revision=revision)


def withdraw(ctx: Context, endpoint: str, release: str, *, why: str = "", revision: int | None = None) -> Rollout:
    """Take a challenger out of an endpoint; its units return to the champion.

    Parameters
    ----------
    endpoint : name of the endpoint.
    release : the challenger.
    why : reason, for the record.
    revision : change only if the endpoint still is at this revision.

    Returns
    -------
    The rollout as it is now.

    Raises
    ------
    NotFound : there is no such endpoint or release.
    Conflict : it does not challenge the endpoint.

    Examples
    --------
    ``kaizen rollouts withdraw shop shop@2``
    """
    ref = releases.show(ctx, release).ref
    return _change(ctx, endpoint, "withdrawn", lambda now: rollout.withdraw(_there(now), ref), release=ref, why=why, revision=revision)


def rollback(ctx: Context, endpoint: str, *, to: str | None = None, why: str = "", revision: int | None = None) -> Rollout:
    """Return an endpoint to its former champion, or to any earlier release; all challengers leave.

    Parameters
    ----------
    endpoint : name of the endpoint.
    to : a release that passed its gates; default the champion before this one.
    why : reason, for the record.
    revision : change only if the endpoint still is at this revision.

    Returns
    -------
    The rollout as it is now.

    Raises
    ------
    NotFound : there is no such endpoint or release.
    Refused : a gate refused the release.
    Corrupt : its files differ from what was released.
    Conflict : it is champion already, or there was none before.

    Examples
    --------
    ``kaizen rollback shop --to shop@1``
    """
    before = show(ctx, endpoint)
    target = rollout.rollback(before, to and releases.show(ctx, to).ref).champion
    _same_question(ctx, before, _deployable(ctx, target))
    return _change(ctx, endpoint, "rolled_back", lambda now: rollout.rollback(_there(now), target), release=target, why=why, revision=revision)


def kill(ctx: Context, endpoint: str, *, why: str = "") -> Rollout:
    """Stop the models of an endpoint from answering: within a second every answer is the naive one, until it is revived.

    Parameters
    ----------
    endpoint : name of the endpoint.
    why : reason, for the record and for the answers.

    Returns
    -------
    The rollout as it is now.

    Raises
    ------
    NotFound : there is no such endpoint.

    Examples
    --------
    ``kaizen kill shop --why "prices are wrong since noon"``
    """
    return _change(ctx, endpoint, "killed", lambda now: rollout.kill(_there(now), why), release=None, why=why)


def revive(ctx: Context, endpoint: str, *, why: str = "") -> Rollout:
    """Let the models of a killed endpoint answer again.

    Parameters
    ----------
    endpoint : name of the endpoint.
    why : reason, for the record.

    Returns
    -------
    The rollout as it is now.

    Raises
    ------
    NotFound : there is no such endpoint.
    Conflict : it is not killed.

    Examples
    --------
    ``kaizen rollouts revive shop``
    """
    return _change(ctx, endpoint, "revived", lambda now: rollout.revive(_there(now)), release=None, why=why)


def shadow(ctx: Context, endpoint: str, release: str, *, why: str = "") -> Rollout:
    """Let a release see all traffic of an endpoint, whoever answers it.

    Parameters
    ----------
    endpoint : name of the endpoint.
    release : ``name@number`` of a release that passed its gates; a bare name means the newest.
    why : reason, for the record.

    Returns
    -------
    The rollout as it is now.

    Raises
    ------
    NotFound : there is no such endpoint or release.
    Refused : a gate refused the release.
    Corrupt : its files differ from what was released.
    Conflict : it is a shadow of the endpoint already.

    Examples
    --------
    ``kaizen rollouts shadow shop shop@1``
    """
    found = _deployable(ctx, release)
    _same_question(ctx, show(ctx, endpoint), found)
    return _change(ctx, endpoint, "shadowed", lambda now: rollout.shadow(_there(now), found.ref), release=found.ref, why=why)


def unshadow(ctx: Context, endpoint: str, release: str, *, why: str = "") -> Rollout:
    """Let a shadow see no more traffic.

    Parameters
    ----------
    endpoint : name of the endpoint.
    release : the shadow.
    why : reason, for the record.

    Returns
    -------
    The rollout as it is now.

    Raises
    ------
    NotFound : there is no such endpoint or release.
    Conflict : it is no shadow of the endpoint.

    Examples
    --------
    ``kaizen rollouts unshadow shop shop@1``
    """
    ref = releases.show(ctx, release).ref
    return _change(ctx, endpoint, "unshadowed", lambda now: rollout.unshadow(_there(now), ref), release=ref, why=why)


def show(ctx: Context, endpoint: str) -> Rollout:
    """Show which releases answer an endpoint.

    Parameters
    ----------
    endpoint : name of the endpoint.

    Returns
    -------
    The rollout as it is now.

    Raises
    ------
    NotFound : there is no such endpoint.

    Examples
    --------
    ``kaizen rollouts show shop``
    """
    with ctx.catalog.read() as connection:
        found = store.current(connection, endpoint)
        if found:
            return found
        known = [each.endpoint for each in store.every(connection)]
    raise _no_endpoint(endpoint, known)


def list(ctx: Context) -> builtins.list[Rollout]:
    """List the rollouts of all endpoints, by name.

    Returns
    -------
    The rollouts as they are now.

    Examples
    --------
    ``kaizen rollouts list``
    """
    with ctx.catalog.read() as connection:
        return store.every(connection)


def history(ctx: Context, endpoint: str, *, limit: int = 50) -> builtins.list[Change]:
    """Show what was done to an endpoint, by whom and why, newest first.

    Parameters
    ----------
    endpoint : name of the endpoint.
    limit : at most so many changes, 1 or more.

    Returns
    -------
    Changes, each with the rollout as it was afterwards.

    Raises
    ------
    NotFound : there is no such endpoint.

    Examples
    --------
    ``kaizen rollouts history shop``
    """
    show(ctx, endpoint)
    with ctx.catalog.read() as connection:
        return store.changes(connection, endpoint, max(1, limit))


def publish(ctx: Context) -> Snapshot:
    """Write the routing snapshot from the catalog and the rules in kaizen.toml anew, so that serving follows it within a second.

    Every change does this by itself, and the loop at every look; after an edit of ``[fallback]`` or ``[[route]]`` it saves the wait.
    Calling it again is harmless and mends a snapshot that was lost.

    Returns
    -------
    The snapshot as it stands on disk.

    Raises
    ------
    InvalidSettings : the rules cannot be followed; everything else is published, and the last good rules stay in force.

    Examples
    --------
    ``kaizen rollouts publish``
    """
    published = publishing.publish(ctx)
    if problems := publishing.problems(published):
        raise InvalidSettings(
            "; ".join(problems),
            remedy="mend kaizen.toml and repeat; until then the last good rules stay in force",
            values={"problems": problems},
        )
    return published


def _change(
    ctx: Context,
    endpoint: str,
    verb: str,
    change: Callable[[Rollout | None], Rollout],
    *,
    release: str | None,
    why: str,
    revision: int | None = None,
    new: bool = False,
    **data: object,
) -> Rollout:
    with ctx.catalog.write() as connection:
        before = store.current(connection, endpoint)
        if before is None and not new:
            raise _no_endpoint(endpoint, [each.endpoint for each in store.every(connection)])
        standing = before.revision if before else 0
        if revision is not None and revision != standing:
            raise Conflict(
                f"{endpoint} is at revision {standing}, not {revision}: somebody changed it",
                remedy=f"look again: kaizen rollouts show {endpoint}",
                values={"endpoint": endpoint, "expected": revision, "found": standing},
            )
        after = change(before)
        at = ctx.clock.timestamp()
        store.insert(
            connection,
            Change(endpoint=endpoint, revision=after.revision, verb=verb, release=release, at=at, actor=ctx.actor, why=why, rollout=after),
        )
        former = before.champion if before and before.champion != after.champion else None
        ctx.record(connection, f"rollouts.{verb}", endpoint, why, release=release, revision=after.revision, former=former, **data)
        if verb == "rolled_back" and before:  # the challengers left too: each trial gets its end on record
            for arm in before.challengers:
                if arm.release != release:
                    ctx.record(connection, "rollouts.withdrawn", endpoint, why or "rolled back", release=arm.release, revision=after.revision)
    publishing.publish(ctx)
    return after


def _deployable(ctx: Context, release: str) -> Release:
    """Return a release that may get traffic: it passed its gates, and its files are what was released."""
    found = releases.show(ctx, release)
    if found.state != "passed":
        failed = found.failed
        names = ", ".join(gate.name for gate in failed)
        raise Refused(
            f"{found.ref} was refused by {names or 'a gate'}" + (f": {failed[0].summary}" if failed else ""),
            remedy=f"kaizen releases show {found.ref}, mend it and release again",
            values={"release": found.ref, "gates": [gate.name for gate in failed]},
        )
    return releases.verify(ctx, found.ref)


def _same_question(ctx: Context, now: Rollout, candidate: Release) -> None:
    """Clients of an endpoint rely on what its answers mean: the target and the kind of task stay."""
    champion = releases.show(ctx, now.champion)
    old, new = (model_file.read(releases.folder_of(ctx, each) / "model").signature for each in (champion, candidate))
    if (old.target, old.task) != (new.target, new.task):
        raise Conflict(
            f"{candidate.ref} answers {new.target!r} ({new.task}), but {now.endpoint} answers {old.target!r} ({old.task})",
            remedy=f"give it an endpoint of its own: kaizen rollouts deploy {new.target} {candidate.ref}",
            values={"endpoint": now.endpoint, "target": [old.target, new.target], "task": [old.task, new.task]},
        )


def _there(now: Rollout | None) -> Rollout:
    assert now is not None  # _change has seen to it
    return now


def _no_endpoint(endpoint: str, known: builtins.list[str]) -> NotFound:
    return not_found("endpoint", endpoint, known, remedy="kaizen status" if known else "kaizen rollouts deploy NAME RELEASE")
