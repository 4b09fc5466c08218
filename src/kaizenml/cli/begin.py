"""``kaizen init``: a project from a table."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kaizenml.cli.face import current
from kaizenml.cli.shell import Command

if TYPE_CHECKING:
    from kaizenml.scaffold.project import Made


def _init(*, name: str, data: str, target: str, time: str | None, key: str | None, kind: str, folder: str | None) -> None:
    from kaizenml.project import who
    from kaizenml.scaffold import project

    face = current()
    made = project.make(name, data=Path(data), target=target, time=time, key=key, kind=kind, folder=Path(folder) if folder else None, actor=who())
    face.show(made, _told(made))


def _told(made: Made) -> str:
    folder = os.path.relpath(made.folder)
    under = {"own": f"under git, commit {(made.commit or '')[:8]}", "none": f"not under version control: {made.without_git}"}
    lines = [
        f"{made.name}: predicts {made.target} ({made.task}) from {made.rows:,} rows, {made.columns} columns",
        f"  time    {made.time.column or 'none'}: {made.time.why}" + ("; --time says otherwise" if made.time.guessed else ""),
        f"  key     {made.key.column or 'none'}: {made.key.why}" + ("; --key says otherwise" if made.key.guessed else ""),
        *_notes(made),
        *_personal(made),
        f"  folder  {folder}/ ({under.get(made.under_git, f'inside the repository {made.under_git}, commit it there')})",
        *_continuous(made, folder),
        "",
        f"next: cd {folder} && kaizen up",
    ]
    return "\n".join(lines)


def _continuous(made: Made, folder: str) -> list[str]:
    """Say what is left to do for CI: a repository runs only the workflows at its root."""
    if made.under_git in ("own", "none"):
        return []
    root = os.path.relpath(Path(made.under_git) / ".github" / "workflows")
    return [f"  ci      runs when its file lies at the root: mkdir -p {root} && mv {folder}/.github/workflows/kaizen.yml {root}/{made.name}.yml"]


def _notes(made: Made) -> list[str]:
    """Say how columns were read that were not read plainly: a stray value that turns numbers into text must not go unseen."""
    columns: dict[str, list[str]] = {}
    for column, note in made.notes.items():
        columns.setdefault(note, []).append(column)
    strays = [note for note in columns if note.startswith("text, because")]
    lines = [f"  note    {', '.join(columns[note])} is {note}" for note in strays]
    lines += [f"  note    {_few(columns[note])}: {note}" for note in columns if note not in strays]
    if len(lines) > _MOST_NOTES:
        lines[_MOST_NOTES:] = [f"  note    {len(lines) - _MOST_NOTES} more were not read plainly; --json names them all"]
    if strays:
        lines.append(
            f"          mend them, or set the kind in contracts/{made.dataset}.toml: rows that do not fit are then set aside, with the reason"
        )
    return lines


def _personal(made: Made) -> list[str]:
    """Say what tells of persons and what becomes of it."""
    by_decision: dict[str, list[str]] = {}
    for column, one in made.personal.items():
        by_decision.setdefault(one.decision, []).append(f"{column} ({one.kind})")
    what = {"drop": "not stored", "pseudonym": "stored as pseudonyms", "encrypt": "stored encrypted", "keep": "stored as it is"}
    lines = [f"  persons {', '.join(columns)}: {what[decision]}" for decision, columns in by_decision.items()]
    return [*lines, f"          other decisions go into contracts/{made.dataset}.toml"] if lines else []


def _few(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:3])} and {len(names) - 3} more"


_MOST_NOTES = 5
KINDS = ["auto", "binary", "multiclass", "regression"]
COMMANDS = {
    "init": Command(
        "init",
        callback=_init,
        params=[
            click.Argument(["name"]),
            click.Option(["--data"], required=True, metavar="FILE", help="The table: CSV, TSV, Parquet or JSON lines; .gz and .zip too."),
            click.Option(["--target"], required=True, metavar="COLUMN", help="The column to predict."),
            click.Option(["--time"], metavar="COLUMN", help="When a row happens; guessed from the dates when not given; `none`: there is none."),
            click.Option(["--key"], metavar="COLUMN", help="What identifies a row; guessed from names like id; `none`: there is none."),
            click.Option(["--kind"], type=click.Choice(KINDS), default="auto", help="The kind of answer; default auto."),
            click.Option(["--dir", "folder"], metavar="DIR", help="The folder to make; default NAME here."),
        ],
        help="Make a project from a table.\n\nEverything is checked before anything is written: the file, the target, the time, the key. "
        "Then the folder stands with kaizen.toml, the data's contract, tests, a CI file and a README, under git.",
        epilog="\b\nexample:\n  kaizen init shop --data orders.csv --target returned",
    )
}
