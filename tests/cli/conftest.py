"""What the tests of the command line share: real processes in folders of their own, and small real tables."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sklearn.datasets import load_breast_cancer


class Done:
    """What a command line left behind."""

    def __init__(self, process: subprocess.CompletedProcess[str]) -> None:
        self.code = process.returncode
        self.out = process.stdout
        self.err = process.stderr

    @property
    def document(self):
        return json.loads(self.out)


@pytest.fixture
def kaizen(tmp_path):
    """Run ``kaizen`` as a process of its own, without a terminal, in a temporary folder."""

    def run(*arguments: str, cwd: Path | None = None, stdin: str = "", **environ: str) -> Done:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("KAIZEN_", "GIT_"))}
        # no identity and no settings of the machine's user: a fresh machine has none
        env |= {"HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1", "COLUMNS": "150", **environ}
        command = [sys.executable, "-m", "kaizenml.cli", *arguments]
        return Done(subprocess.run(command, cwd=cwd or tmp_path, env=env, input=stdin, capture_output=True, text=True, timeout=200, check=False))

    return run


@pytest.fixture
def orders(tmp_path) -> Path:
    """A table with a key, two times, a category and gaps."""
    path = tmp_path / "orders.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["order_id", "ordered_at", "shipped_at", "price", "country", "returned"])
        for i in range(300):
            month, day = 1 + i // 28 % 12, 1 + i % 28
            price = "" if i % 17 == 0 else round(5 + (i * 37 % 100) / 3, 2)
            date = f"2025-{month:02d}-{day:02d}"
            rows.writerow([f"o{i:04d}", f"{date}T10:00:00", f"{date}T18:00:00", price, ["DE", "FR", "IT"][i % 3], (i * 7 % 10) < 3])
    return path


@pytest.fixture(scope="session")
def cancer(tmp_path_factory) -> Path:
    """A real table: 569 rows, 30 measures, malignant or benign."""
    path = tmp_path_factory.mktemp("tables") / "cancer.csv"
    load_breast_cancer(as_frame=True).frame.to_csv(path, index=False)
    return path
