"""What every command has: the project it works on, where its words go, and how its progress is shown."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from kaizenml.errors import KaizenError

if TYPE_CHECKING:
    from kaizenml.context import Context

Progress = Callable[[str, float], None]


class Face:
    """One run of ``kaizen``: ``--json`` and ``--project`` may stand anywhere on the command line."""

    def __init__(self) -> None:
        self.json = False
        self.project: str | None = None
        self.shown = False

    def root(self) -> Path:
        """Return the project folder: ``--project``, ``KAIZEN_PROJECT``, or the nearest folder upwards with kaizen.toml."""
        given = self.project or os.environ.get("KAIZEN_PROJECT")
        if given:
            return Path(given).expanduser().resolve()
        here = Path.cwd()
        return next((folder for folder in (here, *here.parents) if (folder / "kaizen.toml").is_file()), here)

    def open(self) -> Context:
        """Open the project."""
        from kaizenml.project import open_project

        return open_project(self.root())

    def show(self, result: Any, human: str | None = None) -> None:
        """Print the result on stdout: one JSON document with ``--json``, else ``human`` or a rendering of it."""
        from kaizenml.operations import to_builtins

        plain = to_builtins(result)
        self.shown = True
        if self.json:
            click.echo(msgspec.json.encode(plain).decode())
            return
        if human is None:
            from kaizenml.cli.output import render

            human = render(plain)
        click.echo(human)
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """Say something on stderr: steps, logs, hints."""
        click.echo(text, err=True)

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """Show the progress of a long step on stderr: a bar on a terminal, else one line for each new sentence."""
        if sys.stderr.isatty() and not self.json and os.environ.get("TERM") != "dumb":
            with _bar() as told:
                yield told
        else:
            yield _lines(self)


def current() -> Face:
    """Return the face of the running command."""
    face = click.get_current_context().find_root().obj
    assert isinstance(face, Face)
    return face


def is_plain() -> bool:
    """Whether colours are unwanted (https://no-color.org)."""
    return bool(os.environ.get("NO_COLOR"))


def print_error(error: KaizenError, *, json: bool) -> None:
    """Print an error: as ``{"error": {...}}`` on stdout with ``--json``, else on stderr with its remedy."""
    if json:
        click.echo(msgspec.json.encode({"error": error.document()}, enc_hook=str).decode())
        return
    color = False if is_plain() else None
    click.echo(f"{click.style('error:', fg='red', bold=True)} {error.what}", err=True, color=color)
    if error.remedy:
        click.echo(f"  {click.style('try:', bold=True)} {error.remedy}", err=True, color=color)


def _lines(face: Face) -> Progress:
    last = ""

    def told(text: str, _share: float) -> None:
        nonlocal last
        if text != last:
            face.note(f"  {text}")
            last = text

    return told


@contextmanager
def _bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("  {task.description}"), BarColumn(bar_width=24), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("starting", total=1.0)
        yield lambda text, share: bars.update(task, description=text, completed=min(max(share, 0.0), 1.0))
