from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from online_store_contract import VIEW, OnlineStoreContract

from kaizenml.adapters import redis_online
from kaizenml.adapters.online import open_online
from kaizenml.adapters.redis_online import RedisOnlineStore
from kaizenml.adapters.sqlite_online import SqliteOnlineStore
from kaizenml.errors import Corrupt, InvalidSettings, StorageFull, Unavailable
from kaizenml.ports import OnlineRow, OnlineStore

pytest.importorskip("redis", reason="the client for Redis is not installed: pip install 'kaizenml[redis]'")

STORM = """
    import itertools, sys
    from kaizenml.adapters.redis_online import RedisOnlineStore
    store = RedisOnlineStore(sys.argv[1], "shop")
    print("ready", flush=True)
    for i in itertools.count(int(sys.argv[2])):
        # every value of a row repeats its time, so that a torn row shows; a, b and c are one transaction
        store.write("v.1", [(key, float(i), {f"x{n}": float(i) for n in range(10)}) for key in ("a", "b", "c")])
        print(i, flush=True)
"""


class TestRedis(OnlineStoreContract):
    @pytest.fixture
    def make(self, redis: str) -> Callable[[], OnlineStore]:
        return lambda: RedisOnlineStore(redis, "shop")


def silent_port() -> int:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_the_setting_chooses_the_engine(tmp_path: Path, redis: str) -> None:
    assert isinstance(open_online(None, tmp_path, "shop"), SqliteOnlineStore)
    store = open_online(redis, tmp_path, "shop")
    assert isinstance(store, RedisOnlineStore)
    store.close()
    with pytest.raises(InvalidSettings, match="no online store for 'cassandra'"):
        open_online("cassandra://me:secret@host", tmp_path, "shop")


def test_an_address_that_is_none_is_refused_without_its_password() -> None:
    with pytest.raises(InvalidSettings, match=r"is no address of a Redis server") as caught:
        RedisOnlineStore("redis://me:secret@host:port/0", "shop")
    assert "secret" not in str(caught.value) + repr(caught.value.values)


def test_projects_on_one_server_do_not_see_each_other(redis: str) -> None:
    shop, bank = RedisOnlineStore(redis, "shop"), RedisOnlineStore(redis, "bank")
    shop.write(VIEW, [("ann", 1.0, {"x": 1})])
    bank.write(VIEW, [("ann", 1.0, {"x": 2})])
    assert bank.delete("ann") == 1
    assert shop.read(VIEW, ["ann"]) == [OnlineRow(1.0, {"x": 1})]
    assert list(bank.keys(VIEW)) == []
    shop.close()
    bank.close()


def test_rows_that_nobody_can_use_any_more_leave_by_themselves(redis: str) -> None:
    store = RedisOnlineStore(redis, "shop")
    store.write(VIEW, [("a", 1.0, {"x": 1})], keep_s=0.02)
    store.update(VIEW, ["b"], lambda _key, _row: OnlineRow(1.0, {}), keep_s=0.02)
    store.write(VIEW, [("c", 1.0, {"x": 1})], keep_s=3600.0)
    deadline = time.monotonic() + 10
    while any(store.read(VIEW, ["a", "b"])) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert store.read(VIEW, ["a", "b", "c"]) == [None, None, OnlineRow(1.0, {"x": 1})]
    store.close()


def test_rows_written_over_others_leave_by_themselves_too(redis: str) -> None:
    store = RedisOnlineStore(redis, "shop")
    assert store.write(VIEW, [("a", 1.0, {"x": 1}), ("b", 1.0, {"x": 1})], keep_s=0.02, over=True) == 2
    assert store.write(VIEW, [("b", 1.0, {"x": 2}), ("c", 1.0, {"x": 1})], keep_s=3600.0, over=True) == 2
    deadline = time.monotonic() + 10
    while any(store.read(VIEW, ["a"])) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert store.read(VIEW, ["a", "b", "c"]) == [None, OnlineRow(1.0, {"x": 2}), OnlineRow(1.0, {"x": 1})]
    assert store._redis.smembers(b"kaizen:shop:views") == {VIEW.encode()}
    store.close()


