"""The data pages: datasets with their versions, contracts and profiles, and the rows that were refused with the reason."""

from __future__ import annotations

import itertools
from typing import Any

from kaizenml import charts
from kaizenml.context import Context
from kaizenml.data import operations as data
from kaizenml.data.dataset import Column, Contract, DatasetVersion
from kaizenml.data.profile import spread
from kaizenml.features import operations as features
from kaizenml.governance import lineage
from kaizenml.governance import operations as governance
from kaizenml.governance.cutting_off import picture, radius
from kaizenml.server.rendering import commas, number

MANY = 60
CUTS = 4
BARS = 16
CELL = 80  # characters of a refused value that are shown


def values(ctx: Context) -> dict[str, Any]:
    """Return what the data page shows."""
    found = [data.show(ctx, dataset.name) for dataset in data.list(ctx)]
    return {
        "found": found,
        "rows": sum(one.version.rows for one in found),
        "quarantined": sum(one.quarantined for one in found),
        "views": len(features.list(ctx)),
    }


def dataset_values(ctx: Context, name: str) -> dict[str, Any]:
    """Return what the page of one dataset shows."""
    shown = lineage.show(ctx, name)
    versions = sorted(data.versions(ctx, shown.dataset.name), key=lambda version: version.number, reverse=True)
    cuts = governance.exclusions(ctx, shown.dataset.name)[-CUTS:]
    promised = {column.name: column for column in shown.dataset.contract.columns}
    by_source = shown.version.sources or {source.name: shown.version.rows for source in shown.dataset.sources[:1]}
    refused = data.quarantine(ctx, shown.dataset.name, limit=8) if shown.quarantined else None
    return {
        "dataset": shown.dataset,
        "version": shown.version,
        "current": shown.version.number == versions[0].number,
        "made_by": shown.made_by,
        "used": shown.used_by,
        "warnings": shown.version.warnings,
        "unused": shown.unused,
        "held": shown.held,
        "undecided": shown.version.undecided,
        "persons": [_person(column) for column in shown.dataset.contract.columns if column.personal is not None],
        "promises": _promises(shown.dataset.contract),
        "versions": versions[:MANY],
        "more": max(len(versions) - MANY, 0),
        "sources": [(source, by_source.get(source.name, 0)) for source in shown.dataset.sources[:MANY]],
        "more_sources": max(len(shown.dataset.sources) - MANY, 0),
        "columns": [_column(name, kind, promised.get(name), shown.version) for name, kind in shown.version.columns.items()],
        "quarantined": shown.quarantined,
        "suspicions": shown.version.suspicions,
        "cuts": [(cut, found.headline, picture.draw(found)) for cut in cuts for found in [radius.radius(ctx, [cut])]],
        "reasons": sorted(refused.reasons.items(), key=lambda item: -item[1]) if refused else [],
        "samples": [_sample(row) for row in refused.samples] if refused else [],
    }


def _person(column: Column) -> dict[str, str]:
    found = column.personal
    assert found is not None  # only such columns are asked for
    stored = {"drop": "not stored", "pseudonym": "as a pseudonym", "encrypt": "encrypted", "keep": "as it is"}[found.decision]
    return {"name": column.name, "kind": found.kind.replace("_", " "), "stored": stored, "reason": found.reason, "by": found.by or "proposed"}


def _promises(contract: Contract) -> list[str]:
    """Say what the contract promises beyond single columns."""
    said = [f"{', '.join(one.columns)} together never twice" for one in contract.unique]
    if contract.freshness:
        said.append(f"the newest row at most {contract.freshness.within} old")
    if contract.rows:
        limits = contract.rows
        words = [
            f"at least {commas(limits.minimum)}" if limits.minimum is not None else "",
            f"at most {commas(limits.maximum)}" if limits.maximum is not None else "",
            f"at least {limits.shrink:g} times the addition before" if limits.shrink is not None else "",
            f"at most {limits.grow:g} times the addition before" if limits.grow is not None else "",
        ]
        said.append(f"rows of an addition: {', '.join(filter(None, words))}")
    return said + [f"check {query.name}: {query.sql}" for query in contract.checks]


def _sample(row: dict[str, Any]) -> dict[str, str]:
    cells = [f"{name}={str(value)[:CELL]}" for name, value in row.items() if not name.startswith("_") and value is not None]
    return {"where": f"{row.get('_version', '')}, row {row.get('_row', '?')}", "reason": str(row.get("_reason", "")), "cells": ", ".join(cells)}


def _column(name: str, kind: str, promised: Column | None, version: DatasetVersion) -> dict[str, Any]:
    profile = version.profile.get(name) or {}
    missing = profile.get("missing") or 0
    return {
        "name": name,
        "kind": kind,
        "promise": _promise(promised),
        "missing": charts.percent(missing / version.rows) if version.rows else "–",
        "holds": holds(profile),
        "note": profile.get("note", ""),
        "picture": _picture(name, profile),
    }


def _promise(column: Column | None) -> str:
    if column is None:
        return "not in the contract"
    words = []
    if not column.nullable:
        words.append("never missing")
    if column.unique:
        words.append("unique")
    if column.minimum is not None or column.maximum is not None:
        words.append(f"{'-∞' if column.minimum is None else f'{column.minimum:g}'} to {'∞' if column.maximum is None else f'{column.maximum:g}'}")
    if column.categories is not None:
        words.append(f"one of {len(column.categories)} values")
    return ", ".join(words) or "any value"


def holds(profile: dict[str, Any]) -> str:
    """Say in a few words what values a profile tells of."""
    count = profile.get("count") or 0
    if not count:
        return "no values"
    if "true" in profile:
        return f"true {charts.percent(profile['true'] / count)}"
    if profile.get("top"):
        shown = ", ".join(f"{value[:30]} {charts.percent(times / count)}" for value, times in profile["top"][:3])
        more = (profile.get("distinct") or 0) - 3
        return f"{shown}, {commas(more)} more" if more > 0 else shown
    if profile.get("mean") is not None:
        return f"{number(profile['mean'])} ± {number(profile.get('std'))}, {number(profile.get('min'))} to {number(profile.get('max'))}"
    if profile.get("min") is not None:
        return f"{str(profile['min'])[:16].replace('T', ' ')} to {str(profile['max'])[:16].replace('T', ' ')}"
    return f"{commas(count)} values"


def _picture(name: str, profile: dict[str, Any]) -> str:
    title = f"Distribution of {name}"
    if profile.get("quantiles"):
        bars, edges = spread([float(value) for value in profile["quantiles"]], BARS)
        labels = [f"{number(a)} to {number(b)}" for a, b in itertools.pairwise(edges)]
        return charts.histogram(bars, labels=labels, title=title, width=120, height=28) if bars else ""
    if "true" in profile:
        return charts.histogram([profile["count"] - profile["true"], profile["true"]], labels=["false", "true"], title=title, width=120, height=28)
    top = (profile.get("top") or [])[:BARS]
    if len(top) < 2 or top[0][1] < 2:  # names and the like: every value once
        return ""
    return charts.histogram([times for _, times in top], labels=[value for value, _ in top], title=title, width=120, height=28)
