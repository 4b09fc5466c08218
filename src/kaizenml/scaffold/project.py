"""Makes a project folder from a table: checks everything first, writes aside, and moves it into place at the end."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal

import msgspec
import pyarrow as pa

from kaizenml import refs, settings
from kaizenml.data import contract as contracts
from kaizenml.data import contract_file, kinds
from kaizenml.data.dataset import Contract, Personal
from kaizenml.data.intake import sources
from kaizenml.data.people import personal
from kaizenml.errors import Conflict, InvalidData, KaizenError, nearest
from kaizenml.scaffold import guess, installation, texts
from kaizenml.scaffold.guess import Guess
from kaizenml.training import task as tasks

NONE = "none"
"""Said for a time or a key: there is none, do not guess."""


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """A project that was made, and what was decided for it."""

    name: str
    folder: Path
    dataset: str
    target: str
    task: Literal["binary", "multiclass", "regression"]
    time: Guess
    key: Guess
    rows: int
    columns: int
    notes: dict[str, str]
    """Columns that were not read plainly, and how."""
    personal: dict[str, Personal]
    """Columns that tell of persons, and what becomes of them."""
    files: list[str]
    commit: str | None
    under_git: str
    """Under which version control it is: ``own``, ``none``, or the folder of the repository around it."""
    without_git: str | None
    """Why it is under none."""


def make(
    name: str, *, data: Path, target: str, time: str | None = None, key: str | None = None, kind: str = "auto", folder: Path | None = None,
    actor: str = "kaizen init",
) -> Made:
    """Make a project that predicts ``target`` from the table in ``data``.

    Parameters
    ----------
    name : of the project and its endpoint.
    data : a file that ``data.sources.load`` reads.
    target : the column to predict.
    time : the column that says when a row happens; None guesses, ``none`` says there is none.
    key : the column that identifies a row; None guesses, ``none`` says there is none.
    kind : ``auto``, ``binary``, ``multiclass`` or ``regression``.
    actor : who answers for a personal column that has to be kept, because the task names it.
    folder : where; default ``name`` in the current folder. It must be empty or not exist.

    Raises
    ------
    Conflict : the folder is not empty.
    InvalidData, NotFound, UsageError : the data or the question cannot be taken; nothing was written.
    """
    refs.check_name(name)
    place = (folder or Path(name)).expanduser().absolute()
    _check_place(place)
    data = data.expanduser()
    table = sources.load(data)
    command = f"kaizen init {name} --data {data}"
    _check_target(table, target, command)
    task = _task(table, target, kind, data, command)
    contract, when, which = _contract(table, target, time, key)
    used = {target: "the task's target"}
    contract = personal.as_stored(personal.proposed(contract, table, used=used, actor=actor))
    around = _repository_around(place.parent)
    within = os.path.relpath(place.parent.resolve() / place.name, around) if around else ""
    required = installation.requirement()
    facts = texts.Facts(
        name=name, dataset=_dataset_name(data), file=data.name, target=target, task=task.kind, kind=kind, time=when.column, time_why=when.why,
        key=which.column, key_why=which.why, rows=table.num_rows, columns=table.num_columns, requirement=required.line,
        python=f"{sys.version_info.major}.{sys.version_info.minor}", within=within,
    )  # fmt: skip
    written, commit, without_git = _write(place, facts, contract, data, required.files, begin=around is None)
    under = around or ("own" if commit else "none")
    return Made(
        name=name, folder=place, dataset=facts.dataset, target=target, task=task.kind, time=when, key=which, rows=table.num_rows,
        columns=table.num_columns, notes=personal.notes(kinds.notes_of(table), contract), personal=personal.decisions(contract),
        files=written, commit=commit, under_git=under, without_git=without_git,
    )  # fmt: skip


def _check_place(place: Path) -> None:
    if place.is_dir() and not any(place.iterdir()):
        return
    if place.exists() or place.is_symlink():
        what = "is not empty" if place.is_dir() else "is a file"
        remedy = "choose another name, or --dir DIR"
        raise Conflict(f"{place} {what}; a new project needs a folder of its own", remedy=remedy, values={"folder": str(place)})
    if not place.parent.is_dir():
        raise Conflict(f"{place.parent} does not exist", remedy=f"mkdir -p {place.parent}", values={"folder": str(place)})


def _check_target(table: pa.Table, target: str, command: str) -> None:
    if target in table.column_names:
        return
    close = nearest(target, table.column_names)
    hint = f"; did you mean {close!r}?" if close else f"; there is {', '.join(map(repr, table.column_names[:12]))}"
    raise InvalidData(
        f"there is no column {target!r} to predict{hint}",
        remedy=f"{command} --target {close or 'COLUMN'}",
        values={"target": target, "nearest": close, "columns": table.column_names[:50]},
    )


def _task(table: pa.Table, target: str, kind: str, data: Path, command: str) -> tasks.Task:
    """Tell the kind of task; errors speak of the command line, for there is no kaizen.toml yet."""
    try:
        task = tasks.infer(table, target, kind)  # type: ignore[arg-type]  # click's choice gives the four words
        tasks.labels(task, table)
    except KaizenError as error:
        note = kinds.notes_of(table).get(target, "")
        if note.startswith("text, because"):  # a typing slip in one row must not look like a question that cannot be asked
            error.what, error.remedy = f"{error.what}; it is {note}", f"mend that value in {data.name}, or choose another target"
        asked = re.fullmatch(r'set kind = "(\w+)" under \[task\] in kaizen.toml', error.remedy)
        if asked:
            error.remedy = f"{command} --target {target} --kind {asked[1]}"
        elif "kaizen data add" in error.remedy:
            error.remedy = f"add rows to {data.name}"
        raise
    return task


def _contract(table: pa.Table, target: str, time: str | None, key: str | None) -> tuple[Contract, Guess, Guess]:
    first = contracts.infer(table)
    when = guess.time(table, first, target) if time is None else _said(time)
    if time is None and when.column is None and (spoilt := guess.spoilt_time(table, target)):
        column, note = spoilt
        # where every date can be read two ways, no row would be left
        aside = "" if kinds.TWO_INSTANTS in note else f", --time {column} to set such rows aside"
        raise InvalidData(
            f"{column!r} looks like the time of a row, but is {note}",
            remedy=f"write its dates as 2026-11-23{aside}, or --time none to split the rows at random",
            values={"column": column},
        )
    which = guess.key(table, first, target) if key is None else _said(key)
    for role, choice in (("time", when), ("key", which)):
        if choice.column == target:
            remedy = f"--{role} none, or another column"
            raise InvalidData(f"{target!r} is the target; it cannot be the {role} too", remedy=remedy, values={role: target})
    contract = contracts.infer(table, key=which.column, time=when.column)
    if not {column.name for column in contract.columns} - {target, when.column, which.column}:
        raise InvalidData(
            f"there is nothing to predict {target!r} from: no other column holds values",
            remedy="give a table with more columns",
            values={"columns": table.column_names[:50]},
        )
    return contract, when, which


def _said(column: str) -> Guess:
    return Guess(column=None if column == NONE else column, why="as you said", guessed=False)


def _dataset_name(data: Path) -> str:
    stem = data.name.partition(".")[0]
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_-")[:63]
    return name if refs.NAME.fullmatch(name) else "rows"


def _write(
    place: Path, facts: texts.Facts, contract: Contract, data: Path, more: dict[str, bytes], *, begin: bool
) -> tuple[list[str], str | None, str | None]:
    """Write the project aside and move it into place; return its files, the first commit, and why there is none."""
    aside = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    try:
        aside.chmod(0o755)
        contents = {path: text.encode() for path, text in texts.files(facts).items()} | more
        for path, content in contents.items():
            file = aside / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        (aside / "data").mkdir()
        shutil.copyfile(data, aside / "data" / facts.file)
        promise = contract_file.path_of(aside, facts.dataset)
        promise.parent.mkdir()
        promise.write_text(contract_file.render(contract, facts.dataset), encoding="utf-8")
        settings.load(aside, environ={})  # what was written can be read
        written = sorted(str(file.relative_to(aside)) for file in aside.rglob("*") if file.is_file())
        commit, why = begin_repository(aside, facts.name) if begin else (None, None)
        os.rename(aside, place)  # also onto an empty folder, and at once
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return written, commit, why


def begin_repository(folder: Path, name: str) -> tuple[str | None, str | None]:
    """Put the folder under git with a first commit; return the commit, or None and why not. A refusal leaves no half repository."""
    if shutil.which("git") is None:
        return None, "git is not installed"
    identity = [] if _git(folder, "config", "user.email")[0] else ["-c", "user.name=kaizen", "-c", "user.email=kaizen@localhost"]
    message = f"Begin {name}"
    for step in (
        ["init", "--quiet", "--initial-branch=main"],
        ["add", "--all"],
        [*identity, "-c", "commit.gpgsign=false", "-c", "core.hooksPath=/dev/null", "commit", "--quiet", "-m", message],
    ):
        done, said = _git(folder, *step)
        if done is None:
            shutil.rmtree(folder / ".git", ignore_errors=True)
            return None, f"git refused: {said}"
    return _git(folder, "rev-parse", "HEAD")[0], None


def _repository_around(folder: Path) -> str | None:
    return _git(folder, "rev-parse", "--show-toplevel")[0] if shutil.which("git") else None


def _git(folder: Path, *arguments: str) -> tuple[str | None, str]:
    """Return what git printed, or None and its complaint."""
    # a hook that calls kaizen exports GIT_DIR and friends; they would name another repository
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, str(error)
    complaint = next((line.removeprefix("fatal: ") for line in reversed(done.stderr.splitlines()) if line.strip()), f"exit code {done.returncode}")
    return (done.stdout.strip(), "") if done.returncode == 0 else (None, complaint[:200])
