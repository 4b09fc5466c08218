from __future__ import annotations

import datetime as dt
import math
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa
from view_settings import TOML

from kaizenml import events
from kaizenml.clock import SimulatedClock
from kaizenml.context import Context
from kaizenml.data import exclusions, tables
from kaizenml.data import operations as data
from kaizenml.errors import InvalidInput, InvalidSettings, NotFound
from kaizenml.features import operations, store
from kaizenml.features.encoding.encoder import compile_row
from kaizenml.features.encoding.vectorised import encode, learn
from kaizenml.features.offline import frame
from kaizenml.features.offline.fields import fields_of
from kaizenml.features.online import checking
from kaizenml.features.online.buffer import buffer_of
from kaizenml.features.online.reading import look_up
from kaizenml.features.view import Aggregate, FeatureView


def moment(hour: float) -> dt.datetime:
    return dt.datetime(2013, 1, 1, tzinfo=dt.UTC) + dt.timedelta(hours=hour)


def weather(hour: float, **values: Any) -> dict[str, Any]:
    return {"origin": "JFK", "at": moment(hour), "temp": hour, "sky": "clear", "gusts": False, "seen": 10} | values


def sent(hour: float, **values: Any) -> dict[str, Any]:
    row = weather(hour, **values)
    return row | {"at": row["at"].isoformat()}


@pytest.fixture
def filled(ctx: Context) -> Context:
    rows = [weather(h, origin=o, temp=h + t) for o, t in (("JFK", 0.0), ("LGA", 0.25)) for h in range(12)]
    data.add(ctx, "weather", table=pa.Table.from_pylist(rows).append_column("humidity", pa.array([0.5] * len(rows))))
    data.add(ctx, "planes", table=pa.table({"tailnum": ["N1", "N2", "N1"], "seats": [100, 200, 101]}))
    flights = [
        {"origin": "LGA", "tailnum": "N2", "time_hour": moment(5), "late": True},
        {"origin": "JFK", "tailnum": "N1", "time_hour": moment(3), "late": False},
        {"origin": "EWR", "tailnum": None, "time_hour": moment(4), "late": None},
        {"origin": "JFK", "tailnum": "N9", "time_hour": moment(20), "late": False},
    ]
    data.add(ctx, "flights", table=pa.Table.from_pylist(flights))
    return ctx


def test_the_training_frame_holds_what_was_known_when_the_question_was_asked(filled: Context) -> None:
    table = frame.training_frame(filled, "flights")
    assert table["time_hour"].to_pylist() == [moment(3), moment(4), moment(5), moment(20)]
    assert table["weather_temp"].to_pylist() == [2.0, None, 4.25, None]  # an hour before; EWR unknown; 20 h: older than the ttl
    assert table["planes_seats"].to_pylist() == [101, None, 200, None]
    assert table["late"].to_pylist() == [False, None, True, False]
    assert frame.training_frame(filled, "flights@1", views=[]).column_names == ["origin", "tailnum", "time_hour", "late"]


def test_without_a_task_time_the_newest_values_are_taken(filled: Context, reopen: Callable[..., Context]) -> None:
    timeless = reopen(TOML.replace('time = "time_hour"\nasked_before = "1h"\n', ""))
    assert frame.training_frame(timeless, "flights")["weather_temp"].to_pylist() == [11.25, 11.0, None, 11.0]


def test_a_definition_is_recorded_once_when_it_is_first_used(filled: Context) -> None:
    for _ in range(2):
        frame.training_frame(filled, "flights")
    with filled.catalog.read() as connection:
        found = events.read(connection, kind="features.defined")
        assert [event.subject for event in found] == [view.ref for view in frame.views(filled)]
        assert [view for view, _ in store.versions(connection, "weather")] == [frame.views(filled)[0]]


def test_another_definition_is_another_version(filled: Context, reopen: Callable[..., Context]) -> None:
    changed = reopen(TOML.replace('ttl = "3h"', 'ttl = "4h"'))
    assert frame.views(changed)[0].version != frame.views(filled)[0].version
    assert frame.views(changed)[1] == frame.views(filled)[1]


def test_the_versions_of_definitions_stay_what_they_were_before_views_could_do_more() -> None:
    weather = FeatureView(name="weather", dataset="weather", entity="origin", columns=["temp", "sky"], at="at", ttl_s=10800.0)
    planes = FeatureView(name="planes", dataset="planes", entity="tailnum", columns=["seats"])
    assert (weather.version, planes.version) == ("fcce7fec3683", "1c2063080ce5")


