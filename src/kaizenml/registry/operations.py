"""Keep models for good: a run's model folder is copied in, hashed and numbered."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any, Literal

from kaizenml.context import Context
from kaizenml.errors import Conflict, Corrupt, NotFound, UsageError, not_found
from kaizenml.refs import check_name, parse_ref
from kaizenml.registry import files as folders
from kaizenml.registry import objects, store
from kaizenml.registry.model import ModelVersion
from kaizenml.training import model_file
from kaizenml.training import store as runs  # not its operations, which load the learners' libraries

__all__ = ["import_model", "list", "register", "show", "verify"]


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
    with folders.aside(ctx.state / "models" / name) as folder:
        folders.copy_files(source, folder)
        return _keep(ctx, name, run, folder, event="registry.registered", run=run)


def import_model(
    ctx: Context,
    source: str,
    *,
    check: str,
    target: str | None = None,
    name: str | None = None,
    columns: builtins.list[str] | None = None,
    task: Literal["auto", "binary", "multiclass", "regression"] = "auto",
    classes: builtins.list[str] | None = None,
    tolerance: float = 1e-5,
    timeout: str = "1s",
    memory_mb: int = 0,
    files: builtins.list[str] | None = None,
) -> ModelVersion:
    """Keep a model that was made elsewhere as the next version of ``name``, once it has answered as it did there.

    Taken are ONNX, LightGBM's text, XGBoost's JSON and UBJSON, scikit-learn in skops, and a function in a Python file. Pickles are
    not, whatever they are called: loading one runs whatever its author wrote. The file is opened and asked in a process of its own.
    Importing the same files the same way again returns the version they already are.

    Parameters
    ----------
    source : the model's file, or ``FILE.py:function``.
    check : rows with the answers that the model gave where it was made (CSV, Parquet or JSON lines); all are asked here and compared.
    target : the column in them with the answer: the number, the class, or the second class' probability; probabilities of classes
        stand in columns ``target:class``. Default the project's target.
    name : name of the model; default the project's name.
    columns : its inputs in its order, each ``name`` or ``name:kind``; default as the file names them, else every other column of ``check``.
    task : what kind of answer it is; default what the file says, else what the answers look like.
    classes : in the order of the model's probabilities; default as the file says, else as ``check`` shows them.
    tolerance : by how much answers may differ, relative for numbers above 1.
    timeout : for one call, where the model answers in a process of its own; later the answer is naive.
    memory_mb : address space that such a process may use; default no limit.
    files : for Python: further files and folders that its code needs, put beside it.

    Returns
    -------
    The model version, with the hash over its files.

    Raises
    ------
    NotFound : there is no such file.
    InvalidData : the file is a pickle, of no known kind, damaged, made to do harm, or does not answer as it should.
    MissingExtra : a library that it needs is not installed.
    UsageError : what is said of it cannot be.
    StorageFull : no room for the copy; nothing was half-written.

    Examples
    --------
    ``kaizen registry import-model churn.onnx --check rows.csv --target churned``
    """
    from kaizenml.registry import importing  # reads tables, which looking at models does without

    name = check_name(name or ctx.settings.project.name)
    task_settings = ctx.settings.task
    target = target or (task_settings.target if task_settings else None)
    if target is None:
        raise UsageError("nothing says which column of the rows holds the answers", remedy="name it with --target", values={"check": check})
    request = importing.request_of(
        source, root=ctx.root, check=check, target=target, columns=columns or [], task=task, classes=classes or [], tolerance=tolerance,
        timeout=timeout, memory_mb=memory_mb, files=files or [],
    )  # fmt: skip
    token = importing.token(request)
    with ctx.catalog.read() as connection:
        if known := store.of_run(connection, name, token):
            return known
    with folders.aside(ctx.state / "models" / name) as folder:
        origin = importing.bring(request, folder)
        return _keep(ctx, name, token, folder, event="registry.imported", source=origin.source, sha256=origin.sha256, answered_by=origin.answered_by)


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
    digest = folders.hash_of(folders.hash_files(folder))
    if digest != found.files_hash:
        raise Corrupt(
            f"the files of model {found.ref} differ from what was registered",
            remedy=f"restore {folder} from a backup, or train again: kaizen train",
            values={"model": found.ref, "expected": found.files_hash, "found": digest},
        )
    return found


def folder_of(ctx: Context, model: ModelVersion) -> Path:
    """Return where the model's files are, fetched from the object store if need be; NotFound when they are gone."""
    folder = ctx.state / model.folder
    if not objects.fetch(ctx, folder, digest=model.hash):
        raise NotFound(f"the files of model {model.ref} are gone", remedy="restore them from a backup", values={"folder": str(folder)})
    return folder


def _keep(ctx: Context, name: str, made_by: str, folder: Path, *, event: str, **told: Any) -> ModelVersion:
    """Number a filled folder and move it to its place; the version it is already, when another process was quicker."""
    digest = folders.hash_of(folders.hash_files(folder))
    objects.keep(ctx, folder)
    with ctx.catalog.write() as connection:
        known = store.of_run(connection, name, made_by)
        if known:
            return known
        number = store.next_number(connection, name)
        model = ModelVersion(
            name=name, number=number, run=made_by, folder=f"models/{name}/{number}", hash=digest, created_at=ctx.clock.timestamp(),
            imported=event == "registry.imported",
        )  # fmt: skip
        store.insert(connection, model)
        ctx.record(connection, event, model.ref, hash=digest, **told)
        folders.settle(folder, ctx.state / "models" / name / str(number))
    return model