def test_large_rows_are_written_over_others_in_pieces_that_the_server_takes(redis: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RedisOnlineStore(redis, "shop")
    monkeypatch.setattr(redis_online, "_CHUNK_BYTES", 1000)
    sent: list[int] = []
    original = redis_online._putting
    monkeypatch.setattr(redis_online, "_putting", lambda pairs, keep_ms: sent.append(len(pairs)) or original(pairs, keep_ms))
    sizes = [10, 10, 5000, 400, 400, 400, 10]
    rows = [(f"k{place}", 1.0, {"t": "x" * size}) for place, size in enumerate(sizes)]
    assert store.write(VIEW, rows, over=True) == 7
    assert sent == [2, 1, 2, 2]
    assert [row and len(row.values["t"]) for row in store.read(VIEW, [key for key, _, _ in rows])] == sizes
    store.close()


def test_a_server_without_memory_takes_no_rows_and_goes_on_answering_right(redis: str) -> None:
    store = RedisOnlineStore(redis, "shop")
    store.write(VIEW, [("a", 1.0, {"x": 1})], over=True)
    store._redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(StorageFull, match="no memory left"):
            store.write(VIEW, [(f"k{n}", 1.0, {"x": n}) for n in range(3000)], over=True)
        assert store.read(VIEW, ["a", "k0"]) == [OnlineRow(1.0, {"x": 1}), None]
    finally:
        store._redis.config_set("maxmemory", 0)
    store._redis.client_kill_filter(_type="normal", skipme=True)
    assert store.write(VIEW, [(f"k{n}", 1.0, {"x": n}) for n in range(3000)], over=True) == 3000
    assert store.read(VIEW, ["k2999"]) == [OnlineRow(1.0, {"x": 2999})]
    store.close()


def test_a_reader_does_not_write_and_says_when_there_is_no_server(redis: str) -> None:
    store = RedisOnlineStore(redis, "shop", readonly=True)
    with pytest.raises(Unavailable, match="reading only"):
        store.write(VIEW, [("JFK", 2.0, {})])
    store.close()
    away = RedisOnlineStore(f"redis://:secret@127.0.0.1:{silent_port()}/0", "shop", readonly=True)
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:\d+ does not answer") as caught:
        away.read(VIEW, ["JFK"])
    assert "secret" not in str(caught.value)
    with pytest.raises(Unavailable, match="a moment ago"):
        away.read(VIEW, ["JFK"])  # and does not wait again
    away.close()


def test_a_connection_that_the_server_dropped_is_opened_again(redis: str) -> None:
    store = RedisOnlineStore(redis, "shop", readonly=True)
    store._redis.set(store._key(VIEW, "JFK"), b"\x01" + b"\0" * 8 + b"\x80")
    for _ in range(2):
        assert store.read(VIEW, ["JFK"]) == [OnlineRow(0.0, {})]
        assert len(store._idle) == 1
        assert store._redis.client_kill_filter(_type="normal", skipme=True) >= 1
    assert store.read(VIEW, ["JFK"]) == [OnlineRow(0.0, {})]
    store.close()


def test_an_answer_that_came_too_late_is_not_taken_for_another_keys(redis: str) -> None:
    store = RedisOnlineStore(redis, "shop")
    store.write(VIEW, [("JFK", 1.0, {"x": 1}), ("LGA", 2.0, {"x": 2})])
    assert store.read(VIEW, ["JFK"]) == [OnlineRow(1.0, {"x": 1})]
    store._idle[0].update_current_socket_timeout(0.05)
    store._redis.client_pause(200)
    with pytest.raises(Unavailable, match="does not answer"):
        store.read(VIEW, ["JFK"])
    assert not store._idle
    assert store.read(VIEW, ["LGA"]) == [OnlineRow(2.0, {"x": 2})]
    store.close()


def test_a_damaged_value_and_one_of_a_newer_format_are_named(redis: str) -> None:
    store = RedisOnlineStore(redis, "shop")
    client = store._redis
    for body, said in ((b"x", "damaged"), (b"\x01" + b"\0" * 8 + b"\xc1", "damaged"), (b"\x02" + b"\0" * 8 + b"\x80", "format 2")):
        client.set(store._key(VIEW, "JFK"), body)
        with pytest.raises(Corrupt, match=said):
            store.read(VIEW, ["JFK"])
    store.close()


def test_a_forked_child_opens_its_own_connection(redis: str) -> None:
    code = """
        import os, sys
        from kaizenml.adapters.redis_online import RedisOnlineStore
        store = RedisOnlineStore(sys.argv[1], "shop")
        store.write("v.1", [("a", 1.0, {"x": 1})])
        child = os.fork()
        if child == 0:
            store.write("v.1", [("a", 2.0, {"x": 2})])
            ok = store.read("v.1", ["a"])[0].at == 2.0
            os._exit(0 if ok else 1)
        _, status = os.waitpid(child, 0)
        assert status == 0
        store.write("v.1", [("b", 3.0, {"x": 3})])
        assert [row.at for row in store.read("v.1", ["a", "b"])] == [2.0, 3.0]
        store.close()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code), redis], check=True)


@pytest.mark.slow
def test_kill_9_in_a_storm_of_writes_leaves_whole_rows_and_loses_none_that_was_answered(redis: str) -> None:
    answered = 0
    for round_ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", textwrap.dedent(STORM), redis, str(answered + 1)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        answered = int(writer.stdout.readline())
        time.sleep(0.02 * round_)
        os.kill(writer.pid, signal.SIGKILL)
        text, _ = writer.communicate()
        whole = [line for line in text.split("\n")[:-1] if line]
        answered = int(whole[-1]) if whole else answered
        store = RedisOnlineStore(redis, "shop")
        rows = [row for row in store.read("v.1", ["a", "b", "c"]) if row is not None]
        assert len(rows) == 3
        assert len({value for row in rows for value in (row.at, *row.values.values())}) == 1
        assert rows[0].at >= answered
        store.close()