def test_whatever_changes_values_changes_the_version_and_what_is_merely_said_does_not() -> None:
    plain = FeatureView(name="v", dataset="d", entity="k", columns=["x"], at="t")
    told = msgspec.structs.replace(plain, description="of customers", owner="ann", tags=["money"])
    assert told.version == plain.version
    assert told.version is told.version  # hashed once: a push asks for it several times
    total = Aggregate(name="x_1d", function="sum", column="x", last_s=86400.0)
    changes: list[dict[str, Any]] = [
        {"entity": ["k", "l"]}, {"aggregates": [total]}, {"aggregates": [msgspec.structs.replace(total, every_s=60.0)]},
        {"aggregates": [msgspec.structs.replace(total, n=5)]}, {"created": "c"}, {"sql": "select 1"}, {"plain": True},
    ]  # fmt: skip
    versions = [msgspec.structs.replace(plain, **change).version for change in changes]
    assert len({plain.version, *versions}) == len(changes) + 1


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('entity = "origin"', 'entity = "orgin"', "did you mean 'origin'"),
        ('"temp", ', '"tmp", ', "weather has no column 'tmp'; did you mean 'temp'"),
        ('at = "at"', 'at = "sky"', "holds category, not times"),
        ('columns = ["seats"]', 'columns = ["seats"]\nttl = "1h"', "no time by which its values could grow old"),
        ('time = "time_hour"', 'time = "hour"', "task.time: flights has no column 'hour'"),
    ],
)
def test_a_wrong_definition_is_explained(filled: Context, reopen: Callable[..., Context], old: str, new: str, said: str) -> None:
    with pytest.raises(InvalidSettings, match=said) as caught:
        frame.training_frame(reopen(TOML.replace(old, new)), "flights")
    assert caught.value.remedy


def test_a_feature_may_not_take_the_name_of_a_column(filled: Context) -> None:
    data.add(filled, "other", table=pa.table({"origin": ["JFK"], "tailnum": ["N1"], "time_hour": [moment(3)], "weather_temp": [1.0]}))
    with pytest.raises(InvalidSettings, match="'weather_temp' of view 'weather' has the name of a column"):
        frame.training_frame(filled, "other")


def test_fields_are_described_as_they_were_seen(filled: Context) -> None:
    views = frame.views(filled)
    table = frame.training_frame(filled, "flights")
    fields = {f.name: f for f in fields_of(table, target="late", ignore=["tailnum"], views=views, kinds=frame.kinds_of(filled, "flights"))}
    assert list(fields) == ["origin", "time_hour", "weather_temp", "weather_sky", "weather_gusts", "weather_seen", "planes_seats"]
    assert (fields["weather_temp"].view, fields["origin"].view, fields["planes_seats"].kind) == ("weather", None, "integer")
    assert (fields["planes_seats"].minimum, fields["planes_seats"].maximum, fields["planes_seats"].nullable) == (101.0, 200.0, True)
    assert fields["origin"].examples == ["JFK", "EWR", "LGA"]
    assert (fields["time_hour"].kind, fields["time_hour"].minimum) == ("timestamp", moment(3).timestamp())
    assert fields["time_hour"].examples[0] == "2013-01-01T03:00:00Z"
    msgspec.json.encode([*fields.values()])


def test_text_is_an_input_only_with_few_distinct_values() -> None:
    table = pa.table({"size": ["M", "L"] * 30, "note": [f"note {i}" for i in range(60)], "y": [1, 0] * 30, "nothing": pa.nulls(60)})
    fields = fields_of(table, target="y", kinds={"size": "text", "note": "text"})
    assert [(field.name, field.kind) for field in fields] == [("size", "category")]


def test_a_pushed_row_is_online_at_once_and_in_the_dataset_after_a_flush(filled: Context) -> None:
    pushed = operations.push(filled, "weather", [sent(12.0), sent(12.0, origin="LGA", temp=None)])
    assert (pushed.rows, pushed.kept, pushed.late) == (2, 2, 0)
    kept = operations.get(filled, "weather", "JFK")
    assert kept.values == {"temp": 12.0, "sky": "clear", "gusts": False, "seen": 10}
    assert (kept.at, kept.age_s, kept.fresh) == (moment(12).timestamp(), 0.0, True)
    assert operations.show(filled, "weather").waiting == 2
    version = operations.flush(filled, "weather")
    assert version is not None
    assert (version.number, version.rows, version.quarantined) == (2, 26, 0)
    assert operations.flush(filled, "weather") is None
    state = operations.show(filled, "weather")
    assert (state.waiting, state.dataset_version) == (0, 2)
    assert tables.read(filled, "weather", ["origin", "temp", "at"]).slice(24).to_pylist() == [
        {"origin": "JFK", "temp": 12.0, "at": moment(12)},
        {"origin": "LGA", "temp": None, "at": moment(12)},
    ]


