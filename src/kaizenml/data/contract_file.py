"""``contracts/NAME.toml``: the contract where people read, review and edit it."""

from __future__ import annotations

import errno
import json
import os
import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from kaizenml.data.contract import check_contract
from kaizenml.data.dataset import Column, Contract, Freshness, Personal, Query, RowLimits, Unique
from kaizenml.errors import InvalidData, KaizenError, StorageFull, nearest

_HEAD = """\
# What rows of dataset {name!r} must look like. Learnt from the first rows; edit it as you know better:
#   nullable = false    minimum = 0    maximum = 120    categories = ["a", "b"]    unique = true    severity = "refuse"
#   personal = {{kind = "email", decision = "drop"}}    of persons: drop, pseudonym, encrypt, or keep with a reason and by whom
# Rows that break it go to quarantine with the reason (kaizen data quarantine {name}); nothing is dropped silently.
"""


_TABLES: dict[str, type[msgspec.Struct]] = {"columns": Column, "unique": Unique, "freshness": Freshness, "rows": RowLimits, "checks": Query}


def path_of(root: Path, dataset: str) -> Path:
    """Return where a dataset's contract lies in the project folder."""
    return root / "contracts" / f"{dataset}.toml"


def read(path: Path) -> Contract | None:
    """Read a contract; None when there is no file.

    Raises
    ------
    InvalidData : not TOML, an unknown word (with the nearest right one), a wrong type, a contradiction.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise InvalidData(f"{path} is not UTF-8: {error.reason} at byte {error.start}", remedy=f"mend {path}", values={"file": str(path)}) from None
    try:
        return parse(text)
    except InvalidData as error:
        raise InvalidData(f"{path}: {error.what}", remedy=error.remedy or f"mend {path}", values=error.values | {"file": str(path)}) from None


def parse(text: str) -> Contract:
    """Read a contract from TOML."""
    try:
        document = tomllib.loads(text)
        _check_words(document, Contract)
        for name, kind in _TABLES.items():
            found = document.get(name, [])
            for table in found if isinstance(found, list) else [found]:
                if isinstance(table, dict):
                    _check_words(table, kind)
                    if isinstance(table.get("personal"), dict):
                        _check_words(table["personal"], Personal)
        contract = msgspec.convert(document, Contract)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise InvalidData(f"{str(error)[0].lower()}{str(error)[1:]}", values={"reason": str(error)}) from None
    check_contract(contract)
    return contract


def render(contract: Contract, dataset: str) -> str:
    """Write a contract as TOML; ``parse`` gives it back."""
    lines = [_HEAD.format(name=dataset)]
    lines += [f"{role} = {_value(name)}" for role in ("key", "time", "subject") if (name := getattr(contract, role)) is not None]
    whole = [("freshness", contract.freshness), ("rows", contract.rows)]
    found = [f"\n[{name}]\n{_fields(promise)}" for name, promise in whole if promise is not None]
    found += [f"\n[[{name}]]\n{_fields(promise)}" for name in ("unique", "checks") for promise in getattr(contract, name)]
    return "\n".join(lines) + "\n" + "".join(found) + "".join(map(_block, contract.columns))


@contextmanager
def written(path: Path, contract: Contract, dataset: str) -> Iterator[None]:
    """Bring the file to ``contract`` if the body succeeds. The text is written before it, so that a full disk fails first.

    An edited file keeps its comments and order as far as the change allows.
    """
    old = read(path)
    if old == contract:
        yield
        return
    text = _edited(path.read_text(encoding="utf-8"), old, contract) if old else None
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_text(text if text is not None else render(contract, dataset), encoding="utf-8")
        except OSError as error:
            raise _unwritable(path, error) from error
        yield
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def write(path: Path, contract: Contract, dataset: str) -> None:
    """Bring the file to ``contract``, as ``written`` does."""
    with written(path, contract, dataset):
        pass


def _unwritable(path: Path, error: OSError) -> KaizenError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StorageFull(f"no room left on the disk for {path}; nothing was added", remedy="free some space and repeat", values={"file": str(path)})
    return InvalidData(f"{path} cannot be written: {error.strerror}", remedy=f"make {path.parent} writable", values={"file": str(path)})


def _edited(text: str, old: Contract, new: Contract) -> str | None:
    """Change kinds and decisions in place and append new columns; None when the result would not read as ``new``."""
    kinds = {column.name: column.kind for column in old.columns}
    decided = {column.name: column.personal for column in old.columns}
    for column in new.columns:
        if column.name not in kinds:
            text = text.rstrip("\n") + "\n" + _block(column)
        elif kinds[column.name] != column.kind:
            name = re.escape(_value(column.name))
            block = re.compile(rf'(name\s*=\s*{name}[^\[]*?kind\s*=\s*)"\w+"')
            found = block.search(text)
            if found:
                text = f'{text[: found.start()]}{found[1]}"{column.kind}"{text[found.end() :]}'
        if column.name in kinds and column.personal is not None and decided[column.name] != column.personal:
            text = _with_decision(text, column)
    try:
        return text if parse(text) == new else None
    except InvalidData:
        return None


def _with_decision(text: str, column: Column) -> str:
    """Write a column's decision over the one that it has, or below its kind."""
    line = f"personal = {_value(msgspec.to_builtins(column.personal))}"
    head = re.search(rf"^name\s*=\s*{re.escape(_value(column.name))}[^\n]*$", text, flags=re.MULTILINE)
    if head is None:
        return text
    end = text.find("\n[", head.end())
    block = text[head.start() : end if end >= 0 else len(text)]
    if re.search(r"^personal\s*=", block, flags=re.MULTILINE):
        changed = re.sub(r"^personal\s*=\s*\{[^\n]*\}", lambda _: line, block, flags=re.MULTILINE)
    else:
        changed = re.sub(r"^(kind\s*=[^\n]*)$", lambda found: f"{found[1]}\n{line}", block, count=1, flags=re.MULTILINE)
    return text.replace(block, changed, 1)


def _block(column: Column) -> str:
    fields = msgspec.to_builtins(column)  # defaults are left out
    ordered = {"name": column.name, "kind": column.kind} | fields
    return "\n[[columns]]\n" + "".join(f"{name} = {_value(value)}\n" for name, value in ordered.items())


def _fields(promise: msgspec.Struct) -> str:
    return "".join(f"{name} = {_value(value)}\n" for name, value in msgspec.to_builtins(promise).items())


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # a TOML basic string escapes as JSON does, and DEL besides
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_value(each)}" for name, each in value.items()) + "}"
    return repr(value)  # numbers: repr reads back the same, inf and nan included


def _check_words(document: dict[str, Any], kind: type[msgspec.Struct]) -> None:
    known = kind.__struct_fields__
    for word in document:
        if word not in known:
            close = nearest(word, known)
            raise InvalidData(
                f"unknown word {word!r}{f'; did you mean {close!r}?' if close else ''}",
                remedy=f"use one of {', '.join(known)}",
                values={"found": word, "nearest": close},
            )
