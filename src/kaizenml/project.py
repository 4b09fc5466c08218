"""The composition root: opens a project and chooses the engines behind its ports. The only place that names adapters."""

from __future__ import annotations

import getpass
import os
from pathlib import Path

from kaizenml import settings as settings_module
from kaizenml.catalog import Catalog
from kaizenml.clock import Clock, open_clock
from kaizenml.context import Context
from kaizenml.errors import Unavailable


def open_project(root: str | os.PathLike[str] = ".", *, actor: str | None = None, clock: Clock | None = None) -> Context:
    """Open the project in ``root`` (a folder with kaizen.toml), creating its state folder when it is new.

    Parameters
    ----------
    root : the project folder.
    actor : who acts, for the audit trail; default ``KAIZEN_ACTOR`` or the user's login name.
    clock : default the machine's, or the simulated one that ``KAIZEN_CLOCK`` names.

    Raises
    ------
    InvalidSettings : no kaizen.toml there, or something wrong in it.
    Unavailable : its catalog is gone.
    """
    from kaizenml.adapters.frames import open_frames
    from kaizenml.adapters.online import open_online, open_stream

    folder = Path(root).resolve()
    settings, sources = settings_module.load(folder)
    state = folder / settings.project.state
    state.mkdir(parents=True, exist_ok=True)
    if not settings.project.catalog:
        _check_catalog(state)
    catalog = Catalog(settings.project.catalog or f"sqlite:///{state / settings_module.CATALOG}")
    catalog.create()
    return Context(
        root=folder,
        settings=settings,
        catalog=catalog,
        clock=clock or open_clock(),
        online=open_online(settings.project.online, state, settings.project.name),
        actor=actor or who(),
        sources=sources,
        open_stream=open_stream,
        open_frames=open_frames,
    )


def _check_catalog(state: Path) -> None:
    """Refuse to begin a new catalog where servers follow an old one: an empty one would tell them that nothing is deployed."""
    routes = state / "serving" / "snapshot.json"
    if routes.exists() and not (state / settings_module.CATALOG).exists():
        remedy = f"put it back (a backup has it as well); to begin from nothing, move {state} away"
        raise Unavailable(
            f"the catalog {state / settings_module.CATALOG} is gone, and servers follow what it said last ({routes})",
            remedy=remedy, values={"catalog": str(state / settings_module.CATALOG), "snapshot": str(routes)},
        )  # fmt: skip


def who() -> str:
    """Return who acts: ``KAIZEN_ACTOR``, or the user's login name."""
    return os.environ.get("KAIZEN_ACTOR") or _login()


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
