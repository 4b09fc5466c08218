"""What all tests share: one thread for each process, because the tests' processes are the parallelism; and new catalogs that are quick to make."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import settings

from kaizenml import migrations
from kaizenml.catalog import Catalog

# OpenMP's threads wait by spinning: two processes of two threads on two cores took many times as long as four processes of
# one. Child processes inherit it. Said before anything loads the library.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

# how long an example takes says more about what else the machine does than about the code
settings.register_profile("calm", deadline=None)
settings.load_profile("calm")

pytest_plugins = ["engines"]
LONGEST = ("test_bench.py", "test_examples.py", "test_schemathesis.py", "test_spark.py", "test_three_commands.py", "test_up.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files whose tests take longest: at the end one process would be busy with them while the others have nothing to do."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session", autouse=True)
def new_catalogs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give a SQLite file that is not there yet the bytes of one that the revisions made: running them again for each project was a fifth of all.

    What is copied is looked at and brought to the newest revision as ever.
    """
    upgrade, made = migrations.upgrade, tmp_path_factory.mktemp("catalog") / "catalog.db"

    def copied_first(engine: sa.Engine) -> None:
        place = Path(engine.url.database or "") if engine.dialect.name == "sqlite" else Path()
        if place.name not in ("", ":memory:") and place.parent.is_dir() and not place.exists():
            if not made.exists():
                first = Catalog(f"sqlite:///{made}")
                upgrade(first.engine)
                first.close()
            aside = place.with_name(f".{place.name}.{os.getpid()}.{threading.get_ident()}")
            shutil.copyfile(made, aside)
            with suppress(FileExistsError):
                os.link(aside, place)
            aside.unlink()
        upgrade(engine)

    migrations.upgrade = copied_first
    yield
    migrations.upgrade = upgrade
