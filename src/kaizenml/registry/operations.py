"""Keep models for good: a run's model folder is copied in, hashed and numbered."""

from __future__ import annotations

import builtins
from pathlib import Path

from kaizenml.context import Context
from kaizenml.errors import Conflict, Corrupt, NotFound, not_found
from kaizenml.refs import check_name, parse_ref
from kaizenml.registry import files, store
from kaizenml.registry.model import ModelVersion
from kaizenml.training import model_file
from kaizenml.training import store as runs  # not its operations, which load the learners' libraries

__all__ = ["list", "register", "show", "verify"]


def register(ctx: Context, run: str, *, name: str | None = None) -> ModelVersion:
    """Keep the model of a training run as the next version of ``name``.

    Registering the same run under the same name again returns the version it already is.

    Parameters
    ----------
    run : id of a training run that is done.
    name : name of the model; default the project's name.

    Returns
    -------
    The model version, with the hash over its files.

    Raises
    ------
    NotFound : there is no such run, or its files are gone.
    Conflict : the run failed.
    StorageFull : no room for the copy; nothing was half-written.

    Examples
    --------
    ``kaizen registry register 20260101-1200-ab12``
    """
    name = check_name(name or ctx.settings.project.name)
    with ctx.catalog.read() as connection:
        known = store.of_run(connection, name, run)
        if known:
            return known
        found = runs.find(connection, run)
        if found is None:
            raise not_found("run", run, [each.id for each in runs.all_runs(connection)], remedy="kaizen training list")
    if found.state != "done":
        raise Conflict(f"run {run} {found.state}; it has no model", remedy="kaizen train", values={"run": run, "state": found.state})
    source = ctx.state / found.folder
    model_file.read(source)  # what is not a readable model is not registered
    parent = ctx.state / "models" / name
    with files.aside(parent) as folder:
        files.copy_files(source, folder)
        digest = files.hash_of(files.hash_files(folder))
        with ctx.catalog.write() as connection:
            known = store.of_run(connection, name, run)
            if known:  # another process was quicker
                return known
            number = store.next_number(connection, name)
            model = ModelVersion(
                name=name, number=number, run=run, folder=f"models/{name}/{number}", hash=digest, created_at=ctx.clock.timestamp()
            )
            store.insert(connection, model)
            ctx.record(connection, "registry.registered", model.ref, run=run, hash=digest)
            files.settle(folder, parent / str(number))
    return model


def list(ctx: Context) -> builtins.list[ModelVersion]:
    """List every model version, by name and number.

    Returns
    -------
    Model versions, oldest first.

    Examples
    --------
    ``kaizen registry list``
    """
    with ctx.catalog.read() as connection:
        return store.every(connection)


def show(ctx: Context, model: str) -> ModelVersion:
    """Show one model version.

    Parameters
    ----------
    model : ``name@number``; a bare name means the newest.

    Raises
    ------
    NotFound : there is no such model.

    Examples
    --------
    ``kaizen registry show shop@1``
    """
    ref = parse_ref(model)
    with ctx.catalog.read() as connection:
        found = store.find(connection, ref.name, ref.number)
        if found:
            return found
        known = [version.ref for version in store.every(connection)]
    raise not_found("model", model, known, remedy="kaizen registry list")


def verify(ctx: Context, model: str) -> ModelVersion:
    """Hash a model version's files again and compare with what was registered.

    Parameters
    ----------
    model : ``name@number``; a bare name means the newest.

    Raises
    ------
    NotFound : there is no such model.
    Corrupt : its files differ from what was registered.

    Examples
    --------
    ``kaizen registry verify shop@1``
    """
    found = show(ctx, model)
    folder = folder_of(ctx, found)
    digest = files.hash_of(files.hash_files(folder))
    if digest != found.hash:
        raise Corrupt(
            f"the files of model {found.ref} differ from what was registered",
            remedy=f"restore {folder} from a backup, or train again: kaizen train",
            values={"model": found.ref, "expected": found.hash, "found": digest},
        )
    return found


def folder_of(ctx: Context, model: ModelVersion) -> Path:
    """Return where the model's files are; NotFound when the folder is gone."""
    folder = ctx.state / model.folder
    if not folder.is_dir():
        raise NotFound(f"the files of model {model.ref} are gone", remedy="restore them from a backup", values={"folder": str(folder)})
    return folder
