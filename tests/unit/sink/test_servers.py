"""What a sink says of a server that is no Elasticsearch, no Qdrant, or a broken one. Bytes over loopback, no engine."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from worker.errors import ConfigError, StoreError
from worker.settings import SinkSettings
from worker.sink import elasticsearch
from worker.sink.elasticsearch import Elasticsearch

Answer = Callable[[socket.socket, bytes], None]
OK = b"HTTP/1.1 200 OK\r\n"


class Server:
    """Answers each request with what `answer` writes, and closes."""

    def __init__(self) -> None:
        self.answer: Answer = lambda connection, request: None
        self.requests: list[bytes] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._handle, args=(connection,), daemon=True).start()

    def _handle(self, connection: socket.socket) -> None:
        with connection:
            try:
                request = connection.recv(65_536)
                self.requests.append(request)
                self.answer(connection, request)
            except OSError:
                pass  # who asked has left

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def store(server: Server, **changes: Any) -> Elasticsearch:
    return Elasticsearch(SinkSettings(url=server.url, **{"timeout_s": 5.0, **changes}), "elasticsearch")


def says(data: bytes) -> Answer:
    return lambda connection, request: connection.sendall(data)


def body(text: bytes) -> bytes:
    return OK + b"Content-Length: %d\r\n\r\n" % len(text) + text


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (body(b"<html>"), "what answers at sink.url is no elasticsearch: <html>"),
        (body(b"[" * 100_000), "is no elasticsearch"),
        (body(b""), "is no elasticsearch"),
        (body(b"[]"), "is no elasticsearch"),
        (body(b'{"version": 5}'), "is no elasticsearch"),
        (b"hello\r\n\r\n", "cannot be reached: hello"),
        (b"", "cannot be reached"),
        (OK + b"Content-Length: 50\r\n\r\n{}", "cannot be reached"),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", "HTTP 302: {}: a redirect is not followed"),
        (b"HTTP/1.1 503 Away\r\nContent-Length: 0\r\n\r\n", "HTTP 503"),
    ],
)
def test_a_server_that_is_none_is_told_on_one_line(server: Server, answer: bytes, said: str) -> None:
    server.answer = says(answer)
    with pytest.raises(StoreError) as raised:
        store(server).connect()
    assert said in raised.value.one_line()


def test_an_answer_that_drips_is_given_up_by_one_clock(server: Server) -> None:
    def drip(connection: socket.socket, request: bytes) -> None:
        connection.sendall(OK)
        while True:
            connection.sendall(b"X: y\r\n")
            time.sleep(0.05)

    server.answer = drip
    started = time.monotonic()
    with pytest.raises(StoreError, match=r"takes longer than 0\.3 s \(sink\.timeout_s\)"):
        store(server, timeout_s=0.3).connect()
    assert time.monotonic() - started < 5


def test_an_answer_without_end_is_not_taken_into_memory(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def flood(connection: socket.socket, request: bytes) -> None:
        connection.sendall(OK + b"\r\n")
        while True:
            connection.sendall(bytes(65_536))

    monkeypatch.setattr(elasticsearch, "MAX_ANSWER_BYTES", 2**20)
    server.answer = flood
    with pytest.raises(StoreError, match="more than 1048576 bytes"):
        store(server).connect()


def test_a_key_does_not_follow_a_redirect(server: Server) -> None:
    elsewhere = Server()
    server.answer = says(b"HTTP/1.1 302 Found\r\nLocation: %s/\r\nContent-Length: 0\r\n\r\n" % elsewhere.url.encode())
    with pytest.raises(StoreError, match="a redirect is not followed"):
        store(server, password=SecretStr("hunter2")).connect()
    assert b"hunter2" in server.requests[0]
    assert elsewhere.requests == []
    elsewhere.close()


def qdrant(url: str, **changes: Any) -> Any:
    pytest.importorskip("qdrant_client")
    from worker.sink.qdrant import Qdrant

    return Qdrant(SinkSettings(url=url, **{"timeout_s": 5.0, **changes}))


def test_a_server_that_is_no_qdrant_is_told_on_one_line(server: Server) -> None:
    server.answer = says(body(b"<html>"))
    with pytest.raises(StoreError, match=r"what answers at sink\.url is no Qdrant"):
        qdrant(server.url).connect()


def test_an_answer_that_drips_is_given_up_where_a_library_asks(server: Server) -> None:
    def drip(connection: socket.socket, request: bytes) -> None:
        connection.sendall(OK + b"Content-Length: 1000\r\n\r\n")
        while True:
            connection.sendall(b"x")
            time.sleep(0.02)

    server.answer = drip
    with pytest.raises(StoreError, match="takes longer than 1 s"):
        qdrant(server.url, timeout_s=1.0).connect()


@pytest.mark.parametrize("url", ["http://[::1", "http://", "http://host:99999", "http://host:port", "ftp://host", "x"])
def test_an_address_that_is_none_names_the_setting(url: str) -> None:
    with pytest.raises(ConfigError, match=r"sink\.url"):
        Elasticsearch(SinkSettings(url=url), "elasticsearch")
    with pytest.raises(ConfigError, match=r"sink\.url"):
        qdrant(url)
