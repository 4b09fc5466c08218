"""The project's definitions: views of kaizen.toml, and what ``features.py`` or the files in ``features/`` define in Python."""

from __future__ import annotations

import hashlib
import re
import sys
import threading
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from kaizenml.clock import parse_duration
from kaizenml.context import Context
from kaizenml.errors import InvalidSettings, KaizenError, nearest
from kaizenml.features.defining.define import DerivedFeature
from kaizenml.features.signature import Derived
from kaizenml.features.view import FeatureView
from kaizenml.refs import check_name
from kaizenml.settings import FILE, ViewSettings

_KEYWORDS = ("entity", "source", "sql", "at", "ttl", "created", "owner", "tags", "description", "last", "every", "n", "column")


class Definitions(NamedTuple):
    """All definitions of a project."""

    views: list[FeatureView]
    derived: list[Derived]  # each after what it is computed from
    places: dict[str, str]  # name of a view or derived input -> the file that defines it


class _Made(NamedTuple):
    settings: Mapping[str, ViewSettings]
    python: Definitions
    found: Definitions


class _Read(NamedTuple):
    stamp: list[tuple[str, int, int]]
    found: Definitions


_read: dict[str, _Read] = {}  # project folder -> what its files gave: a push must not run them anew
_made: dict[str, _Made] = {}  # project folder -> all of its definitions: a push must not check them anew
_reading = threading.Lock()
_NOTHING = Definitions([], [], {})


def of(ctx: Context) -> Definitions:
    """Return the project's definitions: kaizen.toml's views first, then those of the files in the order of their names.

    Raises
    ------
    InvalidSettings : a definition is wrong, or two have one name; names file and line.
    """
    files = _files(ctx.root)
    python = _of_files(ctx.root, files) if files else _NOTHING
    kept = _made.get(str(ctx.root))
    if kept is None or kept.python is not python or kept.settings != ctx.settings.features:
        kept = _made[str(ctx.root)] = _Made(dict(ctx.settings.features), python, _all(ctx, python))
    views, derived, places = kept.found
    return Definitions([*views], [*derived], {**places})


def _all(ctx: Context, python: Definitions) -> Definitions:
    views = _of_settings(ctx)
    places = {view.name: FILE for view in views}
    for view in python.views:
        if view.name in places:
            raise _twice(view.name, places[view.name], python.places[view.name])
        views.append(view)
    return Definitions(views, resolved(views, python.derived, python.places), {**places, **python.places})


def resolved(views: Iterable[FeatureView], derived: Sequence[Derived], places: Mapping[str, str]) -> list[Derived]:
    """Return derived inputs in an order in which they can be computed, each with the version of itself and all under it."""
    under: dict[str, str] = {}
    for view in views:
        under |= dict.fromkeys(view.features, view.ref)
    waiting = {each.name: each for each in derived}
    if both := [name for name in waiting if name in under]:
        raise _twice(both[0], f"the view {under[both[0]]}", places.get(both[0], FILE))
    done: list[Derived] = []
    while waiting:
        ready = [each for each in waiting.values() if waiting.keys().isdisjoint(each.inputs)]
        if not ready:
            raise InvalidSettings(
                f"{' and '.join(sorted(waiting))} are computed from each other, in a circle",
                remedy=f"compute one of them from features or columns, in {places.get(min(waiting), 'features.py')}",
                values={"derived": sorted(waiting)},
            )
        for each in ready:
            told = [each.name, each.inputs, each.takes, each.expression, each.kind, [under.get(name, "") for name in each.inputs]]
            version = hashlib.sha256(msgspec.json.encode(told)).hexdigest()[:12]
            done.append(msgspec.structs.replace(each, version=version))
            under[each.name] = version
            del waiting[each.name]
    return done


def _of_settings(ctx: Context) -> list[FeatureView]:
    found = []
    for name, view in ctx.settings.features.items():
        check_name(name)
        if view.at is None and view.ttl is not None:
            raise InvalidSettings(
                f"features.{name}.ttl is {view.ttl!r}, but the view has no time by which its values could grow old",
                remedy=f"name the column with the event time as `at`, or remove `ttl`, under [features.{name}]",
                values={"view": name},
            )
        ttl_s = None if view.ttl is None else parse_duration(view.ttl)
        found.append(FeatureView(name=name, dataset=view.dataset, entity=view.entity, columns=view.columns, at=view.at, ttl_s=ttl_s))
    return found


def _files(root: Path) -> list[Path]:
    found = sorted((root / "features").glob("*.py")) if (root / "features").is_dir() else []
    return [path for path in (root / "features.py", *found) if path.name != "__init__.py" and path.is_file()]


def _of_files(root: Path, files: Sequence[Path]) -> Definitions:
    stamp = [(str(path), (told := path.stat()).st_mtime_ns, told.st_size) for path in files]
    with _reading:
        kept = _read.get(str(root))
        if kept is None or kept.stamp != stamp:
            views: dict[str, FeatureView] = {}
            derived: dict[str, Derived] = {}
            places: dict[str, str] = {}
            for path in files:
                shown = str(path.relative_to(root))
                for each in _run(root, path).values():
                    if isinstance(each, FeatureView):
                        _put(views, each.name, each, places, shown)
                    elif isinstance(each, DerivedFeature):
                        _put(derived, each.definition.name, each.definition, places, shown)
            kept = _read[str(root)] = _Read(stamp, Definitions([*views.values()], [*derived.values()], places))
    return kept.found


def _put(known: dict[str, Any], name: str, found: Any, places: dict[str, str], shown: str) -> None:
    if known.get(name, found) != found or (name in places and name not in known):
        raise _twice(name, places[name], shown)
    known[name] = found
    places.setdefault(name, shown)  # another file may import it


def _run(root: Path, path: Path) -> dict[str, Any]:
    """Run a file of definitions, as Python runs a module; its neighbours can be imported."""
    space: dict[str, Any] = {"__name__": f"kaizen_features.{path.stem}", "__file__": str(path)}
    sys.path.insert(0, str(root))
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), space)  # noqa: S102  (the project's own code, as its owner wrote it)
    except KaizenError:
        raise
    except SyntaxError as error:
        raise _failed(f"{error.filename or path}:{error.lineno}", f"{error.msg}", path) from None
    except Exception as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        raise _failed(f"{path}:{frames[-1].lineno if frames else 1}", f"{type(error).__name__}: {error}{_hint(error)}", path) from error
    finally:
        sys.path.remove(str(root))
    return space


def _hint(error: Exception) -> str:
    keyword = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    name = re.search(r"cannot import name '(\w+)' from 'kaizenml'", str(error))
    if keyword:
        close = nearest(keyword[1], _KEYWORDS)
    elif name:
        import kaizenml

        close = nearest(name[1], dir(kaizenml))
    else:
        return ""
    return f"; did you mean {close!r}?" if close and f"Did you mean: '{close}'" not in str(error) else ""


def _failed(place: str, what: str, path: Path) -> InvalidSettings:
    file, _, line = place.rpartition(":")
    return InvalidSettings(f"{place}: {what}", remedy=f"mend {path.name} at that line", values={"file": file, "line": line})


def _twice(name: str, first: str, second: str) -> InvalidSettings:
    what = f"{name!r} is defined twice, in {first} and in {second}"
    return InvalidSettings(what, remedy="give one of them another name", values={"name": name, "places": [first, second]})