def test_late_rows_change_nothing_online_but_reach_the_dataset(filled: Context) -> None:
    operations.push(filled, "weather", [sent(12.0)])
    assert operations.push(filled, "weather", [sent(11.5, temp=-1.0)]).late == 1
    assert operations.get(filled, "weather", "JFK").values["temp"] == 12.0
    operations.flush(filled, "weather")
    data.add(filled, "flights", table=pa.table({"origin": ["JFK"], "tailnum": ["N1"], "time_hour": [moment(12.75)], "late": [True]}))
    assert frame.training_frame(filled, "flights")["weather_temp"].to_pylist()[-2] == -1.0


def test_a_push_without_offline_stays_online_only(filled: Context) -> None:
    operations.push(filled, "weather", [sent(12.0)], offline=False)
    assert operations.flush(filled, "weather") is None
    assert operations.get(filled, "weather", "JFK").values["temp"] == 12.0


def test_a_view_may_be_pushed_to_before_its_dataset_exists(ctx: Context) -> None:
    operations.push(ctx, "weather", [sent(h) for h in range(3)])
    version = operations.flush(ctx, "weather")
    assert version is not None
    assert (version.ref, version.rows) == ("weather@1", 3)
    assert version.columns["at"] == "timestamp"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (sent(1.0, temp="hot"), r"rows\[1\].temp: 'hot' is not a number"),
        (sent(1.0, temp=math.inf), "inf is not a number"),
        (sent(1.0, temp=True), "True is not a number"),
        (sent(1.0, sky=3), "3 is not text"),
        (sent(1.0, gusts="no"), "'no' is not true or false"),
        (sent(1.0, seen=1.5), "1.5 is not a whole number"),
        (sent(1.0, seen=2**63), "is not a whole number within 64 bits"),
        (sent(1.0, origin=None), "origin: null is not text"),
        (sent(1.0) | {"at": None}, "at: null is not a time"),
        (sent(1.0) | {"at": "yesterday"}, "at: 'yesterday' is not a time"),
        ({"origin": "JFK"}, r"rows\[1\].at is absent|rows\[1\].temp is absent"),
        (sent(1.0, tmp=1.0), "tmp is no column of the view 'weather'; did you mean 'temp'"),
        ("JFK", "is not an object"),
    ],
)
def test_a_wrong_push_is_explained_and_takes_nothing(filled: Context, row: Any, said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as caught:
        operations.push(filled, "weather", [sent(13.0), row])
    msgspec.json.encode(caught.value.document())
    assert caught.value.remedy
    assert operations.show(filled, "weather").waiting == 0
    with pytest.raises(NotFound):
        operations.get(filled, "weather", "JFK")


def test_an_unknown_view_is_answered_with_the_nearest(filled: Context) -> None:
    with pytest.raises(NotFound, match="did you mean 'weather'"):
        operations.push(filled, "wether", [])


def test_materialize_fills_the_online_store_with_the_newest_rows(filled: Context) -> None:
    done = operations.materialize(filled, "weather")
    assert (done.dataset, done.entities, done.kept) == ("weather@1", 2, 2)
    assert operations.get(filled, "weather", "LGA").values["temp"] == 11.25
    assert operations.materialize(filled, "weather").entities == 0
    assert operations.materialize(filled, "weather", everything=True).entities == 2
    assert operations.materialize(filled, "planes").kept == 2
    kept = operations.get(filled, "planes", "N1")
    assert (kept.values, kept.at, kept.age_s, kept.fresh) == ({"seats": 101}, None, None, True)
    assert [(state.view.name, state.materialized) for state in operations.list(filled)] == [("weather", 1), ("planes", 1)]


def test_materialize_keeps_what_is_newer_online_and_takes_what_was_pushed(filled: Context) -> None:
    operations.push(filled, "weather", [sent(30.0)])
    operations.push(filled, "planes", [{"tailnum": "N1", "seats": 102}])
    assert operations.materialize(filled, "weather").dataset == "weather@2"
    assert operations.get(filled, "weather", "JFK").values["temp"] == 30.0
    operations.materialize(filled, "planes")
    assert operations.get(filled, "planes", "N1").values == {"seats": 102}


def test_an_entity_that_is_not_there_names_the_way(filled: Context) -> None:
    with pytest.raises(NotFound, match="holds nothing for 'ZZZ'") as caught:
        operations.get(filled, "weather", "ZZZ")
    assert "materialize weather" in caught.value.remedy


def test_old_values_are_shown_as_no_longer_counted(filled: Context, clock: SimulatedClock) -> None:
    operations.materialize(filled, "weather")
    assert operations.get(filled, "weather", "JFK").fresh
    clock.advance(dt.timedelta(hours=5))
    kept = operations.get(filled, "weather", "JFK")
    assert (kept.age_s, kept.fresh) == (6 * 3600.0, False)


def test_a_request_finds_online_what_training_found_in_the_datasets(filled: Context) -> None:
    views = frame.views(filled)
    uses = frame.uses(views)
    for view in views:
        operations.materialize(filled, view.name)
    rows = [{"origin": o, "tailnum": t, "time_hour": moment(13)} for o, t in (("JFK", "N1"), ("LGA", None), ("EWR", "N2"), (None, "N7"))]
    data.add(filled, "asked", table=pa.Table.from_pylist(rows))
    table = frame.training_frame(filled, "asked", views=views)
    fields = fields_of(frame.training_frame(filled, "flights"), target="late", views=views, kinds=frame.kinds_of(filled, "flights"))
    encoder = learn(frame.training_frame(filled, "flights"), fields)
    requests = msgspec.json.decode(msgspec.json.encode(rows))
    found = look_up(filled.online, uses, requests, moment(12).timestamp())  # asked an hour before
    compiled = compile_row(encoder)
    served = np.array([compiled(row | features) for row, features in zip(requests, found, strict=True)], np.float32)
    assert served.tobytes() == encode(encoder, table).tobytes()
    assert not np.isnan(served[0]).any()


def test_the_request_wins_over_the_online_store(filled: Context) -> None:
    operations.materialize(filled, "weather")
    uses = frame.uses(frame.views(filled)[:1])
    found = look_up(filled.online, uses, [{"origin": "JFK", "weather_temp": -5.0}], moment(12).timestamp())
    assert found == [{"weather_sky": "clear", "weather_gusts": False, "weather_seen": 10}]


def test_values_past_their_time_to_live_are_missing_at_request_time(filled: Context) -> None:
    operations.materialize(filled, "weather")
    uses = frame.uses(frame.views(filled)[:1])
    inside, outside = moment(14).timestamp(), moment(14).timestamp() + 1
    assert look_up(filled.online, uses, [{"origin": "JFK"}], inside)[0]["weather_temp"] == 11.0
    assert look_up(filled.online, uses, [{"origin": "JFK"}], outside)[0]["weather_temp"] is None


def test_a_request_without_the_entity_is_refused_unless_it_brings_the_features(filled: Context) -> None:
    uses = frame.uses(frame.views(filled)[1:])
    with pytest.raises(InvalidInput, match=r"inputs\[1\].tailnum is absent"):
        look_up(filled.online, uses, [{"tailnum": None}, {}], 0.0)
    assert look_up(filled.online, uses, [{"planes_seats": 3}], 0.0) == [{}]


def test_a_push_asks_the_catalog_nothing_and_makes_no_version_however_many_come(filled: Context) -> None:
    operations.push(filled, "weather", [sent(12.0, origin=origin) for origin in ("JFK", "LGA", "EWR")])  # the first one learns the view
    asked: list[str] = []
    sa.event.listen(filled.catalog.engine, "before_cursor_execute", lambda *call: asked.append(call[2]))
    for minute in range(1, 300):
        pushed = operations.push(filled, "weather", [sent(12 + minute / 60, origin=origin) for origin in ("JFK", "LGA", "EWR")])
        assert (pushed.rows, pushed.kept) == (3, 3)
    assert asked == []
    assert operations.get(filled, "weather", "EWR").at == moment(12 + 299 / 60).timestamp()
    assert tables.version(filled, "weather").number == 1
    assert operations.show(filled, "weather").waiting == 900


def test_pushes_of_many_threads_all_arrive(filled: Context) -> None:
    def work(name: int) -> None:
        for i in range(20):
            operations.push(filled, "weather", [sent(100 + i + name / 10, temp=float(name * 1000 + i))])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    operations.flush(filled, "weather")
    temps = tables.read(filled, "weather", ["temp"])["temp"].to_pylist()[24:]
    assert sorted(temps) == sorted(float(n * 1000 + i) for n in range(4) for i in range(20))


def test_a_batch_that_was_sealed_before_a_crash_is_added_once(filled: Context) -> None:
    ref = frame.views(filled)[0].ref
    operations.push(filled, "weather", [sent(12.0)])
    batch = buffer_of(filled.state).seal(ref)  # a flush that died here ...
    assert batch is not None
    operations.push(filled, "weather", [sent(13.0)])
    version = operations.flush(filled, "weather")
    assert version is not None
    assert version.rows == 26  # ... loses nothing, and what came since is in as well

    operations.push(filled, "weather", [sent(14.0)])
    again = buffer_of(filled.state).seal(ref)
    assert again is not None
    table = checking.checker(filled, frame.views(filled)[0]).table(again.rows)
    made = data.add(filled, "weather", table=table, partial=True, once=again.token)  # ... or here, after the dataset took it
    flushed = operations.flush(filled, "weather")
    assert flushed is not None
    assert (flushed.number, flushed.rows) == (made.number, 27)


STORM = """
    import datetime as dt, os, random, signal, sys, time, traceback
    import deltalake, pyarrow.dataset
    from kaizenml.features import operations
    from kaizenml.project import open_project

    def push(told, first):
        ctx = open_project(sys.argv[1], actor="pusher")
        os.write(told, b"ready ")
        for i in range(first, 10**9):
            at = dt.datetime(2014, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=i)
            operations.push(ctx, "weather", [{"origin": "JFK", "at": at, "temp": float(i), "sky": None, "gusts": None, "seen": i}])
            os.write(told, b"%d " % i)

    def flush(told, first):
        ctx = open_project(sys.argv[1], actor="flusher")
        os.write(told, b"ready ")
        while True:
            operations.flush(ctx, "weather")

    def start(work, first):  # forked from a parent that has imported everything and opened nothing
        hear, told = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                work(told, first)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        os.close(told)
        assert os.read(hear, 6) == b"ready "
        return child, hear

    rng, answered = random.Random(3), -1
    for _ in range(int(sys.argv[2])):
        children = [start(push, answered + 1), start(flush, 0)]
        for place in rng.sample([0, 1], 2):
            time.sleep(rng.uniform(0.02, 0.3))
            os.kill(children[place][0], signal.SIGKILL)
            os.waitpid(children[place][0], 0)
        for _, hear in children:
            with os.fdopen(hear, "rb") as file:
                answered = int((file.read().split() or [answered])[-1]) if hear == children[0][1] else answered
    print(answered)
"""


@pytest.mark.slow
def test_kill_9_of_pusher_and_flusher_neither_loses_nor_doubles_a_row(filled: Context) -> None:
    rounds = 5
    command = [sys.executable, "-c", textwrap.dedent(STORM), str(filled.root), str(rounds)]
    answered = int(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    operations.flush(filled, "weather")
    assert answered > 10
    assert operations.show(filled, "weather").waiting == 0
    seen = tables.read(filled, "weather", ["seen"])["seen"].to_pylist()[24:]
    # a push that was killed before it answered may have arrived; the pusher then sends it again, as clients do
    assert set(range(answered + 1)) <= set(seen) <= set(range(answered + 2))
    assert len(seen) - len(set(seen)) <= rounds
    assert operations.get(filled, "weather", "JFK").values["temp"] >= answered


def test_rows_under_an_exclusion_reach_neither_the_frame_nor_a_view(filled: Context) -> None:
    with filled.catalog.write() as connection:
        for number, (name, time, since) in enumerate((("flights", "time_hour", moment(5)), ("weather", "at", moment(2))), start=1):
            one = exclusions.Exclusion(id=number, dataset=name, since=since.timestamp(), time=time, by="test", at=0.0)
            exclusions.save(connection, one)
    table = frame.training_frame(filled, "flights")
    assert table["time_hour"].to_pylist() == [moment(3), moment(4)]
    assert table["weather_temp"].to_pylist() == [1.0, None]
    assert frame.view_rows(filled, frame.view_named(filled, "weather")).num_rows == 4
