"""The texts of a new project's files."""

from __future__ import annotations

import json
import shlex

import msgspec


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the texts are made of."""

    name: str
    dataset: str
    file: str  # below data/
    target: str
    task: str  # binary, multiclass, regression
    kind: str  # as asked for: auto or one of the above
    time: str | None
    time_why: str
    key: str | None
    key_why: str
    rows: int
    columns: int
    requirement: str  # the line that installs kaizenml
    python: str  # such as 3.12
    within: str = ""  # the project's folder in the repository around it


def files(facts: Facts) -> dict[str, str]:
    """Return the text of each file by its path in the project."""
    return {
        "kaizen.toml": settings(facts),
        ".gitignore": GITIGNORE,
        "README.md": readme(facts),
        "requirements.txt": f"{facts.requirement}\npytest\n",
        "tests/test_project.py": TESTS,
        ".github/workflows/kaizen.yml": workflow(facts),
    }


def settings(facts: Facts) -> str:
    """Return kaizen.toml: what was decided, and the few settings that one changes first."""
    lines = [
        f"# {facts.name}: predicts {_one_line(facts.target)}. `kaizen audit settings` shows every setting and where its value comes from.",
        "",
        "[project]",
        f"name = {quoted(facts.name)}",
        "",
        "[task]",
        f"dataset = {quoted(facts.dataset)}",
        f"source = {quoted(f'data/{facts.file}')}   # a changed file becomes a new version of the dataset",
        f"target = {quoted(facts.target)}   # {facts.task}",
    ]
    if facts.kind != "auto":
        lines.append(f"kind = {quoted(facts.kind)}")
    time, why = '# time = "..."   # when a row happens', _one_line(facts.time_why)
    if facts.time:
        time = f"time = {quoted(facts.time)}   # when a row happens: {why}"
    key = f"key = {quoted(facts.key)}   # {_one_line(facts.key_why)}" if facts.key else '# key = "..."   # what identifies a row'
    lines += [
        time,
        key,
        '# asked_before = "1h"   # the question is asked so long before that time',
        '# ignore = ["..."]      # columns that are never inputs',
        "",
        "[train]",
        'budget = "60s"',
        "",
        "[gates]   # a release must pass them",
        "rate = 200.0    # requests a second that serving must bear",
        "p99_ms = 50.0   # and the time within which 99 % of them are answered",
        "",
        "[serve]",
        "port = 8080",
        "",
        "[console]",
        "port = 8081",
        "",
        "[loop]",
        "canary_weight = 0.05      # share of the traffic on which a new release is tried",
        "min_new_rows = 500        # new rows with outcomes before a retraining can help",
        '# retrain_after = "30d"   # also retrain on a schedule',
        "",
    ]
    return "\n".join(lines)


def readme(facts: Facts) -> str:
    """Return the project's README."""
    about = f"Predicts `{facts.target}` ({facts.task}) from `{facts.dataset}`: {facts.rows:,} rows, {facts.columns} columns at the start."
    return README.replace("{name}", facts.name).replace("{about}", about).replace("{dataset}", facts.dataset).replace("{file}", facts.file)


def workflow(facts: Facts) -> str:
    """Return the CI file; in a repository around the project its steps run in the project's folder."""
    within = f"    defaults:\n      run:\n        working-directory: {quoted(facts.within)}\n" if facts.within else ""
    # the data is not under git; where a step before brings it, it is held against the contract: exit code 3 when that refuses it
    path = f"data/{facts.file}"
    check = f"      - if: ${{{{ hashFiles({_single(f'{facts.within}/{path}' if facts.within else path)}) != '' }}}}\n"
    check += f"        run: |\n          kaizen data check {facts.dataset} {shlex.quote(path)} --json\n"
    return CI.replace("{within}", within).replace("{python}", facts.python).replace("{check}", check)


def quoted(text: str) -> str:
    """Return text as a TOML string."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _single(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _one_line(text: str) -> str:
    return " ".join(text.split())


GITIGNORE = """\
# state: datasets, models, releases, the journal
.kaizen/
# rows may be about persons, who can ask to be forgotten; git forgets nothing
data/
__pycache__/
.pytest_cache/
"""

README = """\
# {name}

{about}

    kaizen up         # takes the data, trains, gates, deploys; then serves, watches and improves
    kaizen status     # how it is
    kaizen --help     # everything else

| where | what |
|---|---|
| `kaizen.toml` | the question and the few settings that matter |
| `contracts/{dataset}.toml` | what the data must look like; rows that break it go to quarantine with the reason |
| `data/{file}` | the rows to learn from (not under git) |
| `tests/` | checks that run here and in CI: `pytest` |
| `requirements.txt` | what CI installs: the kaizenml that made this project |
| `.kaizen/` | state (not under git) |
"""

TESTS = '''\
"""Checks of this project: `pytest` runs them, here and in CI. Add your own."""

from pathlib import Path

import pytest

from kaizenml import settings
from kaizenml.data import contract, contract_file
from kaizenml.data.intake import sources

ROOT = Path(__file__).resolve().parent.parent
SETTINGS, _SOURCES = settings.load(ROOT, environ={})
CONTRACT = contract_file.read(contract_file.path_of(ROOT, SETTINGS.task.dataset))


def test_the_contract_knows_the_target():
    contract.check_contract(CONTRACT)
    assert SETTINGS.task.target in {column.name for column in CONTRACT.columns}


def test_the_data_keeps_its_contract():
    path = ROOT / SETTINGS.task.source
    if not path.exists():
        pytest.skip(f"{SETTINGS.task.source} is not here; it is not under git")
    table = sources.load(path)
    checked = contract.check(table, CONTRACT)
    reasons = checked.bad["_reason"].to_pylist()
    assert len(reasons) <= 0.01 * table.num_rows, reasons[:5]
'''

CI = """\
name: kaizen
on: [push, pull_request]
jobs:
  checks:
    runs-on: ubuntu-latest
{within}    steps:
      - uses: actions/checkout@v5
      - uses: actions/setup-python@v6
        with:
          python-version: "{python}"
      - run: pip install -r requirements.txt
      - run: pytest
{check}"""
