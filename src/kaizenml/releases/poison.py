"""The gate against poison: no source that is not internal may have taught the model what the others do not."""

from __future__ import annotations

from typing import Any

import msgspec

from kaizenml.context import Context
from kaizenml.data import store as datasets
from kaizenml.data import tables
from kaizenml.data.trust import screening
from kaizenml.data.trust.poison import Scan
from kaizenml.features import store as views
from kaizenml.releases.release import GateResult, Pins
from kaizenml.training.run import Run


def gate(ctx: Context, run: Run, pins: Pins, inputs: list[str]) -> GateResult:
    """Scan the rows that a run has learnt from, of the training dataset and of those behind its views.

    Parameters
    ----------
    pins : of the release; they name the dataset versions.
    inputs : the model's inputs.
    """
    scans: dict[str, Scan] = {}
    for ref in pins.data:
        version = tables.version(ctx, ref)
        with ctx.catalog.read() as connection:
            dataset = datasets.find(connection, version.dataset)
            used = [view for name, view in views.definitions(connection).items() if name in run.views and view.dataset == version.dataset]
        assert dataset is not None  # versions refer to their dataset
        untrusted = [source.name for source in dataset.sources if source.trust != "internal" and version.sources.get(source.name)]
        columns = [*(inputs if ref == run.dataset else []), *(name for view in used for name in [*view.entities, *view.reads])]
        if untrusted:
            scans[ref] = screening.look(ctx, version, dataset.contract, untrusted, only=columns, without=run.exclusions)
    return _verdict(scans)


def _verdict(scans: dict[str, Scan]) -> GateResult:
    if not scans:
        return _skipped("every source is internal")
    looked = {ref: scan for ref, scan in scans.items() if not scan.skipped}
    if not looked:
        return _skipped("; ".join(f"{ref}: {scan.skipped}" for ref, scan in scans.items()))
    evidence: dict[str, Any] = {ref: msgspec.to_builtins(scan) for ref, scan in scans.items()}
    found = [(ref, one) for ref, scan in looked.items() for one in scan.findings]
    if not found:
        names = sorted({name for scan in looked.values() for name in scan.sources})
        rows = sum(scan.rows for scan in looked.values())
        summary = f"{', '.join(names)} teach{'es' if len(names) == 1 else ''} what the others teach ({rows:,} rows)"
        return GateResult(name="poison", passed=True, summary=summary, evidence=evidence)
    ref, worst = found[0]
    name = ref.partition("@")[0]
    evidence["try"] = [f"kaizen data quarantine {name} --source {source}" for source in dict.fromkeys(one.source for _, one in found)]
    beyond = f"{worst.kind} {worst.value:.3g}, where {worst.limit:.3g} is the limit"
    return GateResult(name="poison", passed=False, summary=f"{worst.source} in {ref} stands out: {worst.about} ({beyond})", evidence=evidence)


def _skipped(why: str) -> GateResult:
    return GateResult(name="poison", passed=True, summary=f"skipped: {why}", evidence={"skipped": why})
