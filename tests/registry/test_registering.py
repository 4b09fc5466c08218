from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import msgspec
import pytest

from kaizenml import events
from kaizenml.context import Context
from kaizenml.errors import Conflict, Corrupt, NotFound, StorageFull, UsageError
from kaizenml.features.encoding.encoder import EncodedColumn, Encoder
from kaizenml.features.signature import Field, Signature
from kaizenml.project import open_project
from kaizenml.registry import files, runtimes
from kaizenml.registry import operations as registry
from kaizenml.training import model_file
from kaizenml.training import store as runs
from kaizenml.training.model_file import Member, ModelSpec, Naive
from kaizenml.training.run import Run

LINEAR = {
    "width": 1, "numeric": [0], "fill": [0.0], "mean": [0.0], "scale": [1.0], "clip": 5.0, "missing": [], "onehot": [], "coefficients": [[1.0]],
    "intercept": [0.0],
}  # fmt: skip


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    (tmp_path / "kaizen.toml").write_text('[project]\nname = "shop"\n')
    ctx = open_project(tmp_path, actor="tester")
    trained(ctx, "r1")
    return ctx


def trained(ctx: Context, run: str, state: str = "done") -> None:
    """Leave behind what a training leaves: a model folder and its run."""
    folder = ctx.state / "runs" / run / "model"
    folder.mkdir(parents=True)
    (folder / "linear.json").write_bytes(msgspec.json.encode(LINEAR))
    spec = ModelSpec(
        signature=Signature(task="binary", target="returned", classes=[False, True], fields=[Field(name="price", kind="number")]),
        encoder=Encoder(columns=[EncodedColumn(name="price", kind="number")]),
        members=[Member(name="linear", kind="linear", file="linear.json", weight=1.0)],
        naive=Naive(value=False, probabilities=[0.9, 0.1]),
    )
    model_file.write(folder, spec)
    with ctx.catalog.write() as connection:
        runs.insert(
            connection,
            Run(
                id=run, task="binary", state=state, dataset="orders@1", views=[], target="returned", parameters={}, board=[], metric="log_loss",
                leaks=[], split={}, code=None, seconds=1.0, started_at=0.0, folder=f"runs/{run}/model",
            ),
        )  # fmt: skip


def test_a_run_becomes_a_numbered_version_that_answers_without_the_run(ctx: Context) -> None:
    model = registry.register(ctx, "r1")
    assert (model.ref, model.run, model.folder) == ("shop@1", "r1", "models/shop/1")
    shutil.rmtree(ctx.state / "runs")
    assert registry.verify(ctx, "shop").hash == model.hash
    loaded = runtimes.load(registry.folder_of(ctx, model))
    assert loaded.answer([{"price": 0.0}])[0].probabilities == [0.5, 0.5]
    loaded.close()


def test_registering_a_run_again_returns_the_version_it_already_is(ctx: Context) -> None:
    assert registry.register(ctx, "r1") == registry.register(ctx, "r1")
    assert registry.register(ctx, "r1", name="other").ref == "other@1"
    trained(ctx, "r2")
    assert registry.register(ctx, "r2").ref == "shop@2"
    assert registry.show(ctx, "shop").ref == "shop@2"
    assert [each.ref for each in registry.list(ctx)] == ["other@1", "shop@1", "shop@2"]
    with ctx.catalog.read() as connection:
        assert len(events.read(connection, kind="registry.registered")) == 3


def test_what_cannot_be_registered_says_why(ctx: Context) -> None:
    trained(ctx, "r3", state="failed")
    with pytest.raises(Conflict, match="run r3 failed"):
        registry.register(ctx, "r3")
    with pytest.raises(NotFound, match="did you mean 'r1'"):
        registry.register(ctx, "r11")
    with pytest.raises(UsageError, match="is not a name"):
        registry.register(ctx, "r1", name="../shop")
    (ctx.state / "runs/r1/model/model.json").write_text("{}")
    with pytest.raises(Corrupt):
        registry.register(ctx, "r1")
    assert registry.list(ctx) == []
    with pytest.raises(NotFound, match="there is no model 'shop'; there is none yet"):
        registry.show(ctx, "shop")


@pytest.mark.parametrize("damage", ["changed", "added", "removed"])
def test_a_model_whose_files_changed_is_found_out(ctx: Context, damage: str) -> None:
    model = registry.register(ctx, "r1")
    path = ctx.state / model.folder / "linear.json"
    if damage == "changed":
        path.write_bytes(path.read_bytes() + b" ")
    elif damage == "added":
        path.with_name("more.json").write_bytes(b"{}")
    else:
        path.unlink()
    with pytest.raises(Corrupt, match="differ from what was registered"):
        registry.verify(ctx, model.ref)


def test_a_full_disk_is_told_and_leaves_nothing_behind(tmp_path: Path) -> None:
    def fill() -> None:
        with files.aside(tmp_path / "models") as folder:
            (folder / "half").write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StorageFull, match="nothing was half-written"):
        fill()
    assert list((tmp_path / "models").iterdir()) == []


def test_a_disk_that_fills_while_a_folder_is_copied_is_told_too(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "trees.txt").write_text("tree")

    def full(_from: str, to: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), to)

    with pytest.raises(StorageFull, match="nothing was half-written"), files.aside(tmp_path / "models") as folder:
        shutil.copytree(tmp_path / "model", folder, copy_function=full, dirs_exist_ok=True)
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.slow
def test_processes_that_register_one_run_at_once_agree_on_one_version(ctx: Context) -> None:
    script = textwrap.dedent(
        """
        import sys
        from kaizenml.project import open_project
        from kaizenml.registry import operations as registry
        print(registry.register(open_project(sys.argv[1]), "r1").ref)
        """
    )
    workers = [subprocess.Popen([sys.executable, "-c", script, str(ctx.root)], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [worker.communicate()[0].strip() for worker in workers] == ["shop@1"] * 3
    assert sorted(path.name for path in (ctx.state / "models/shop").iterdir()) == ["1"]


@pytest.mark.slow
def test_a_process_killed_before_its_commit_leaves_nothing_that_counts(ctx: Context) -> None:
    script = textwrap.dedent(
        """
        import os, signal, sys
        from kaizenml.project import open_project
        from kaizenml.registry import files, operations as registry
        settle = files.settle
        def settle_and_die(filled, final):
            settle(filled, final)
            os.kill(os.getpid(), signal.SIGKILL)  # the folder is in place, the transaction is not
        def die(filled, final):
            os.kill(os.getpid(), signal.SIGKILL)
        files.settle = settle_and_die if sys.argv[2] == "after" else die
        registry.register(open_project(sys.argv[1]), "r1")
        """
    )
    for moment in ("before", "after"):
        done = subprocess.run([sys.executable, "-c", script, str(ctx.root), moment], check=False)
        assert done.returncode == -signal.SIGKILL
        assert registry.list(ctx) == []
    trained(ctx, "r2")
    assert registry.register(ctx, "r2").ref == "shop@1"  # takes the place of the orphan
    assert registry.verify(ctx, "shop@1").run == "r2"
    assert sorted(path.name for path in (ctx.state / "models/shop").iterdir()) == ["1"]
