"""Real servers on loopback for the tests: PostgreSQL, Redis (or Valkey), S3, and the stores of Google and Azure.

A server that is not installed skips its tests, with the reason.

Each process of the tests has servers of its own, started when the first test asks (about a second) and ended with it: by the fixture, or by
the kernel where the process is killed. A test gets a database, a flushed server or a bucket of its own:

    def test_rows_are_kept(postgres: str) -> None:  # postgresql+psycopg://kaizen@127.0.0.1:41237/t1
    def test_features(redis: str) -> None:          # redis://127.0.0.1:41238/0
    def test_tables(s3: S3) -> None:                # s3.url, and AWS_* in the environment, as users say where their server is
"""

from __future__ import annotations

import ctypes
import glob
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

_ROOT = Path(__file__).parent.parent
_CLIENTS = _ROOT / ".venv-clients" / "bin" / "python"
_TRIES = 3  # another process may take the free port before the server does
_PRCTL = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
_count = itertools.count(1)


class S3(NamedTuple):
    """A bucket, and the variables that name its server to every program."""

    url: str
    environ: dict[str, str]


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A PostgreSQL server: the URL of its maintenance database, for psycopg."""
    programs = _postgres_programs()
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'kaizenml[postgres]'")
    user = _unprivileged()
    folder = tempfile.mkdtemp(prefix="kaizen-postgres-")  # not below pytest's own folder, which another user cannot enter
    try:
        if user:
            os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
        data = os.path.join(folder, "data")
        made = subprocess.run(
            [programs / "initdb", "-D", data, "-A", "trust", "-U", "kaizen", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"],
            user=user, cwd=folder, capture_output=True, text=True,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off", "shared_buffers": "16MB", "max_connections": "60"}

        def command(port: int) -> list[str]:
            return [str(programs / "postgres"), "-D", data, "-p", str(port), *(f"--{key}={value}" for key, value in options.items())]

        # SIGINT ends its sessions; at SIGTERM it would wait for them
        with _served(command, _postgres_answers, user=user, cwd=folder, ending=signal.SIGINT) as port:
            yield f"postgresql://kaizen@127.0.0.1:{port}/postgres"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres(postgres_server: str) -> Iterator[str]:
    """A new database: its URL for SQLAlchemy (``postgresql+psycopg://``)."""
    import psycopg

    name = f"t{next(_count)}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} STRATEGY wal_log")
        try:
            yield postgres_server.replace("postgresql:", "postgresql+psycopg:").replace("/postgres", f"/{name}")
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """A Redis or Valkey server: its URL."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        pytest.skip("neither redis-server nor valkey-server is installed")

    def command(port: int) -> list[str]:
        return [program, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no", "--daemonize", "no"]

    with tempfile.TemporaryDirectory(prefix="kaizen-redis-") as folder, _served(command, _redis_answers, cwd=folder) as port:
        yield f"redis://127.0.0.1:{port}/0"


@pytest.fixture
def redis(redis_server: str) -> str:
    """An empty Redis: its URL."""
    port = int(redis_server.rpartition(":")[2].partition("/")[0])
    with closing(socket.create_connection(("127.0.0.1", port), timeout=5)) as connection:
        connection.sendall(b"FLUSHALL\r\n")
        assert connection.recv(100) == b"+OK\r\n"
    return redis_server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """An S3 server: its address. It keeps everything in memory, and takes every key."""
    if not _CLIENTS.exists() or subprocess.run([_CLIENTS, "-c", "import moto, flask"], capture_output=True).returncode:
        pytest.skip("there is no S3 server in .venv-clients: ./x clients")

    def command(port: int) -> list[str]:
        return [str(_CLIENTS), "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]

    with tempfile.TemporaryDirectory(prefix="kaizen-s3-") as folder, _served(command, _http_answers, cwd=folder) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> S3:
    """A new bucket. ``AWS_*`` in this process's environment, and so in its children's, name the server."""
    bucket = f"kaizen-{os.getpid()}-{next(_count)}"
    urllib.request.urlopen(urllib.request.Request(f"{s3_server}/{bucket}", method="PUT"), timeout=10).close()
    environ = {
        "AWS_ENDPOINT_URL": s3_server, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test-secret", "AWS_REGION": "us-east-1",
    }  # fmt: skip
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return S3(f"s3://{bucket}", environ)


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server of Google's object store: the address of an empty bucket. The variable that Google's tools read names the server."""
    if not _CLIENTS.exists() or subprocess.run([_CLIENTS, "-c", "import gcp_storage_emulator"], capture_output=True).returncode:
        pytest.skip("there is no server of Google's object store in .venv-clients: ./x clients")
    start = "import sys; from gcp_storage_emulator.server import create_server; create_server('127.0.0.1', int(sys.argv[1]), in_memory=True).run()"

    def command(port: int) -> list[str]:
        return [str(_CLIENTS), "-c", start, str(port)]

    with (
        tempfile.TemporaryDirectory(prefix="kaizen-google-") as folder,
        _served(command, _takes_connections, cwd=folder, ending=signal.SIGKILL) as port,
    ):
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        address, made = f"http://127.0.0.1:{port}/storage/v1/b?project=tests", b'{"name": "kaizen-tests"}'
        urllib.request.urlopen(urllib.request.Request(address, made, {"Content-Type": "application/json"}), timeout=10).close()
        yield "gs://kaizen-tests"


