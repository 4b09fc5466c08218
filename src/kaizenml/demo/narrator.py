"""Tells the demo's story on stderr: steps with progress, news, and the balance at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from kaizenml.training.run import Run


class Narrator:
    """Speaks on stderr, with a moving bar on a terminal and plain lines elsewhere."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        if not self.console.is_terminal:
            self.console = Console(stderr=True, highlight=False, width=200)  # a log file is not 80 columns wide
        self._bar = Progress(
            TextColumn("  {task.description}"), BarColumn(24), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn(),
            console=self.console, transient=True, disable=not self.console.is_terminal,
        )  # fmt: skip

    def __enter__(self) -> Narrator:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def title(self, text: str) -> None:
        """Print a heading."""
        self.console.print(f"\n[bold]{text}[/bold]")

    def say(self, text: str) -> None:
        """Print a sentence."""
        self.console.print(text)

    def detail(self, text: str) -> None:
        """Print a line below a sentence."""
        self.console.print(f"  [dim]{text}[/dim]")

    def news(self, action: dict[str, Any]) -> None:
        """Print something that happened in the replay."""
        label = f" [yellow]({action['diagnosis']})[/yellow]" if action["diagnosis"] else ""
        self.console.print(f"  {action['at'][:16].replace('T', ' ')}  [bold]{action['what']}[/bold]{label}  {action['why']}")

    @contextmanager
    def step(self, text: str) -> Iterator[Callable[[str, float], None]]:
        """Show a step with its time; yields ``progress(sentence, share)``."""
        started = time.perf_counter()
        task = self._bar.add_task(text, total=1.0)
        last = started

        def progress(sentence: str, share: float) -> None:
            nonlocal last
            self._bar.update(task, description=sentence, completed=share)
            if not self.console.is_terminal and time.perf_counter() - last > 10:  # a log file wants a sign of life, not a bar
                last = time.perf_counter()
                self.console.print(f"  {share:4.0%} {sentence}")

        try:
            yield progress
        finally:
            self._bar.remove_task(task)
        self.console.print(f"[green]done[/green] {text} [dim]{time.perf_counter() - started:.1f} s[/dim]")

    def board(self, run: Run) -> None:
        """Print the board and what the leak scan refused."""
        names = list(run.board[0].metrics)
        table = Table("model", *names, "seconds", box=None, padding=(0, 2))
        for row in run.board:
            cells = [f"{row.metrics[n].value:.4f} ({row.metrics[n].low:.4f} to {row.metrics[n].high:.4f})" if n in row.metrics else "" for n in names]
            table.add_row(row.name, *cells, f"{row.seconds:.1f}")
        self.console.print(table)
        for leak in run.leaks:
            self.detail(f"refused {leak.column}: {leak.reason}")

    def conclude(self, document: dict[str, Any], folder: Path) -> None:
        """Print the balance of the year."""
        self.title("By month: log loss (lower is better) and AUC")
        table = Table(box=None, padding=(0, 2))
        for name in ("month", "rows", "loop", "frozen", "naive", "AUC loop", "AUC frozen", "loop gains on frozen"):
            table.add_column(name, justify="left" if name == "month" else "right")
        for row in document["months"]:
            low, high = row["log_loss_interval"]["loop"]
            gain = row["gain_over_frozen"]
            table.add_row(
                row["month"], f"{row['rows']:,}", f"{row['log_loss']['loop']:.4f} ({low:.4f} to {high:.4f})", f"{row['log_loss']['frozen']:.4f}",
                f"{row['log_loss']['naive']:.4f}", f"{row['auc']['loop']:.4f}", f"{row['auc']['frozen']:.4f}",
                f"{gain[0]:+.4f} ({gain[1]:+.4f} to {gain[2]:+.4f})",
            )  # fmt: skip
        self.console.print(table)
        self.title("One prediction traced")
        for name, value in document["trace"].items():
            self.detail(f"{name}: {value}")
        self.say(
            f"\n{document['predictions']:,} predictions, {document['journal_rows']:,} in the journal, {document['outcomes']:,} outcomes, "
            f"{document['retrains']} retrainings, {document['promotions']} promotions, {document['rollbacks']} rollbacks, {document['seconds']} s"
        )
        self.say(f"picture: {document['picture']}   everything: {folder / 'demo.json'}")
