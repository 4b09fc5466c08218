"""Models, bundles and cards without values that tell who it was.

What goes: rows of a subject among check rows and examples, and of the columns' levels, examples and ranges those values that no other
row of the data has. What a model has learnt stays until the decision on its release: its parameters are nobody's value. A level keeps
its place under a name that nothing is called by, so that every other row is answered as before. Each changed folder is filled aside and
exchanged whole, and its old hash is linked to the new one.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from kaizenml.context import Context
from kaizenml.data import forgotten
from kaizenml.data.keys import Keys
from kaizenml.errors import NotFound
from kaizenml.governance.forgetting import subject
from kaizenml.governance.forgetting.wish import Wish
from kaizenml.registry import check_rows, files, importing, objects
from kaizenml.registry import store as registry
from kaizenml.releases import bundle, card
from kaizenml.releases import store as releases
from kaizenml.releases.release import Manifest
from kaizenml.training import model_file
from kaizenml.training import store as runs

TOMBSTONE = "<forgotten {}>"


class Telling(msgspec.Struct, frozen=True):
    """What tells who it was, in the words of a model's inputs."""

    requests: dict[str, list[str]]
    """Values by input that say that a row is about a subject."""
    values: dict[str, list[Any]]
    """Values by input that only a subject's rows had."""
    ends: dict[str, list[float]]
    """Smallest and largest value by input without the subjects."""


Words = Callable[[str | None], Telling]
"""Gives what tells in the inputs of a model, by the dataset that it was trained on (None: made elsewhere)."""


def folders(ctx: Context) -> list[Path]:
    """Return every folder with a model in it."""
    found = [*(ctx.state / "runs").glob("*/model"), *(ctx.state / "models").glob("*/*"), *(ctx.state / "releases").glob("*/*")]
    return sorted(path for path in found if path.is_dir() and not path.name.startswith("."))


def purge(ctx: Context, wish: Wish, keys: Keys, words: Words, planned: Callable[[str], None]) -> int:
    """Take what tells out of every model; return how many folders changed.

    Parameters
    ----------
    words : what tells, for models of a dataset.
    planned : told of each folder before it is changed, to keep its name: a killed change is linked by the next purge.
    """
    changed = 0
    if ctx.settings.project.objects:
        _fetch(ctx)
    for parent in (*(ctx.state / "models").glob("*"), *(ctx.state / "releases").glob("*"), *(ctx.state / "runs").glob("*")):
        for old in parent.glob(".*.old"):
            files.restored(parent / old.name[1:].removesuffix(".old"))
    for folder in folders(ctx):
        place = str(folder.relative_to(ctx.state))
        released = folder.parent.parent.name == "releases"
        telling = words(_dataset_of(folder / bundle.MODEL if released else folder))
        with files.aside(folder.parent) as fresh:
            shutil.copytree(folder, fresh, dirs_exist_ok=True)
            if edited(fresh / bundle.MODEL if released else fresh, telling) | (released and _bundle_edited(fresh, telling)):
                planned(place)
                changed += 1
                if released:
                    _seal(ctx, fresh, wish, keys)
                objects.replace(ctx, folder, fresh)
                files.exchange(fresh, folder)
        if place in wish.folders:
            _link(ctx, folder, wish, keys)
    return changed


def _fetch(ctx: Context) -> None:
    """Bring here what lies in the object store alone, so that it is looked through too."""
    from kaizenml.registry import operations as kept
    from kaizenml.releases import operations as released

    for model in kept.list(ctx):
        with suppress(NotFound):
            kept.folder_of(ctx, model)
    for release in released.list(ctx):
        released.folder_of(ctx, release)


def edited(folder: Path, telling: Telling) -> bool:
    """Take what tells out of a model folder's files; return whether there was any."""
    changed = _model_edited(folder / model_file.FILE, telling)
    path = folder / check_rows.FILE
    if path.exists():
        check = check_rows.read(folder)
        left = [place for place, row in enumerate(check.rows) if not _about(row, telling)]
        if len(left) < len(check.rows):
            kept = {name: [value[place] for place in left] if value else value for name, value in _columns(check).items()}
            check_rows.write(folder, msgspec.structs.replace(check, **kept))
            changed = True
    return changed


def tells(value: Any, of: Iterable[Any]) -> bool:
    """Return whether a value is one of those that tell."""
    return value is not None and any(value == each or subject.same(value, [str(each)]) for each in of)


def tombstones(levels: list[str], of: Iterable[Any]) -> list[str]:
    """Return levels with those that tell replaced by names that nothing is called by; every level keeps its place."""
    of = list(of)
    made: list[str] = []
    for level in levels:
        made.append(TOMBSTONE.format(len(made)) if tells(level, of) else level)
    return made