@pytest.fixture
def azure(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server of Azure's object store: the address of an empty container. The variable that Azure's tools read names account and server."""
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("azurite is not installed: npm install --global azurite")
    key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # which azurite has in its documentation

    def command(port: int) -> list[str]:
        quiet = ["--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent"]
        return [program, *quiet, "--blobHost", "127.0.0.1", "--blobPort", str(port)]

    with tempfile.TemporaryDirectory(prefix="kaizen-azure-") as folder, _served(command, _takes_connections, cwd=folder) as port:
        said = f"AccountName=devstoreaccount1;AccountKey={key};BlobEndpoint=http://127.0.0.1:{port}/devstoreaccount1"
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", said)
        yield "az://kaizen-tests"


def _postgres_programs() -> Path:
    folders = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda path: int(path.split("/")[-2]), reverse=True)
    for folder in map(Path, folders):
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    found = shutil.which("initdb")
    if found is None:
        pytest.skip("PostgreSQL's server is not installed (neither /usr/lib/postgresql/*/bin nor PATH has initdb)")
    return Path(found).resolve().parent


def _unprivileged() -> str | None:
    """Return whom to run PostgreSQL as: it refuses root."""
    if os.geteuid():
        return None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    pytest.skip("PostgreSQL does not run as root, and there is neither a user postgres nor nobody")


@contextmanager
def _served(
    command: Callable[[int], list[str]], answers: Callable[[int], bool], *, cwd: str, user: str | None = None, ending: int = signal.SIGTERM
) -> Iterator[int]:
    """Run a server on a free port until the block ends; it dies with this process, however that dies."""

    def last_will() -> None:
        if _PRCTL is not None:
            _PRCTL(1, ending, 0, 0, 0)  # PR_SET_PDEATHSIG

    log = Path(cwd) / "log"
    for attempt in range(_TRIES):
        port = _free_port()
        with log.open("wb") as file:
            process = subprocess.Popen(  # the child only makes one system call before it becomes the server, so threads here do no harm
                command(port), stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=cwd, user=user, start_new_session=True,
                preexec_fn=last_will,  # noqa: PLW1509
            )  # fmt: skip
        try:
            deadline = time.monotonic() + 60
            while process.poll() is None and not answers(port):
                assert time.monotonic() < deadline, f"{command(port)[0]} did not answer within a minute: {log.read_text(errors='replace')[-2000:]}"
                time.sleep(0.02)
            if process.poll() is None:
                yield port
                return
            words = log.read_text(errors="replace")
            if attempt + 1 == _TRIES or "in use" not in words:
                raise RuntimeError(f"{command(port)[0]} ended: {words[-2000:]}")
        finally:
            if process.poll() is None:
                process.send_signal(ending)
                try:
                    process.wait(15)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()


def _free_port() -> int:
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _postgres_answers(port: int) -> bool:
    import psycopg

    try:
        psycopg.connect(f"postgresql://kaizen@127.0.0.1:{port}/postgres", connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def _redis_answers(port: int) -> bool:
    with suppress(OSError), closing(socket.create_connection(("127.0.0.1", port), timeout=2)) as connection:
        connection.sendall(b"PING\r\n")
        return connection.recv(100) == b"+PONG\r\n"
    return False


def _http_answers(port: int) -> bool:
    with suppress(OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/", timeout=2).close()
        return True
    return False


def _takes_connections(port: int) -> bool:
    with suppress(OSError), closing(socket.create_connection(("127.0.0.1", port), timeout=2)):
        return True
    return False
