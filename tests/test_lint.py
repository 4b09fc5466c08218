"""Lint, types and import contracts are tests like any other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def run(*command: str) -> None:
    done = subprocess.run([str(Path(sys.executable).parent / command[0]), *command[1:]], check=False, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_finds_nothing():
    run("ruff", "check", ".")


def test_the_import_contracts_hold():
    run("lint-imports", "--no-logo")


@pytest.mark.slow
def test_mypy_finds_nothing():
    run("mypy")
