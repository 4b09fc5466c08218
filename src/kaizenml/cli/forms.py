"""Results as people read them: what matters first, and without what only machines need; ``--json`` has everything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kaizenml.clock import format_duration

Plain = dict[str, Any]
_NOTHING: tuple[Any, ...] = (None, "", [], {})


def of(operation: str) -> Callable[[Any], str] | None:
    """Return what renders the result of an operation, ``noun.verb``; None: all of it is shown as it is."""
    form = _FORMS.get(operation)
    if form is None:
        return None

    def shown(result: Any) -> str:
        from kaizenml.cli.output import render

        if result is None:
            return render(None)
        if isinstance(result, list) and len(result) == 1 and operation in _ALONE:
            return render(_ALONE[operation](result[0]))
        return render([form(one) for one in result] if isinstance(result, list) else form(result))

    return shown


def _filled(record: Plain, *always: str) -> Plain:
    """Leave out what says nothing, but the fields in ``always``."""
    return {name: value for name, value in record.items() if name in always or value not in _NOTHING}


def _version(version: Plain) -> Plain:
    head = {name: version[name] for name in ("dataset", "number", "parts", "rows", "hash", "source", "sources", "quarantined")}
    told = {name: version.get(name) for name in ("warnings", "personal", "undecided", "suspicions", "becoming", "forgotten", "created_at", "code")}
    return _filled({**head, **told, "columns": [_column(name, version) for name in version["columns"]]}, "quarantined")


def _column(name: str, version: Plain) -> Plain:
    entry = version["profile"].get(name, {})
    top = entry.get("top") or []
    common = ", ".join(str(pair[0]) for pair in top[:3]) if top and top[0][1] > 1 else ""  # not of values that come once
    ends = f"{_short(entry['min'])} to {_short(entry['max'])}" if entry.get("min") is not None and entry.get("max") is not None else common
    told = {"missing": entry.get("missing"), "distinct, at least": entry.get("distinct")}  # of rows that came in pieces it is the most of one
    return {"column": name, "kind": version["columns"][name], **told, "holds": ends}


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _line_of_version(version: Plain) -> Plain:
    told = {name: version[name] for name in ("dataset", "number", "parts", "rows", "quarantined", "created_at", "source")}
    code = version.get("code") or ""
    return {**told, "code": code[:12] + ("-dirty" if code.endswith("-dirty") else ""), "hash": version["hash"][:12]}


def _dataset(dataset: Plain) -> Plain:
    contract = dataset["contract"]
    sources = [f"{each['name']} ({each.get('trust', 'internal')})" for each in dataset["sources"]]
    told = {"key": contract.get("key"), "time": contract.get("time"), "columns": len(contract["columns"]), "sources": sources}
    return {"name": dataset["name"], **told, "comes from": dataset["source"], "created_at": dataset["created_at"]}


def _shown_version(shown: Plain) -> Plain:
    dataset, rest = shown["dataset"], {name: value for name, value in shown.items() if name not in ("dataset", "version", "quarantined", "why")}
    trust = {each["name"]: each.get("trust", "internal") for each in dataset["sources"]}
    told = {"trust": trust, "waiting in quarantine": shown["quarantined"], "why": shown["why"]}
    return {**_version(shown["version"]), **_filled(told), **rest}


def _view(view: Plain) -> Plain:
    spans = {"ttl": format_duration(view["ttl_s"])} if view.get("ttl_s") else {}
    made = [{"feature": each["name"], "is": _aggregate(each)} for each in view["aggregates"]]
    names = ("name", "dataset", "entity", "at", "created", "columns", "sql", "description", "owner", "tags")
    return _filled({**{name: view.get(name) for name in names}, **spans, "aggregates": made})


def _aggregate(each: Plain) -> str:
    if each.get("of"):
        return " over ".join(each["of"])
    said = f"{each['function']} of {each.get('column') or 'rows'}"
    said += f", last {format_duration(each['last_s'])}" if each.get("last_s") else ""
    said += f", every {format_duration(each['every_s'])}" if each.get("every_s") else ""
    return said + (f", newest {each['n']}" if each.get("n") else "")


def _state(state: Plain) -> Plain:
    return {**state, "view": _view(state["view"])}


def _line_of_view(state: Plain) -> Plain:
    view = state["view"]
    held, newest = state["materialized"], state["dataset_version"]
    online = "not filled" if not held else f"version {held}" + (f" of {newest}" if newest != held else "")
    told = {"features": state["features"], "of": view["entity"], "dataset": view["dataset"], "online": online, "waiting": state["waiting"]}
    return {"view": state["ref"], **told, "owner": view["owner"], "tags": view["tags"]}


def _description(described: Plain) -> Plain:
    features = [
        {
            **{name: one[name] for name in ("name", "kind", "of", "rows")}, "missing": f"{one['missing']:.1%}",
            **{name: one["profile"].get(name) for name in ("distinct", "mean", "min", "max")}, "used": one["used"],
        }
        for one in described["features"]
    ]  # fmt: skip
    return _filled({**described, "state": _state(described["state"]), "features": features})


def _forgetting(made: Plain) -> Plain:
    certificate = made["certificate"]
    told = {name: certificate[name] for name in ("asked_at", "by", "why", "not_reached")} if certificate else {}
    kept = {"certificate": f".kaizen/certificates/{made['number']:04d}.md"} if certificate else {}
    return {**_filled({**made, **told, "certificate": None}, "number", "done", "removed", "learnt"), **kept}


def _line_of_forgetting(made: Plain) -> Plain:
    certificate = made["certificate"]
    told = {"asked_at": certificate["asked_at"], "by": certificate["by"], "why": certificate["why"]}
    decided = [f"{each['release']}: {each['decision']}" for each in made["decisions"]]
    return {"number": made["number"], **told, "removed": sum(made["removed"].values()), "releases": decided}


def _radius(found: Plain) -> Plain:
    planned = [each for each in found["exclusions"] if not each["id"]]  # of rows that were only looked at
    return _filled({**found, "exclusions": [] if planned else found["exclusions"]}, "endpoints", "predictions")


_FORMS: dict[str, Callable[[Plain], Plain]] = {
    "data.add": _version,
    "data.list": _dataset,
    "data.versions": _line_of_version,
    "data.show": _shown_version,
    "data.diff": _filled,
    "data.exclude": _radius,
    "data.radius": _radius,
    "data.forget": _forgetting,
    "data.forgotten": _line_of_forgetting,
    "features.list": _line_of_view,
    "features.show": _state,
    "features.flush": _version,
    "features.describe": _description,
}
_ALONE: dict[str, Callable[[Plain], Plain]] = {"data.forgotten": _forgetting}
"""Of a list that holds one."""
