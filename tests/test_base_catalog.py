"""The catalog and the chain of events, on real databases and with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import sqlalchemy as sa

from kaizenml import audit, events, settings
from kaizenml.catalog import Catalog
from kaizenml.clock import SimulatedClock
from kaizenml.context import Context
from kaizenml.errors import Corrupt, InvalidSettings, StorageFull, Unavailable

WRITER = """
import sys
from kaizenml import events
from kaizenml.catalog import Catalog
catalog = Catalog(sys.argv[1])
print("ready", flush=True)
number = 0
while number < int(sys.argv[3]):
    number += 1
    with catalog.write() as connection:
        events.append(connection, at=float(number), actor=sys.argv[2], kind="test.wrote", subject=f"s{number % 3}", why="because", number=number)
    print(number, flush=True)
"""


@pytest.fixture(params=["sqlite", "postgres"])
def url(tmp_path, request):
    return f"sqlite:///{tmp_path / 'catalog.db'}" if request.param == "sqlite" else request.getfixturevalue("postgres")


def test_a_mark_stays_while_nobody_writes_and_tells_what_others_have_written(url, monkeypatch):
    one, two = Catalog(url), Catalog(url)
    one.create()
    before = one.mark()
    if not one.shared:
        assert one.mark() == before
    assert two.mark() != one.mark(), "those of two catalogs tell nothing of each other"
    with one.write() as connection:
        events.append(connection, at=1.0, actor="a", kind="test.wrote", subject="s")
    mine = one.mark()
    assert mine != before
    with two.write() as connection:
        events.append(connection, at=1.0, actor="a", kind="test.wrote", subject="s")
    if one.shared:
        later = time.monotonic() + 1.0
        monkeypatch.setattr(time, "monotonic", lambda: later)
    assert one.mark() != mine
    one.close()
    two.close()


def test_a_catalog_in_memory_has_marks_too():
    catalog = Catalog("sqlite://")
    catalog.create()
    before = catalog.mark()
    assert catalog.mark() == before
    with catalog.write() as connection:
        events.append(connection, at=1.0, actor="a", kind="test.wrote", subject="s")
    assert catalog.mark() != before
    catalog.close()


@pytest.fixture
def catalog(url):
    made = Catalog(url)
    made.create()
    yield made
    made.close()


def chain(catalog):
    with catalog.read() as connection:
        return events.verify(iter(connection.execute(sa.select(events.events_table).order_by(events.events_table.c.seq))))


def write(catalog, count=3):
    for number in range(count):
        with catalog.write() as connection:
            events.append(connection, at=float(number), actor="me", kind="test.wrote", subject="s", why="é\n", number=number, share=0.1)


def test_an_act_and_its_event_stand_or_fall_together(catalog):
    with pytest.raises(RuntimeError), catalog.write() as connection:
        events.append(connection, at=0.0, actor="me", kind="test.wrote", subject="s")
        raise RuntimeError
    write(catalog, 1)
    assert chain(catalog)[0] == 1


def test_events_come_back_as_they_were_written(catalog):
    with catalog.write() as connection:
        written = events.append(connection, at=1.25, actor="me", kind="rollouts.promoted", subject="shop", why="better", loss=0.1 + 0.2, names=["é"])
    with catalog.read() as connection:
        assert events.read(connection) == [written]
        assert events.read(connection, kind="rollouts.") == [written]
        assert events.read(connection, kind="rollouts") == []
        assert events.read(connection, subject="shop", after=1) == []


def test_events_are_read_in_order_and_in_pages(catalog):
    write(catalog, 10)
    with catalog.read() as connection:
        assert [event.seq for event in events.read(connection, after=3, limit=2)] == [4, 5]
        assert [event.seq for event in events.read(connection, newest_first=True, limit=2)] == [10, 9]


@pytest.mark.parametrize("tamper", ["UPDATE events SET why='x'", "UPDATE events SET at=9", "DELETE FROM events", "UPDATE events SET data='{}'"])
def test_a_changed_or_missing_event_is_found(catalog, tamper):
    write(catalog, 5)
    assert chain(catalog)[2] is None
    with catalog.write() as connection:
        connection.exec_driver_sql(f"{tamper} WHERE seq = 2")
    count, _head, wrong = chain(catalog)
    assert count == 1
    assert "event 2" in wrong


def test_audit_verifies_and_knows_a_noted_head(catalog, tmp_path):
    project = settings.Settings(project=settings.ProjectSettings(name="shop"))
    ctx = Context(root=tmp_path, settings=project, catalog=catalog, clock=SimulatedClock(tmp_path / "clock"), online=None, actor="me")
    write(catalog, 3)
    noted = audit.verify(ctx)
    write(catalog, 2)
    assert audit.verify(ctx, head=noted.head).events == 5
    with pytest.raises(Corrupt, match="noted head"):
        audit.verify(ctx, head="0" * 64)
    with catalog.write() as connection:
        connection.exec_driver_sql("DELETE FROM events WHERE seq = 5")  # the newest events cut off: only a noted head tells
    assert audit.verify(ctx).events == 4
    with catalog.write() as connection:
        connection.exec_driver_sql("UPDATE events SET actor = 'you' WHERE seq = 1")
    with pytest.raises(Corrupt, match="event 1 was changed") as caught:
        audit.verify(ctx)
    assert caught.value.values["whole"] == 0


@pytest.mark.slow
def test_writers_in_several_processes_make_one_whole_chain(catalog, url):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, url, f"w{i}", "40"], stdout=subprocess.DEVNULL) for i in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    count, _head, wrong = chain(catalog)
    assert (count, wrong) == (120, None)


@pytest.mark.slow
def test_killed_writers_leave_every_reported_event_and_no_half(catalog, url):
    said = 0
    for pause in (0.02, 0.05, 0.09):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, url, "w", "100000"], stdout=subprocess.PIPE, text=True)
        assert writer.stdout.readline() == "ready\n"
        time.sleep(pause)
        os.kill(writer.pid, signal.SIGKILL)
        said += writer.communicate()[0].count("\n")
    count, _head, wrong = chain(catalog)
    assert wrong is None
    assert said <= count <= said + 3  # a writer may die between its commit and its word


def test_readers_see_one_moment_while_others_write(catalog):
    write(catalog, 1)
    with catalog.read() as connection:
        first = len(events.read(connection))
        thread = threading.Thread(target=write, args=(catalog, 2))
        thread.start()
        thread.join()
        assert len(events.read(connection)) == first
    assert chain(catalog)[0] == 3


def test_a_database_that_cannot_be_opened_is_told(tmp_path):
    with pytest.raises(Unavailable, match="unable to open"), Catalog(f"sqlite:///{tmp_path / 'no' / 'where' / 'c.db'}").read():
        pass


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_full_disk_is_told_and_nothing_is_half_written(catalog):
    write(catalog, 1)
    with pytest.raises(StorageFull), catalog.write() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")  # SQLite's own way to be full
        events.append(connection, at=0.0, actor="me", kind="test.wrote", subject="s", blob="x" * 1_000_000)
    assert chain(catalog)[0] == 1


def test_a_database_server_that_is_away_is_told_without_the_password():
    catalog = Catalog("postgresql://me:secret@127.0.0.1:9/shop")
    with pytest.raises(Unavailable, match="does not answer") as caught, catalog.read():
        pass
    assert "secret" not in f"{caught.value} {caught.value.values}"
    assert "me:***@127.0.0.1" in str(caught.value.values)


def test_a_server_that_ends_a_session_is_told_and_the_next_one_works(postgres):
    catalog = Catalog(postgres)
    catalog.create()
    with pytest.raises(Unavailable), catalog.write() as connection:
        events.append(connection, at=0.0, actor="me", kind="test.wrote", subject="s")
        own = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
        other = Catalog(postgres)
        with other.read() as connected:
            connected.exec_driver_sql(f"SELECT pg_terminate_backend({own})")
        other.close()
        events.append(connection, at=1.0, actor="me", kind="test.wrote", subject="s")
    write(catalog, 2)
    assert chain(catalog) == (2, chain(catalog)[1], None)
    catalog.close()


def test_a_password_is_taken_from_the_environment_and_kept_out_of_what_is_shown(postgres, monkeypatch):
    monkeypatch.setenv("SHOP_PASSWORD", "p@ss/word")
    catalog = Catalog(postgres.replace("kaizen@", "kaizen:${SHOP_PASSWORD}@"))
    assert catalog.engine.url.password == "p@ss/word"
    assert "p@ss" not in catalog.url
    catalog.create()
    monkeypatch.delenv("SHOP_PASSWORD")
    with pytest.raises(InvalidSettings, match="SHOP_PASSWORD"):
        Catalog(catalog.url)
    catalog.close()


@pytest.mark.parametrize("wrong", ["mysql://me:secret@db/shop", "not a url secret"])
def test_another_kind_of_database_is_refused_without_showing_it(wrong):
    with pytest.raises(InvalidSettings) as caught:
        Catalog(wrong)
    assert "secret" not in f"{caught.value} {caught.value.values}"


@pytest.mark.parametrize("url", ["postgres"], indirect=True)
def test_a_name_is_held_by_one_process_of_all_machines_and_let_go_with_it(url):
    here, there = Catalog(url), Catalog(url)
    with here.hold("data/orders") as mine, there.hold("data/orders") as theirs, there.hold("data/other") as other:
        assert (mine, theirs, other) == (True, False, True)
    with there.hold("data/orders") as theirs:
        assert theirs
    code = "import sys, time; from kaizenml.catalog import Catalog\nwith Catalog(sys.argv[1]).hold('x') as it: print(it, flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code, url], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "True\n"
    with here.hold("x") as mine:
        assert not mine
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    with here.hold("x", wait_s=10) as mine:
        assert mine
    for catalog in (here, there):
        catalog.close()


def test_a_password_is_not_shown(tmp_path):
    ctx = Context(
        root=tmp_path, settings=settings.Settings(project=settings.ProjectSettings(name="shop", catalog="postgresql://me:secret@db/kaizen")), catalog=Catalog("sqlite://"),
        clock=SimulatedClock(tmp_path / "clock"), online=None, actor="me", sources={"project.catalog": "KAIZEN_PROJECT_CATALOG"},
    )  # fmt: skip
    shown = {setting.name: setting for setting in audit.settings(ctx)}
    assert shown["project.catalog"].value == "postgresql://me:***@db/kaizen"
    assert shown["project.catalog"].source == "KAIZEN_PROJECT_CATALOG"
    assert shown["serve.port"].source == "default"
