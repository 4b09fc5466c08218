"""Make releases: pin what they are made of, let the gates look at them, and keep the verdict for good."""

from __future__ import annotations

import builtins
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaizenml.context import Context
from kaizenml.errors import Corrupt, Refused, UsageError, nearest, not_found
from kaizenml.refs import parse_ref
from kaizenml.registry import files, objects
from kaizenml.registry import operations as registry
from kaizenml.releases import bundle, store
from kaizenml.releases.release import GateResult, Manifest, Pins, Release
from kaizenml.training import store as runs

if TYPE_CHECKING:
    from kaizenml.registry.model import ModelVersion
    from kaizenml.training.run import Run

__all__ = ["create", "list", "show", "verify"]

GATES = ("naive", "champion", "poison", "parity", "load")
"""In this order: the dear ones last, and not at all where a cheap one has said no."""

Progress = Callable[[str, float], None]


def create(
    ctx: Context,
    model: str,
    *,
    against: str | None = None,
    why: str = "",
    once: str | None = None,
    skip: builtins.list[str] | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> Release:
    """Pin a model with everything it is made of, and let the gates decide whether it may go to production.

    A release that a gate refuses is kept as refused, with its evidence.

    Parameters
    ----------
    model : ``name@number`` of a model version; a bare name means the newest.
    against : release to compare with, usually the champion; None: there is none to compare with.
    why : reason, for the record; needed where gates are skipped.
    once : token of the caller; a second call with the same token returns (or raises) what the first one did.
    skip : gates to leave out (naive, champion, poison, parity, load), on the record and on the card; for drills.
    progress : told (step, share done 0..1).

    Returns
    -------
    The release, with the evidence of every gate.

    Raises
    ------
    NotFound : there is no such model or release.
    Refused : a gate refused it; its evidence is kept under the release's name.
    UsageError : an unknown gate is to be skipped, or one without a reason.
    Corrupt : the model's files differ from what was registered.

    Examples
    --------
    ``kaizen releases create shop@2 --against shop@1 --why "prices changed"``
    """
    skipped = _skipped(skip or [], why)
    found = _made_for(ctx, once)
    if found is None:
        chosen = registry.verify(ctx, model)
        champion = show(ctx, against) if against else None
        found = _make(ctx, chosen, champion, why=why, once=once, skipped=skipped, progress=progress or _silent)
    if found.state == "refused":
        raise _refused(found)
    return found


def list(ctx: Context) -> builtins.list[Release]:
    """List every release, by name and number.

    Returns
    -------
    Releases, oldest first, those that were refused among them.

    Examples
    --------
    ``kaizen releases list``
    """
    with ctx.catalog.read() as connection:
        return store.every(connection)


def show(ctx: Context, release: str) -> Release:
    """Show a release: its pins, its gates and their evidence.

    Parameters
    ----------
    release : ``name@number``; a bare name means the newest that passed.

    Returns
    -------
    The release.

    Raises
    ------
    NotFound : there is no such release.

    Examples
    --------
    ``kaizen releases show shop@1``
    """
    ref = parse_ref(release)
    with ctx.catalog.read() as connection:
        found = store.find(connection, ref.name, ref.number)
        if found:
            return found
        known = [each.ref for each in store.every(connection)]
    raise not_found("release", release, known, remedy="kaizen releases list" if known else "kaizen releases create MODEL")


def verify(ctx: Context, release: str) -> Release:
    """Hash every file of a release's bundle again, and compare all of it with what the catalog holds.

    Parameters
    ----------
    release : ``name@number``; a bare name means the newest that passed.

    Returns
    -------
    The release.

    Raises
    ------
    NotFound : there is no such release, or its bundle is gone.
    Corrupt : a file differs, is missing or was added; the message names it.

    Examples
    --------
    ``kaizen releases verify shop@1``
    """
    found = show(ctx, release)
    with ctx.catalog.read() as connection:
        kept = store.manifest(connection, found)
    folder = folder_of(ctx, found)
    if bundle.verify(folder) != kept:
        raise Corrupt(
            f"release {found.ref}: {bundle.MANIFEST} differs from what the catalog holds",
            remedy=f"restore {folder} from a backup, or roll back to another release",
            values={"file": str(folder / bundle.MANIFEST)},
        )
    _check_links(ctx, kept)
    return found


def _check_links(ctx: Context, manifest: Manifest) -> None:
    """Check that what was pinned is what is there, or is linked to it by the signed record of a forgetting."""
    from kaizenml.data import forgotten, tables
    from kaizenml.data.keys import open_keys

    if manifest.forgotten:
        forgotten.check(manifest.forgotten, open_keys(ctx.state), f"release {manifest.ref}", manifest.forgotten[-1].after)
    for ref, pinned in zip(manifest.pins.data, manifest.pins.data_hashes, strict=True):
        version = tables.version(ctx, ref)
        if version.forgotten:
            forgotten.check(version.forgotten, open_keys(ctx.state), f"dataset {ref}", version.hash)
        if pinned not in forgotten.known_as(version.forgotten, version.hash):
            raise Corrupt(
                f"release {manifest.ref} pins {ref} with the hash {pinned[:12]}..., which it has not and never had",
                remedy=f"restore the state folder from a backup; kaizen data verify {ref}",
                values={"data": ref, "expected": pinned, "found": version.hash},
            )


def folder_of(ctx: Context, release: Release) -> Path:
    """Return where a release's bundle is, fetched from the object store where this machine lacks it. It may be gone all the same."""
    folder = ctx.state / release.bundle
    if not folder.is_dir() and ctx.settings.project.objects:
        with ctx.catalog.read() as connection:
            kept = store.manifest(connection, release)
        objects.fetch(ctx, folder, known=kept.files, last={bundle.MANIFEST: bundle.written(kept)})
    return folder


def _make(
    ctx: Context,
    model: ModelVersion,
    champion: Release | None,
    *,
    why: str,
    once: str | None,
    skipped: dict[str, str],
    progress: Progress,
) -> Release:
    from kaizenml.features.offline import frame
    from kaizenml.registry import check_rows, importing
    from kaizenml.releases import card, pins, rows
    from kaizenml.training import model_file

    run = None if model.imported else _run(ctx, model)
    source = registry.folder_of(ctx, model)
    signature = model_file.read(source).signature
    progress("pin", 0.0)
    pinned = pins.pin(ctx, model, run, signature)

    def sampled(known: Any) -> Any:
        return rows.sample(known, ctx.settings.gates.parity_rows)

    table = frame.frame_of(ctx, signature, run.dataset, only=sampled) if run else sampled(check_rows.table_of(check_rows.read(source), signature))
    example = rows.example(table, 3, signature)
    parent = ctx.state / "releases" / model.name
    with files.aside(parent) as folder:
        bundle.fill(folder, source, example)
        draft = _draft(ctx, model, run, pinned, bundle.hashed(folder), why=why)
        bundle.seal(folder, draft, "")  # what the load gate's server reads; written again with number, verdict and card
        gates = _gates(ctx, run, champion, folder, table, pins=pinned, skipped=skipped, progress=progress)
        state = "passed" if all(gate.passed for gate in gates) else "refused"
        objects.keep(ctx, folder)  # what is large, before the catalog waits for it
        with ctx.catalog.write() as connection:
            made = once and store.made_for(connection, once)
            if made:  # another process was quicker
                return made
            number = store.next_number(connection, model.name)
            place = f"releases/{model.name}/{number}"
            manifest = _replaced(draft, number=number, bundle=place, gates=gates, state=state, created_at=ctx.clock.timestamp())
            manifest = bundle.seal(folder, manifest, card.card(manifest, run or importing.read(source), signature, example))
            bundle.verify(folder)  # nothing has touched it while the gates were at it
            objects.keep(ctx, folder)
            store.insert(connection, manifest, once)
            told = {"model": model.ref, "hash": manifest.hash, "skipped": sorted(skipped), "gates": {gate.name: gate.summary for gate in gates}}
            ctx.record(connection, f"releases.{state}", manifest.ref, why, **told)
            files.settle(folder, parent / str(number))
    progress("release", 1.0)
    return show(ctx, manifest.ref)


def _run(ctx: Context, model: ModelVersion) -> Run:
    with ctx.catalog.read() as connection:
        run = runs.find(connection, model.run)
    if run is None:
        what = f"model {model.ref} came from run {model.run}, which the catalog does not hold"
        raise Corrupt(what, remedy="restore the catalog from a backup", values={"model": model.ref, "run": model.run})
    return run


def _draft(ctx: Context, model: ModelVersion, run: Run | None, pinned: Pins, covered: dict[str, str], *, why: str) -> Manifest:
    return Manifest(
        name=model.name,
        number=0,
        hash=bundle.content_hash(pinned, covered),
        pins=pinned,
        gates=[],
        state="refused",
        bundle="",
        why=why,
        created_at=ctx.clock.timestamp(),
        exclusions=run.exclusions if run else [],
        files={},
    )


def _gates(
    ctx: Context, run: Run | None, champion: Release | None, folder: Path, table: Any, *, pins: Pins, skipped: dict[str, str], progress: Progress
) -> builtins.list[GateResult]:
    from kaizenml.releases import gates, load, parity, poison, rows
    from kaizenml.training import model_file

    def ask() -> GateResult:
        requests = rows.requests(table, model_file.read(folder / bundle.MODEL).signature)
        return load.gate(server[0], requests, ctx.settings.gates, lambda share: progress("load", 0.4 + 0.6 * share))

    server: builtins.list[Callable[[], int]] = []  # one, as soon as it may be needed
    looks: dict[str, Callable[[], GateResult]] = {
        "naive": lambda: gates.naive(run) if run else gates.not_judged("naive"),
        "champion": lambda: gates.champion(run, champion) if run else gates.not_judged("champion"),
        "poison": lambda: poison.gate(ctx, run, pins, _inputs(folder)) if run else gates.not_judged("poison"),
        "parity": lambda: parity.parity(folder / bundle.MODEL, table) if run else parity.replay(folder / bundle.MODEL),
        "load": ask,
    }
    results: builtins.list[GateResult] = []
    with contextlib.ExitStack() as stack:
        for place, name in enumerate(GATES):
            progress(name, 0.1 + 0.1 * place)
            failed = [result.name for result in results if not result.passed]
            if name == "poison" and not failed and "load" not in skipped:  # the gate's server comes up while the gates before it look
                server.append(stack.enter_context(load.starting(folder)))
            if name in skipped:
                evidence = {"skipped": skipped[name], "by": ctx.actor}
                results.append(GateResult(name=name, passed=True, summary=f"skipped: {skipped[name]}", evidence=evidence))
            elif failed and name == "load":
                results.append(GateResult(name=name, passed=False, summary=f"not run, for {failed[0]} said no", evidence={"not_run": failed}))
            else:
                results.append(looks[name]())
    return results


def _inputs(folder: Path) -> builtins.list[str]:
    from kaizenml.training import model_file

    return [field.name for field in model_file.read(folder / bundle.MODEL).signature.fields]


def _skipped(names: builtins.list[str], why: str) -> dict[str, str]:
    for name in names:
        if name not in GATES:
            close = nearest(name, GATES)
            hint = f"; did you mean {close!r}?" if close else f"; there is {', '.join(GATES)}"
            raise UsageError(f"there is no gate {name!r}{hint}", remedy="name the gates to skip", values={"gate": name, "nearest": close})
    if names and not why.strip():
        raise UsageError("gates are skipped only for a reason", remedy='say it: --why "a drill: ..."', values={"skip": names})
    return dict.fromkeys(names, why)


def _made_for(ctx: Context, once: str | None) -> Release | None:
    if once is None:
        return None
    with ctx.catalog.read() as connection:
        return store.made_for(connection, once)


def _refused(release: Release) -> Refused:
    failed = release.failed
    return Refused(
        f"release {release.ref} was refused by {', '.join(gate.name for gate in failed)}: {failed[0].summary}",
        remedy=f"kaizen releases show {release.ref}",
        values={"release": release.ref, "gates": [{"name": gate.name, "summary": gate.summary} for gate in failed]},
    )


def _replaced(manifest: Manifest, **changes: Any) -> Manifest:
    import msgspec

    return msgspec.structs.replace(manifest, **changes)


def _silent(_step: str, _share: float) -> None:
    return None
