"""The command ``kaizen``: which commands there are, loaded only when used, and what becomes of errors."""

from __future__ import annotations

import errno
import importlib
import os
import resource
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

import click

import kaizenml
from kaizenml.cli.face import Face, print_error
from kaizenml.cli.shell import Group
from kaizenml.errors import Corrupt, KaizenError, StorageFull, UsageError

_SPACE = "free some space (df -h .) and repeat; nothing was half-written"
_SMALL = 1 << 20
_HIDDEN = "(hidden)"

DAILY = {
    "init": ("kaizenml.cli.begin", "Make a project from a table"),
    "up": ("kaizenml.cli.running", "Train, gate and deploy what is missing; serve, watch and improve"),
    "status": ("kaizenml.cli.daily", "Say how the endpoints are"),
    "predict": ("kaizenml.cli.daily", "Ask an endpoint"),
    "train": ("kaizenml.cli.daily", "Train on the newest data and gate the result into a release"),
    "deploy": ("kaizenml.cli.daily", "Let a release answer an endpoint"),
    "promote": ("kaizenml.cli.daily", "Make a challenger the champion"),
    "rollback": ("kaizenml.cli.daily", "Go back to the champion before"),
    "kill": ("kaizenml.cli.daily", "Answer without a model at once"),
    "revive": ("kaizenml.cli.daily", "Let the models answer again"),
    "improve": ("kaizenml.cli.daily", "Retrain, gate, try and promote, as far as evidence allows"),
    "migrate": ("kaizenml.cli.migrating", "Move the state to servers while it goes on serving"),
    "demo": ("kaizenml.cli.running", "Run the main job on a year of real flights"),
}
PARTS = {
    "serve": ("kaizenml.cli.running", "Serve predictions"),
    "loop": ("kaizenml.cli.running", "Watch and improve; `loop VERB` for single acts"),
    "console": ("kaizenml.cli.running", "Show the console and the control API"),
}
NOUNS = {
    "data": "Datasets, their contracts and versions",
    "features": "Feature views and the online store",
    "training": "Training runs",
    "registry": "Models by name and number",
    "releases": "Pinned models with the evidence of their gates",
    "rollouts": "Which releases answer an endpoint",
    "serving": "The record of predictions and outcomes",
    "monitoring": "Drift, live accuracy, diagnosis, alerts",
    "tokens": "Who may ask: API tokens, their scopes and rates",
    "audit": "Who did what, when and why",
}


