"""The client: outcomes are repeated when a connection breaks, predictions never are; errors come back as themselves."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kaizenml.errors import InvalidInput, Unavailable, UsageError
from kaizenml.serving.client import Client

OK = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 14\r\n\r\n{"accepted":1}'
WRONG = b'{"error":{"code":"invalid_input","message":"no","values":{"row":3},"remedy":"try"}}'


@contextmanager
def _server(*answers: bytes | None) -> Iterator[tuple[str, list[bytes]]]:
    """Answer one connection after the other; None resets it after the request was read."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            for answer in answers:
                connection, _ = listening.accept()
                with connection:
                    asked.append(connection.recv(65536))
                    if answer is None:
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    else:
                        connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", asked
        thread.join(5)


def test_outcomes_are_sent_again_once_after_a_reset():
    with _server(None, OK) as (url, asked), Client(url, timeout_s=5) as client:
        assert client.outcomes("shop", [{"id": "a", "value": True}]) == {"accepted": 1}
    assert len(asked) == 2


def test_two_resets_are_told():
    with _server(None, None) as (url, _), Client(url, timeout_s=5) as client, pytest.raises(Unavailable, match="does not answer"):
        client.outcomes("shop", [{"id": "a", "value": True}])


def test_a_prediction_is_never_sent_twice():
    with _server(None) as (url, asked), Client(url, timeout_s=5) as client, pytest.raises(Unavailable):
        client.predict("shop", [{"a": 1}])
    assert len(asked) == 1


def test_a_connection_that_the_server_closed_while_idle_is_opened_anew():
    with _server(OK, OK) as (url, asked), Client(url, timeout_s=5) as client:
        for _ in range(2):
            assert client.predict("shop", [{"a": 1}]) == {"accepted": 1}
            time.sleep(0.1)  # the end of the connection comes behind the answer
    assert len(asked) == 2


def test_errors_come_back_as_their_own_class():
    head = b"HTTP/1.1 422 X\r\ncontent-length: %d\r\n\r\n" % len(WRONG)
    with _server(head + WRONG) as (url, _), Client(url, timeout_s=5) as client, pytest.raises(InvalidInput) as caught:
        client.predict("shop", [{"a": 1}])
    assert (caught.value.values, caught.value.remedy) == ({"row": 3}, "try")


def test_another_program_on_the_port_is_told():
    with _server(b"HTTP/1.1 502 Bad\r\ncontent-length: 5\r\n\r\nhello") as (url, _), Client(url) as client, pytest.raises(Unavailable, match="502"):
        client.predict("shop", [])
    with pytest.raises(UsageError):
        Client("127.0.0.1:8080")


def test_a_token_that_would_go_through_the_network_in_the_clear_is_warned_of(recwarn):
    with pytest.warns(UserWarning, match="in the clear"):
        Client("http://shop.example:8080", token="kz_x").close()
    for url, token in (("http://127.0.0.1:8080", "kz_x"), ("https://shop.example", "kz_x"), ("http://shop.example", None)):
        Client(url, token=token).close()
    assert not recwarn.list