def _model_edited(path: Path, telling: Telling) -> bool:
    if not path.exists():
        return False
    raw = path.read_bytes()
    document: dict[str, Any] = msgspec.json.decode(raw)  # not the struct: what a newer format has beside is kept
    before = msgspec.json.encode(document)
    for field in document["signature"]["fields"]:
        of = telling.values.get(field["name"])
        if not of:
            continue
        if "examples" in field:
            field["examples"] = [value for value in field["examples"] if not tells(value, of)]
        for end, place in (("minimum", 0), ("maximum", 1)):
            if tells(field.get(end), of):
                field[end] = telling.ends.get(field["name"], [None, None])[place]
    for column in document["encoder"]["columns"]:
        if of := telling.values.get(column["name"]):
            column["levels"] = tombstones(column.get("levels") or [], of)
    for segment in document.get("segments") or []:
        if of := telling.values.get(segment["column"]):
            segment["answers"] = {level: answer for level, answer in segment["answers"].items() if not tells(level, of)}
    if msgspec.json.encode(document) == before:
        return False
    files.write_file(path, msgspec.json.format(msgspec.json.encode(document), indent=1))
    return True


def _bundle_edited(folder: Path, telling: Telling) -> bool:
    manifest = bundle.read(folder)
    rows = msgspec.json.decode((folder / bundle.EXAMPLE).read_bytes())
    left = [row for row in rows if not _about(row, telling)]
    gates = [msgspec.structs.replace(gate, evidence=_without(gate.evidence, telling)) for gate in manifest.gates]
    if len(left) == len(rows) and gates == manifest.gates:
        return False
    files.write_file(folder / bundle.EXAMPLE, msgspec.json.format(msgspec.json.encode(left), indent=1) + b"\n")
    files.write_file(folder / bundle.MANIFEST, msgspec.json.encode(msgspec.structs.replace(manifest, gates=gates)))
    return True


def _seal(ctx: Context, folder: Path, wish: Wish, keys: Keys) -> None:
    """Write card and manifest of a changed bundle: same name, same hash, and the link to what its files give now."""
    manifest = bundle.read(folder)
    with ctx.catalog.read() as connection:
        model = registry.find(connection, *_split(manifest.pins.model))
        run = runs.find(connection, model.run) if model is not None else None
    signature = model_file.read(folder / bundle.MODEL).signature
    example = msgspec.json.decode((folder / bundle.EXAMPLE).read_bytes())
    text = card.card(manifest, run or importing.read(folder / bundle.MODEL), signature, example)
    before = manifest.forgotten[-1].after if manifest.forgotten else manifest.hash
    after = bundle.content_hash(manifest.pins, bundle.hashed(folder))
    links = forgotten.extended(
        manifest.forgotten, keys, f"release {manifest.ref}", number=wish.number, at=wish.asked_at, rows=0, before=before, after=after
    )
    bundle.seal(folder, msgspec.structs.replace(manifest, forgotten=links), text)


def _link(ctx: Context, folder: Path, wish: Wish, keys: Keys) -> None:
    """Bring the catalog to what the folder is now."""
    room, name, number = folder.relative_to(ctx.state).parts[:3]
    if room == "releases":
        manifest: Manifest = bundle.verify(folder)
        with ctx.catalog.write() as connection:
            releases.renew(connection, manifest)
    elif room == "models":
        after = files.hash_of(files.hash_files(folder))
        with ctx.catalog.write() as connection:
            model = registry.find(connection, name, int(number))
            if model is not None and model.files_hash != after:
                links = forgotten.extended(
                    model.forgotten, keys, f"model {model.ref}", number=wish.number, at=wish.asked_at, rows=0, before=model.files_hash, after=after
                )
                registry.renew(connection, msgspec.structs.replace(model, forgotten=links))


def _about(row: Mapping[str, Any], telling: Telling) -> bool:
    return subject.in_row(row, telling.requests) or any(tells(row.get(name), of) for name, of in telling.values.items())


def _without(value: Any, telling: Telling) -> Any:
    """Return evidence without the rows that are about a subject."""
    if isinstance(value, dict):
        if _about(value, telling):
            return {"forgotten": True}
        return {name: _without(each, telling) for name, each in value.items()}
    return [_without(each, telling) for each in value] if isinstance(value, list) else value


def _columns(check: check_rows.Check) -> dict[str, Any]:
    return {"rows": check.rows, "values": check.values, "probabilities": check.probabilities}


def _dataset_of(folder: Path) -> str | None:
    """Return the dataset that a model was trained on; None when it was made elsewhere."""
    from kaizenml.training import recipe

    origin = recipe.read(folder)
    return origin.dataset.partition("@")[0] if origin is not None else None


def _split(ref: str) -> tuple[str, int]:
    name, _, number = ref.partition("@")
    return name, int(number)
