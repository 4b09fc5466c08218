"""What a training found and whether it may go to production, in a few lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kaizenml import operations
from kaizenml.cli.output import cell, table

if TYPE_CHECKING:
    from kaizenml.releases.release import Release
    from kaizenml.training.run import Run


def describe_release(run: Run, release: Release) -> str:
    """Return the board, what was refused, the gates and the release, in a few lines."""
    rows = []
    for row in run.board:
        metrics = {name: cell(name, operations.to_builtins(value)) for name, value in row.metrics.items()}
        if metrics:
            rows.append({"": row.name, **dict(list(metrics.items())[:3])})  # the others are in --json
    tested = "newest to test" if run.split.get("by") == "time" else "drawn to test"
    split = f"{run.split.get('train_rows', '?')} rows to learn, {run.split.get('holdout_rows', '?')} {tested}"
    lines = [f"{run.target} from {run.dataset} ({run.task}; {split})", table(rows)]
    lines += [f"{row.name}: {row.note}" for row in run.board if not row.metrics]
    lines += [f"refused as a leak: {leak.column}: {leak.reason}" for leak in run.leaks]
    lines += [f"gate {gate.name}: {'passed' if gate.passed else 'FAILED'}: {gate.summary}" for gate in release.gates]
    lines.append(f"release {release.ref} ({release.hash[:12]})" + (" is refused; it is kept with its evidence" if release.state == "refused" else ""))
    return "\n".join(lines)
