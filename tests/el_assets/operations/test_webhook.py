"""Deliveries to servers that are slow, endless, elsewhere or not there; none shows the address."""

import logging
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from threading import Thread

import pytest

from el_assets.operations.webhook import WebhookError, post

TOKEN = "T0KEN"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[tuple[str, list[bytes]]]:
    """An address with a token, and the requests that came to it."""
    requests: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection, suppress(OSError):
                        request = b""
                        while not request.endswith(b"}"):
                            request += connection.recv(65_536)
                        requests.append(request)
                        answer(connection)

        Thread(target=serve, daemon=True).start()
        yield f"http://me:{TOKEN}@127.0.0.1:{server.getsockname()[1]}/{TOKEN}?key={TOKEN}", requests


def drip(connection: socket.socket) -> None:
    """A byte of a header every tenth of a second, which no timeout between bytes notices."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        connection.sendall(b"a")
        time.sleep(0.1)


def endless(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        connection.sendall(b"a" * 1_000_000)


def failure(address: str, seconds: float = 10) -> str:
    """The words of the error, after a look for the token in it and in all that led to it."""
    with pytest.raises(WebhookError) as raised:
        post(address, "a run failed", seconds=seconds)
    assert TOKEN not in "".join(traceback.format_exception(raised.value))
    return str(raised.value)


def test_a_message_is_delivered_without_credentials_of_the_addresses_in_it() -> None:
    with answering(lambda connection: connection.sendall(OK)) as (address, requests):
        post(address, "https://you:hunter2@host/a.jsonl?sig=1 cannot be read")
    assert b'{"text": "https://host/a.jsonl cannot be read"}' in requests[0]


def test_a_slow_answer_is_given_up_in_time() -> None:
    started = time.monotonic()
    with answering(drip) as (address, _):
        assert "gave no answer within 1 s" in failure(address, seconds=1)
    assert time.monotonic() - started < 3


def test_an_endless_answer_is_not_read() -> None:
    with answering(endless) as (address, _):
        post(address, "a run failed")


def test_a_redirect_is_not_followed() -> None:
    with ExitStack() as servers:
        elsewhere, reached = servers.enter_context(answering(lambda connection: connection.sendall(OK)))
        moved = f"HTTP/1.1 307 Moved\r\nLocation: {elsewhere}\r\nContent-Length: 0\r\n\r\n".encode()
        address, _ = servers.enter_context(answering(lambda connection: connection.sendall(moved)))
        assert "answered 307, a redirect, which is not followed" in failure(address)
    assert reached == []


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (f"http://127.0.0.1:1/{TOKEN}", "could not be reached (ConnectionError)"),
        (f"ftp://127.0.0.1/{TOKEN}", "is no http(s) address"),
        (TOKEN, "is no http(s) address"),
        (f"http:///{TOKEN}", "is no http(s) address"),
        (f"http://[{TOKEN}", "is no http(s) address"),
    ],
)
def test_what_is_no_address_or_not_there_is_told(address: str, words: str) -> None:
    assert words in failure(address)


def test_no_log_line_shows_the_address(caplog: pytest.LogCaptureFixture) -> None:
    refused = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
    with caplog.at_level(logging.DEBUG), answering(lambda connection: connection.sendall(refused)) as (address, _):
        assert "answered 403" in failure(address)
    assert TOKEN not in caplog.text
