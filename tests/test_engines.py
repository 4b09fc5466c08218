"""The servers that other tests lean on."""

from __future__ import annotations

import socket

import pytest
import sqlalchemy as sa

from engines import S3


def test_each_test_has_a_database_of_its_own(postgres: str):
    engine = sa.create_engine(postgres)
    with engine.begin() as connection:
        assert not sa.inspect(connection).get_table_names()
        connection.execute(sa.text("CREATE TABLE kept (x integer)"))
    engine.dispose()


@pytest.mark.parametrize("turn", [1, 2])
def test_redis_is_empty_at_first(redis: str, turn: int):
    host, port = redis.removeprefix("redis://").removesuffix("/0").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(b"DBSIZE\r\nSET k v\r\n")
        assert connection.makefile("rb").readline() == b":0\r\n"


def test_a_bucket_takes_objects_and_refuses_a_second_of_one_name(s3: S3):
    obstore = pytest.importorskip("obstore", reason="obstore is not installed: pip install 'kaizenml[s3]'")
    store = obstore.store.from_url(s3.url, client_options={"allow_http": True})
    obstore.put(store, "a", b"first", mode="create")
    with pytest.raises(obstore.exceptions.AlreadyExistsError):
        obstore.put(store, "a", b"second", mode="create")
    assert bytes(obstore.get(store, "a").bytes()) == b"first"
