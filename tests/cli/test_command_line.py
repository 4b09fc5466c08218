"""The command line: derived commands, one JSON document, errors with their remedy and exit code."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import msgspec
import pytest

import spending
from kaizenml import operations
from kaizenml.cli import daily, output, status
from kaizenml.cli.application import NOUNS, root, run
from kaizenml.cli.face import Face
from kaizenml.errors import KaizenError, NotFound, UsageError
from kaizenml.registry import operations as registry
from kaizenml.releases import operations as releases
from kaizenml.training import operations as training

ROOT = Path(__file__).resolve().parents[2]
SMALL = '[project]\nname = "shop"\n'


@pytest.fixture
def project(tmp_path, monkeypatch):
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "kaizen.toml").write_text(SMALL, encoding="utf-8")
    monkeypatch.chdir(folder)
    return folder


def test_every_operation_is_a_command_with_its_parameters(capsys):
    for noun in {*NOUNS, "loop"}:
        for verb, operation in operations.of(noun).items():
            assert run([noun, verb.replace("_", "-"), "--help"]) == 0
            out = capsys.readouterr().out
            for parameter in operation.parameters:
                shown = parameter.name.upper() if parameter.positional else f"--{parameter.name.replace('_', '-')}"
                assert shown in out, (noun, verb)


def test_every_command_that_help_or_a_page_shows_can_be_typed():
    shown = [line.strip("` ") for operation in operations.all().values() for line in operation.example.splitlines()]
    for page in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]:
        fenced = "".join(re.findall(r"^```[a-z]*\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))
        shown += [line.removeprefix("$ ") for line in fenced.replace("\\\n", " ").splitlines()]
    typed = {line for line in shown if line.startswith("kaizen ")}
    assert len(typed) > 150
    for line in sorted(typed):
        parts = shlex.split(re.sub(r"\$\([^)]*\)", "X", line), comments=True)[1:]
        words = list(itertools.takewhile(lambda word: word not in ("|", ">", "<<<", "&"), parts))
        command, ctx = root(), click.Context(root(), obj=Face())
        while isinstance(command, click.Group) and words and (found := command.get_command(ctx, words[0])):
            command, words = found, words[1:]
        with contextlib.suppress(click.exceptions.Exit):  # --help
            try:
                command.make_context("kaizen", words, parent=ctx)
            except click.UsageError as error:
                pytest.fail(f"{line}: {error.format_message()}")


@pytest.mark.slow
def test_a_release_whose_features_are_not_online_is_told_until_they_are(tmp_path, capsys, monkeypatch):
    ctx = spending.shop(tmp_path / "shop")
    registry.register(ctx, training.train(ctx, run_id="first").id)
    releases.create(ctx, "shop@1", skip=["load", "naive"], why="this is about features")
    monkeypatch.chdir(ctx.root)
    assert run(["deploy"]) == 0
    assert "the features of spend are not online yet" in capsys.readouterr().err
    assert run(["features", "materialize", "spend"]) == 0
    assert run(["deploy"]) == 0
    assert "not online" not in capsys.readouterr().err
    ctx.online.close()
    ctx.catalog.close()


def test_an_answer_without_features_says_so():
    found = {"age_s": None, "missing": 2, "stale": 0}
    answer = {"predictions": [{"id": "1", "value": "no", "decided_by": "model"}] * 2, "features": {"spend": found}}
    assert "features of spend: 2 missing of 2; kaizen features read spend KEY" in daily._answers(answer).splitlines()
    found["missing"] = 0
    assert "features" not in daily._answers(answer)


def test_sentences_of_a_result_stand_on_lines_of_their_own(monkeypatch):
    monkeypatch.setattr("click.style", lambda text, **_look: text)
    left = ["the source of the rows still holds them: take them out there", "backups, too"]
    assert output.render({"left": left, "parts": [1, 2]}) == f"left \n  {left[0]}\n  {left[1]}\nparts  1, 2"


def test_a_version_is_shown_in_a_few_lines_and_json_has_all_of_it(project, capsys):
    for name, first in (("one", 1), ("two", 3)):
        Path(f"{name}.csv").write_text(f"id,kind,at\n{first},a,2026-01-0{first}\n{first + 1},b,2026-01-0{first + 1}\n", encoding="utf-8")
        assert run(["data", "add", "orders", f"{name}.csv", "--key", "id"]) == 0
    said = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in said.splitlines()]
    assert "column kind missing distinct, at least holds" in lines
    assert "id integer 0 2 1 to 4" in lines  # the most that one addition had
    assert not {"profile", "contract", "becoming", "key_print"} & {line.split(" ")[0] for line in lines if line}
    assert run(["data", "versions", "orders"]) == 0
    assert [line.split()[:4] for line in capsys.readouterr().out.splitlines()[1:3]] == [["orders", "2", "1,", "2"], ["orders", "1", "1", "2"]]
    assert run(["data", "list"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:4] == ["orders", "id", "3", "main"]
    assert run(["data", "show", "orders", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["version"]["profile"]["id"]["max"] == 4


def test_every_noun_of_the_registry_has_a_group():
    assert set(operations.MODULES) == {*NOUNS, "loop"}


def test_help_lists_every_command_and_each_opens(capsys):
    from kaizenml.cli.application import DAILY, PARTS

    assert run(["--help"]) == 0
    listed = capsys.readouterr().out
    for name in (*DAILY, *PARTS, *NOUNS):
        assert f"\n  {name} " in listed
        assert run([name, "--help"]) == 0
        assert "--json" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says", "remedy"),
    [
        (["audt"], "did you mean 'audit'?", "kaizen audit"),
        (["audit", "lst"], "did you mean 'list'?", "kaizen audit list"),
        (["audit", "list", "--lmit", "3"], "--lmit", "kaizen audit list --help"),
        (["audit", "list", "--limit", "many"], "many", "kaizen audit list --help"),
        (["rollouts", "show"], "ENDPOINT", "kaizen rollouts show --help"),
        (["predict", "shop", "{not json"], "not JSON", "quote it"),
        (["predict"], "missing", "kaizen predict"),
        (["init", "shop"], "--data", "kaizen init --help"),
    ],
)
def test_a_wrong_call_is_met_with_exit_code_2_and_a_remedy(project, capsys, arguments, says, remedy):
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert says in err
    assert f"try: {remedy}" in err
    assert run([*arguments, "--json"]) == 2
    out, err = capsys.readouterr()
    document = json.loads(out)["error"]
    assert says in document["message"] or says in str(document)
    assert err == ""


def test_json_and_project_may_stand_anywhere(project, capsys, monkeypatch):
    monkeypatch.chdir("/")
    expected = None
    for arguments in (
        ["--json", "--project", str(project), "audit", "verify"],
        ["audit", "--json", "verify", "--project", str(project)],
        ["audit", "--project", str(project), "verify", "--json"],
    ):
        assert run(arguments) == 0
        found = json.loads(capsys.readouterr().out)
        assert found == (expected or found)
        expected = found
    assert expected["events"] == 0


def test_the_project_is_found_from_a_folder_inside_it(project, capsys, monkeypatch):
    (project / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(project / "deep" / "er")
    assert run(["audit", "settings", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0] == {"name": "project.name", "value": "shop", "source": "kaizen.toml"}


def test_status_of_a_project_without_endpoints_says_how_to_begin(project, capsys):
    assert run(["status"]) == 0
    assert "kaizen up" in capsys.readouterr().out
    assert run(["status", "--json", "--check"]) == 0
    assert json.loads(capsys.readouterr().out)["endpoints"] == []


@pytest.mark.parametrize("verb", ["promote", "rollback", "kill", "revive", "improve"])
def test_a_daily_verb_without_an_endpoint_says_how_to_get_one(project, capsys, verb):
    assert run([verb]) == 1
    err = capsys.readouterr().err
    assert "there is no endpoint yet" in err
    assert "try: kaizen up" in err


def test_a_folder_without_a_project_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["status"]) == 2
    assert "kaizen init" in capsys.readouterr().err
    assert not (tmp_path / ".kaizen").exists()


def test_an_unexpected_error_is_one_line_and_its_trace_is_kept(project, capsys, monkeypatch):
    monkeypatch.setenv("KAIZEN_PROJECT_CATALOG", "sqlite+nothing://x")  # SQLAlchemy does not know it
    assert run(["audit", "verify"]) == 1
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert len(err.splitlines()) == 2
    path = err.rpartition(" ")[2].strip()
    with open(path, encoding="utf-8") as trace:
        assert "Traceback" in trace.read()


def test_the_trace_of_an_unexpected_error_holds_no_token(project, capsys, monkeypatch):
    monkeypatch.setenv("KAIZEN_PROJECT_CATALOG", "sqlite+nothing://x")
    monkeypatch.setattr(sys, "argv", ["kaizen", "predict", "--token", "hunter2", "--token=hunter3", "shop", "{}"])
    assert run(["audit", "verify"]) == 1
    with open(capsys.readouterr().err.rpartition(" ")[2].strip(), encoding="utf-8") as trace:
        told = trace.read()
    assert "'--token', '(hidden)', '--token=(hidden)', 'shop'" in told
    assert "hunter" not in told


@pytest.mark.slow
@pytest.mark.parametrize("environ", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_output_without_a_terminal_or_with_no_color_has_no_escapes(project, environ):
    code = "from kaizenml.cli.application import run; print([run(line.split()) for line in ('--help', 'audit settings', 'nothing')])"
    said = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, env={**os.environ, **environ}, check=True)
    assert said.stdout.endswith("[0, 0, 2]\n")
    assert "\x1b" not in said.stdout + said.stderr


@pytest.mark.slow
def test_a_closed_pipe_is_no_traceback(project):
    command = f"{sys.executable} -m kaizenml.cli audit settings --json | true"
    done = subprocess.run(command, shell=True, cwd=project, capture_output=True, text=True, env={**os.environ}, check=False)
    assert "Traceback" not in done.stderr


def test_arguments_are_bound_by_the_registry():
    listing = operations.find("audit", "list")
    assert listing.bind({"limit": 3, "kind": None}) == {"limit": 3}
    assert listing.bind({"limit": "3", "newest_first": "false"}, strict=False) == {"limit": 3, "newest_first": False}
    with pytest.raises(UsageError, match="limit is '3'"):
        listing.bind({"limit": "3"})
    with pytest.raises(UsageError, match="rows is an object of 1; expected `array`") as caught:
        operations.find("features", "push").bind({"view": "spend", "rows": {"email": "ada@example.org"}})
    assert "ada" not in str(caught.value.document())  # rows tell of persons
    with pytest.raises(UsageError, match="did you mean 'limit'"):
        listing.bind({"limt": 3})
    with pytest.raises(UsageError, match="needs 'endpoint'"):
        operations.find("rollouts", "show").bind({})
    with pytest.raises(NotFound, match="did you mean 'rollouts'"):
        operations.find("rollout", "show")
    with pytest.raises(NotFound, match="did you mean 'promote'"):
        operations.find("rollouts", "promot")


def test_results_become_plain_values():
    import numpy as np

    class Thing(msgspec.Struct):
        share: float
        names: list[str]

    assert operations.to_builtins([Thing(0.5, ["a"]), np.float64(1.5), np.arange(2)]) == [{"share": 0.5, "names": ["a"]}, 1.5, [0, 1]]


def test_every_error_of_the_tree_prints_and_leaves_by_its_code(capsys):
    from kaizenml import errors
    from kaizenml.cli.face import print_error

    for kind in errors._all(KaizenError):
        print_error(kind("what", remedy="do"), json=False)
        assert capsys.readouterr().err == "error: what\n  try: do\n"


@pytest.mark.parametrize(
    ("live", "unwatched", "says"),
    [
        (None, 0, "no predictions yet"),
        (None, None, "no predictions yet"),
        (None, 1, "1 prediction, not looked at yet"),
        ({"answered": 0, "without_model": 0, "rows": 0}, None, "no predictions yet"),
        ({"answered": 0, "without_model": 3, "rows": 0}, None, "3 predictions, all without the model"),
        ({"answered": 2, "without_model": 3, "rows": 0}, None, "2 predictions, no outcomes yet"),
    ],
)
def test_status_counts_every_answer_that_was_given(live, unwatched, says):
    endpoint = {"endpoint": "shop", "state": "steady", "killed": None, "traffic": [], "shadows": [], "alerts": [], "loop": None}
    told = status.text({"project": "shop", "served": None, "endpoints": [{**endpoint, "live": live, "unwatched": unwatched}]})
    assert f"  live     {says}\n" in told


def test_a_disk_that_cannot_be_written_is_named_by_what_still_stands(tmp_path, monkeypatch, capsys):
    def failing(error: OSError) -> int:
        def fail(*_arguments: object, **_options: object) -> None:
            raise error

        monkeypatch.setattr("kaizenml.scaffold.project.make", fail)
        return run(["init", "shop", "--data", "a.csv", "--target", "b"])

    gone = str(tmp_path / ".shop-1x2y" / "data" / "a.csv")
    cases = {
        # a copy fails by its source in filename and its end in filename2
        OSError(errno.ENOSPC, "No space left on device", "/elsewhere/a.csv", None, gone): f"the disk is full: {tmp_path}\n  try: free some space",
        OSError(errno.ENOSPC, "No space left on device"): "the disk is full\n  try: free some space",
        OSError(errno.EROFS, "Read-only file system", gone): f"{tmp_path} can only be read\n  try: work in a folder that can be written",
        PermissionError(
            errno.EACCES, "Permission denied", gone
        ): f"{tmp_path} may not be used by this user\n  try: check its owner and rights: ls -ld {tmp_path}",
    }
    for error, says in cases.items():
        assert failing(error) == 1
        assert capsys.readouterr().err.startswith(f"error: {says}")


def test_a_catalog_that_is_damaged_or_cannot_be_opened_is_no_bug_report(project, capsys, monkeypatch):
    assert run(["audit", "list"]) == 0
    catalog = project / ".kaizen" / "catalog.db"
    catalog.write_bytes(b"no database at all, " * 500)
    for left in project.glob(".kaizen/catalog.db-*"):
        left.unlink()
    capsys.readouterr()
    assert run(["audit", "list"]) == 1
    assert capsys.readouterr().err.startswith("error: the catalog of this project is damaged\n  try: put a backup")
    catalog.unlink()
    catalog.mkdir()  # cannot be opened, whoever one is
    monkeypatch.setattr("os.access", lambda _path, _mode: False)
    assert run(["audit", "list"]) == 1
    assert capsys.readouterr().err.startswith(f"error: {project} can only be read; the catalog in it must be written\n  try: check its rights")


@pytest.mark.slow
@pytest.mark.parametrize(("also", "ends"), [("", True), ("import deltalake.fs", False)])
def test_an_interpreter_whose_end_arrows_threads_may_trip_over_is_left_without_it(also, ends):
    code = f"""
import atexit, sys
{also}
class Held:
    def __del__(self):
        print("the interpreter ended", flush=True)
held = Held()
atexit.register(print, "what was registered ran")
sys.argv = ["kaizen", "releases", "show"]
from kaizenml.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "try:" in done.stderr
    assert done.stdout.splitlines() == ["what was registered ran"] + ["the interpreter ended"] * ends


def test_text_is_cut_before_a_column_gives_way_to_the_width():
    rows = [{"column": "at", "holds": "2026-01-01 to 2026-12-31", "more": 7}]
    told = output.table(rows, width=26).splitlines()
    assert [click.unstyle(line) for line in told[:2]] == ["column  holds", "at      2026-01-01 to 202…"]
    assert "not shown for want of width: more;" in told[2]
    assert "holds" not in click.unstyle(output.table(rows, width=22).splitlines()[0])
