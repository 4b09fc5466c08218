"""The card: one page that says what a release is, what it was made from, how good it is and who let it through."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

from kaizenml.clock import format_duration
from kaizenml.features.signature import Field, Signature
from kaizenml.registry.importing import Origin
from kaizenml.releases.release import Manifest
from kaizenml.training.run import Estimate, Run


def card(release: Manifest, source: Run | Origin | None, signature: Signature, example: list[dict[str, Any]]) -> str:
    """Write the card as Markdown (plain enough to be shown as HTML); ``source`` is the run, or where a model came from that was made elsewhere."""
    run = source if isinstance(source, Run) else None
    verdict = "passed its gates" if release.state == "passed" else f"refused by {', '.join(gate.name for gate in release.failed)}"
    made = datetime.fromtimestamp(release.created_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    parts = [
        f"# {release.ref}\n\n{verdict[0].upper()}{verdict[1:]}. Made {made}{f', because: {release.why}' if release.why else ''}.",
        "## What it answers\n\n" + _question(signature),
        "## How good it is\n\n" + _board(run) if run else "## Where it comes from\n\n" + _origin(source),
        "## Gates\n\n" + _table(("gate", "verdict", "evidence"), [(g.name, _verdict(g.passed, g.evidence), g.summary) for g in release.gates]),
        "## Inputs\n\n" + _inputs(signature),
        *(["## Refused columns\n\n" + _leaks(run)] if run else []),
        "## Pins\n\n" + _pins(release, run.id if run else "of another place"),
    ]
    if example:
        body = msgspec.json.encode({"inputs": example[:1]}).decode()
        parts.append(f"## How to ask\n\n`POST /predict/ENDPOINT` with\n\n```json\n{body}\n```")
    return "\n\n".join(parts) + "\n"


def _question(signature: Signature) -> str:
    kinds = {"binary": "one of two classes", "multiclass": "one of several classes", "regression": "a number"}
    text = f"`{signature.target}`: {kinds[signature.task]}"
    if signature.classes:
        shown = ", ".join(f"`{value}`" for value in signature.classes[:10])
        text += f" ({shown}{', ...' if len(signature.classes) > 10 else ''})"
    if signature.time:
        when = f" {format_duration(signature.asked_before_s)} before" if signature.asked_before_s else " at"
        text += f", asked{when} `{signature.time}`"
    return text + "."


def _board(run: Run) -> str:
    names = list(dict.fromkeys(metric for row in run.board for metric in row.metrics))
    split = run.split
    judged = "the newest rows" if split.get("by") == "time" else "rows held out at random"
    span = f", {_day(split['from'])} to {_day(split['to'])}" if split.get("from") is not None and split.get("to") is not None else ""
    lead = f"Measured on {judged} ({split.get('holdout_rows', '?')} of them{span}), which nothing was learnt from; 95 % intervals in brackets."
    rows = [(row.name, *(_estimate(row.metrics.get(name)) for name in names), row.note) for row in run.board]
    return lead + "\n\n" + _table(("model", *names, "note"), rows)


def _origin(made: Run | Origin | None) -> str:
    if not isinstance(made, Origin):
        return "Made elsewhere."
    compared = "the same classes" if made.largest_difference is None else f"answers that differ by {made.largest_difference:.1g} at most"
    notes = "".join(f" {note[0].upper()}{note[1:]}." for note in made.notes)
    return (
        f"Made elsewhere: {made.maker}, from the file `{made.source}` (sha256 `{made.sha256}`). It gave {compared} on {made.rows} rows whose answers "
        f"came with it.{notes} What it was trained on, and how good it is, is not known here."
    )


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def _estimate(estimate: Estimate | None) -> str:
    return f"{estimate.value:.4g} [{estimate.low:.4g}, {estimate.high:.4g}]" if estimate else ""


def _inputs(signature: Signature) -> str:
    rows = [
        (
            f"`{field.name}`",
            field.kind,
            f"view {field.view}" if field.view else "the request",
            "yes" if field.nullable else "no",
            _range(field),
        )
        for field in signature.fields
    ]
    return _table(("input", "kind", "comes from", "may be missing", "seen in training"), rows)


def _range(field: Field) -> str:
    if field.minimum is None or field.maximum is None:
        return ", ".join(str(value) for value in field.examples[:5]) if field.kind == "category" else ""
    write = _day if field.kind == "timestamp" else "{:g}".format
    return f"{write(field.minimum)} to {write(field.maximum)}"


def _leaks(run: Run) -> str:
    if not run.leaks:
        return "None: no column was found to know the answer beforehand."
    rows = [(f"`{leak.column}`", leak.reason, "" if leak.score is None else f"{leak.score:.3f}") for leak in run.leaks]
    return _table(("column", "why", "score alone"), rows)


def _pins(release: Manifest, run: str) -> str:
    pins = release.pins
    rows: list[tuple[str, ...]] = [
        ("release hash", f"`{release.hash}`"),
        ("model", f"{pins.model} `{pins.model_hash[:16]}`, run {run}"),
        *(("data", f"{ref} `{digest[:16]}`") for ref, digest in zip(pins.data, pins.data_hashes, strict=True)),
        *(("without rows of", f"exclusion {number}") for number in release.exclusions),
        *(("feature view", ref) for ref in pins.features),
        ("code", pins.code or "not under version control"),
        ("libraries", ", ".join(f"{name} {version}" for name, version in pins.libraries.items())),
    ]
    return _table(("what", "which"), rows)


def _verdict(passed: bool, evidence: dict[str, Any]) -> str:
    if "skipped" in evidence:
        return "skipped"
    return "passed" if passed else "not run" if "not_run" in evidence else "refused"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines)
