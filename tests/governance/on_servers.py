"""Everything that servers hold of a project, brought into a folder: each table, each key, each object."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import every_byte
import sqlalchemy as sa

from engines import S3


def keep_versions(s3: S3) -> None:
    """Let the bucket keep older versions of its objects."""
    body = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
    address = f"{s3.environ['AWS_ENDPOINT_URL']}/{s3.url.removeprefix('s3://')}?versioning"
    asked = urllib.request.Request(address, body, {"Content-Type": "application/xml"}, method="PUT")
    urllib.request.urlopen(asked, timeout=10).close()


def copied(folder: Path, postgres: str, s3: S3, redis: str) -> Path:
    """Copy all that the servers hold into a folder, for ``every_byte``; of objects the newest version."""
    for where, found in {"postgres": _tables(postgres), "redis": _keys(redis), "s3": _objects(s3)}.items():
        for name, content in found.items():
            path = folder / where / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return folder


def _tables(url: str) -> dict[str, bytes]:
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    with engine.connect() as connection:
        names = sa.inspect(engine).get_table_names()
        rows = {name: connection.execute(sa.text(f'SELECT * FROM "{name}"')).all() for name in names}
    return {name: b"\n".join(text for row in found for value in row for text in every_byte.unpacked(value)) for name, found in rows.items()}


def _keys(url: str) -> dict[str, bytes]:
    import redis

    with redis.Redis.from_url(url) as client:
        read = {
            b"string": client.get, b"hash": client.hgetall, b"stream": client.xrange, b"set": client.smembers,
            b"zset": lambda key: client.zrange(key, 0, -1, withscores=True), b"list": lambda key: client.lrange(key, 0, -1),
        }  # fmt: skip
        found = {}
        for place, key in enumerate(client.scan_iter()):
            value = read[client.type(key)](key)
            found[str(place)] = key + b"\n" + (value if isinstance(value, bytes) else _flat(value))
        return found


def _flat(value: object) -> bytes:
    if isinstance(value, dict):
        return b"\n".join(_flat(each) for pair in value.items() for each in pair)
    if isinstance(value, list | tuple | set):
        return b"\n".join(map(_flat, value))
    return value if isinstance(value, bytes) else str(value).encode()


def _objects(s3: S3) -> dict[str, bytes]:
    import obstore

    store = obstore.store.from_url(s3.url, client_options={"allow_http": True})
    return {each["path"]: bytes(obstore.get(store, each["path"]).bytes()) for page in obstore.list(store) for each in page}