class Root(Group):
    """``kaizen``. Commands are imported when they are called; the list and its help import nothing."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*DAILY, *PARTS, *NOUNS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = DAILY.get(cmd_name) or PARTS.get(cmd_name)
        if entry:
            found: click.Command = importlib.import_module(entry[0]).COMMANDS[cmd_name]
            return found
        if cmd_name in NOUNS:
            from kaizenml.cli.derived import NounGroup

            return NounGroup(cmd_name, NOUNS[cmd_name])
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections = {
            "Daily": {name: about for name, (_module, about) in DAILY.items()},
            "One part of `up`": {name: about for name, (_module, about) in PARTS.items()},
            "Everything, by noun": NOUNS,
        }
        for title, commands in sections.items():
            with formatter.section(title):
                formatter.write_dl(list(commands.items()))


def root() -> Root:
    """Return the command ``kaizen``."""
    command = Root(
        "kaizen",
        help="Keep a model in production, right, explainable and getting better.",
        epilog="\b\nstart:\n  kaizen init shop --data orders.csv --target returned\n  cd shop\n  kaizen up",
        invoke_without_command=False,
        no_args_is_help=True,
    )
    return click.version_option(kaizenml.__version__, prog_name="kaizen")(command)


def run(arguments: list[str]) -> int:
    """Run one command line; return the exit code: 0 done, 1 failure, 2 usage, 3 refused by a gate, 4 waiting."""
    face = Face()
    try:
        try:
            code = root().main(args=arguments, prog_name="kaizen", standalone_mode=False, obj=face)
            sys.stdout.flush()
            return code if isinstance(code, int) else 0
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.ctx.get_help() if error.ctx else "", err=True)
            return 2
        except click.ClickException as error:
            raise _usage(error) from None
        except OSError as error:
            raise _storage(error) from error
    except KaizenError as error:
        print_error(error, json=face.json or "--json" in arguments)
        return error.exit_code
    except BrokenPipeError:  # `kaizen ... | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (KeyboardInterrupt, click.exceptions.Abort):
        click.echo("stopped", err=True)
        return 130
    except Exception as error:
        found = _unusable_catalog(error, face) or _unexpected(error, face)
        print_error(found, json=face.json or "--json" in arguments)
        return found.exit_code


def _usage(error: click.ClickException) -> UsageError:
    where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "kaizen"
    text = " ".join(error.format_message().split()).rstrip(".")
    return UsageError(text[:1].lower() + text[1:], remedy=f"{where} --help", values={"command": where})


def _storage(error: OSError) -> BaseException:
    if isinstance(error, BrokenPipeError):
        return error
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        what = "a file may not grow any more (ulimit -f)" if error.errno == errno.EFBIG else "the disk is full"
        return StorageFull(f"{what}: {_standing(error)}".rstrip(": "), remedy=_SPACE)
    if isinstance(error, PermissionError) and error.filename:
        where = _standing(error)
        return KaizenError(f"{where} may not be used by this user", remedy=f"check its owner and rights: ls -ld {where}")
    if error.errno == errno.EROFS:
        return KaizenError(f"{_standing(error) or 'the disk'} can only be read", remedy="work in a folder that can be written: df -h .")
    return error


def _standing(error: OSError) -> str:
    """Return the file that an error is about, or the folder around it when it was taken away again; a copy is about where it goes."""
    name = error.filename2 or error.filename
    if not isinstance(name, str):
        return ""
    path = Path(name).absolute()
    return str(next(place for place in (path, *path.parents) if place.exists()))


def _unusable_catalog(error: Exception, face: Face) -> KaizenError | None:
    """Tell a full or write-protected disk, and a damaged file, from what SQLite says of them; None for any other error."""
    text = str(error)
    if not type(error).__module__.startswith(("sqlalchemy.", "sqlite3")):
        return None
    root = face.root()
    if "disk is full" in text:
        return StorageFull("the disk is full: the catalog cannot be written", remedy=_SPACE)
    if "disk I/O error" in text:
        # a full disk where not even a small file has room, or a file that may not grow
        if resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY:
            return StorageFull("the catalog cannot be written: the disk is full, or a file may not grow any more (ulimit -f)", remedy=_SPACE)
        if shutil.disk_usage(root if root.is_dir() else ".").free <= _SMALL:
            return StorageFull("the disk is full: the catalog cannot be written", remedy=_SPACE)
    if ("unable to open" in text or "readonly database" in text) and not os.access(root, os.W_OK):
        return KaizenError(
            f"{root} can only be read; the catalog in it must be written", remedy=f"check its rights, and the disk: ls -ld {root}; df -h {root}"
        )
    if "malformed" in text or "not a database" in text:
        return Corrupt(
            "the catalog of this project is damaged", remedy="put a backup of its state folder (.kaizen) back", values={"folder": str(root)}
        )
    return None


def _unexpected(error: Exception, face: Face) -> KaizenError:
    """Keep the whole trace in a file and say one line: a person can do nothing with a traceback, whoever mends it can."""
    state = face.root() / ".kaizen"
    head = f"kaizenml {kaizenml.__version__}, Python {sys.version}\narguments: {_without_token(sys.argv[1:])}\n\n"
    told = head + "".join(traceback.format_exception(error))
    folders = [state] if state.is_dir() and os.access(state, os.W_OK) else []
    path = next((written for folder in [*folders, Path(tempfile.gettempdir())] if (written := _written(folder, told))), "(could not be written)")
    text = " ".join(str(error).split())[:300]
    return KaizenError(
        f"unexpected {type(error).__name__}: {text}",
        remedy=f"report it as a bug, with the full trace in {path}",
        values={"type": type(error).__name__, "trace": path},
    )


def _without_token(arguments: list[str]) -> list[str]:
    """Leave out the secret that follows ``--token``: a trace is made to be passed on."""
    kept = [f"--token={_HIDDEN}" if word.startswith("--token=") else word for word in arguments]
    return [_HIDDEN if before == "--token" else word for before, word in zip(["", *kept], kept, strict=False)]


def _written(folder: Path, text: str) -> str | None:
    """Write a trace into a folder; return its path, or None where there is no room for it: then nothing of it stays."""
    path = None
    try:
        handle, path = tempfile.mkstemp(prefix="error-", suffix=".txt", dir=folder)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError:
        if path is not None:
            Path(path).unlink(missing_ok=True)
        return None
    return path
