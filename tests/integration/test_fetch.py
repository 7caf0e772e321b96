"""URIs: what may be fetched, and a server that misbehaves in every way. Nothing here leaves the loopback."""

from __future__ import annotations

import gzip
import ipaddress
import os
import re
import socket
import ssl
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from schemas import Reason
from tests.brokers.certificates import Authority
from worker.encode.fetch import Fetcher, FetchRules
from worker.encode.media.errors import ContentError

LOOPBACK = (ipaddress.ip_network("127.0.0.1/32"),)
BODY = b"picture" * 1_000
ADDRESSES = {
    "media.test": ["127.0.0.1"],
    "cdn.media.test": ["127.0.0.1"],
    "private.test": ["127.0.0.2"],
    "half-private.test": ["127.0.0.1", "127.0.0.2"],
    "metadata.test": ["169.254.169.254"],
    "lan.test": ["10.1.2.3"],
    "six.test": ["::1"],
    "mapped.test": ["::ffff:10.0.0.1"],
    "multicast.test": ["224.0.0.1"],
    "nowhere.test": ["0.0.0.0"],
    "translated.test": ["64:ff9b::10.0.0.1"],
    "tunnel.test": ["2002:a00:1::"],
    "compatible.test": ["::10.0.0.1"],
    "site.test": ["fec0::1"],
    "zone.test": ["fe80::1%1"],
    "azure.test": ["168.63.129.16"],
    "oracle.test": ["192.0.0.192"],
    "carrier.test": ["100.64.0.1"],
}


def answer(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def drip(connection: socket.socket, data: bytes) -> None:
    for byte in data:
        connection.sendall(bytes([byte]))
        time.sleep(0.05)


SIZE = str(len(BODY))
CHUNK = f"{len(BODY):x}\r\n".encode() + BODY + b"\r\n"
CHUNKED = answer(b"", Transfer_Encoding="chunked")
PACKED = gzip.compress(BODY)
WHOLE = {
    "http10": b"HTTP/1.0 200 OK\r\n\r\n" + BODY,
    "closing": answer(BODY, Content_Length=SIZE, Connection="close"),
    "closing-chunks": answer(CHUNK + b"0\r\n\r\n", Transfer_Encoding="chunked", Connection="close"),
    "extended-chunks": CHUNKED + CHUNK.replace(b"\r\n", b";name=value\r\n", 1) + b"0;last\r\nX-Trailer: 1\r\n\r\n",
    "length-twice": answer(BODY, Content_Length=f"{SIZE}, {SIZE}"),
    "continued": b"HTTP/1.1 100 Continue\r\n\r\n" + answer(BODY, Content_Length=SIZE),
    "hinted": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 2 + answer(BODY, Content_Length=SIZE),
    "gzip": answer(PACKED, Content_Length=str(len(PACKED)), Content_Encoding="gzip"),
    "gzip-until-close": answer(PACKED, Content_Encoding="gzip"),
    "gzip-chunked": CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Encoding: x-gzip\r\n\r\n")
    + f"{len(PACKED):x}\r\n".encode() + PACKED + b"\r\n0\r\n\r\n",
    "deflate": answer(zlib.compress(BODY), Content_Encoding="deflate"),
}  # fmt: skip
"""Answers with `BODY` in them, by path."""
CUT_SHORT = {
    "half-closing": answer(BODY[:100], Content_Length=SIZE, Connection="close"),
    "half-http10": f"HTTP/1.0 200 OK\r\nContent-Length: {SIZE}\r\n\r\n".encode() + BODY[:100],
    "half-chunk": CHUNKED + CHUNK[:100],
    "no-last-chunk": CHUNKED + CHUNK,
    "half-chunk-size": CHUNKED + CHUNK + b"1",
    "half-chunk-size-of-nothing": CHUNKED + CHUNK + b"0",
    "half-trailer": CHUNKED + CHUNK + b"0\r\nX-Trai",
    "negative-chunk": CHUNKED + b"-5\r\n" + BODY,
    "odd-chunk-size": CHUNKED + b"0x10\r\n" + BODY,
    "long-chunk": CHUNKED + b"5\r\nxxxxxxxx\r\n0\r\n\r\n",
    "no-chunk-size": CHUNKED + b"\r\n\r\n",
    "many-trailers": CHUNKED + CHUNK + b"0\r\n" + b"X: y\r\n" * 10_000,
    "half-gzip": answer(PACKED[:-10], Content_Length=str(len(PACKED) - 10), Content_Encoding="gzip"),
    "half-gzip-until-close": answer(PACKED[:-10], Content_Encoding="gzip"),
    "no-gzip": answer(BODY, Content_Length=SIZE, Content_Encoding="gzip"),
    "two-lengths": answer(BODY, Content_Length=f"{SIZE}, 5"),
    "no-length": answer(BODY, Content_Length="many"),
    "negative-length": answer(BODY, Content_Length="-1"),
    "odd-transfer": answer(BODY, Transfer_Encoding="gzip, chunked"),
    "brotli": answer(BODY, Content_Length=SIZE, Content_Encoding="br"),
    "long-noise": b"ICY 200\rnoise" + b"x" * 30_000 + b"\r\n",
    "endless-interim": b"HTTP/1.1 100 Continue\r\n\r\n" * 1_000,
}
"""Answers that are not the whole of a body."""
DRIPS = {
    "drips-status": (b"HTTP/1.1 200 ", b"O"),
    "drips-headers": (b"HTTP/1.1 200 OK\r\nX-Filler: ", b"x"),
    "drips-many-headers": (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
    "drips-length": (answer(b"", Content_Length="1000"), b"x"),
    "drips-closing": (answer(b"", Content_Length="1000", Connection="close"), b"x"),
    "drips-http10": (b"HTTP/1.0 200 OK\r\nContent-Length: 1000\r\n\r\n", b"x"),
    "drips-until-close": (answer(b""), b"x"),
    "drips-http10-until-close": (b"HTTP/1.0 200 OK\r\n\r\n", b"x"),
    "drips-chunks": (CHUNKED, b"1\r\nx\r\n"),
    "drips-closing-chunks": (answer(b"", Transfer_Encoding="chunked", Connection="close"), b"1\r\nx\r\n"),
    "drips-a-chunk": (CHUNKED + b"400\r\n", b"x"),
    "drips-a-chunk-size": (CHUNKED + b"1;name=", b"x"),
    "drips-a-trailer": (CHUNKED + CHUNK + b"0\r\nX-Trailer: ", b"x"),
    "drips-trailers": (CHUNKED + CHUNK + b"0\r\n", b"X: y\r\n"),
    "drips-interim": (b"HTTP/1.1 100 Continue\r\n", b"X: y\r\n"),
    "drips-gzip": (answer(PACKED[:50], Content_Length="1000", Content_Encoding="gzip"), b"x"),
    "drips-another-status": (b"HTTP/1.1 404 No\r\nX-Filler: ", b"x"),
    "drips-a-redirect": (b"HTTP/1.1 302 Found\r\nLocation: /", b"x"),
}
"""Answers that come a byte at a time from some place on, and never end."""


class Server:
    """Answers by path; counts what it is asked."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.asked: Counter[str] = Counter()
        self._tls = tls
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(10)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        try:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            path = connection.recv(65_536).split(b" ")[1].decode()
            self.asked[path] += 1
            self._behave(connection, path.strip("/").partition("?")[0])
        except (OSError, IndexError):
            pass
        finally:
            connection.close()

    def _behave(self, connection: socket.socket, path: str) -> None:
        size = str(len(BODY))
        if path == "good":
            connection.sendall(answer(BODY, Content_Length=size))
        elif path == "until-close":
            connection.sendall(answer(BODY))
        elif path == "chunked":
            chunk = f"{len(BODY):x}\r\n".encode() + BODY + b"\r\n"
            connection.sendall(answer(chunk * 2 + b"0\r\n\r\n", Transfer_Encoding="chunked"))
        elif path == "says-large":
            connection.sendall(answer(b"", Content_Length="999999999999"))
        elif path == "is-large":
            connection.sendall(answer(b""))
            while True:
                connection.sendall(BODY * 10)
        elif path == "large-chunks":
            connection.sendall(answer(b"", Transfer_Encoding="chunked"))
            while True:
                connection.sendall(f"{len(BODY):x}\r\n".encode() + BODY + b"\r\n")
        elif path == "half":
            connection.sendall(answer(BODY[:100], Content_Length=size))
        elif path == "silent":
            connection.recv(1)
        elif path == "drips-head":
            drip(connection, answer(BODY, Content_Length=size))
        elif path == "drips-body":
            connection.sendall(answer(b"", Content_Length=size))
            drip(connection, BODY)
        elif path == "endless-head":
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
            while True:
                connection.sendall(b"X-Filler: " + b"x" * 1_000 + b"\r\n")
        elif path == "noise":
            connection.sendall(b"\x16\x03\x01\x00\xff" * 100)
        elif path == "gone":
            pass
        elif path == "twice-busy":
            busy = self.asked["/twice-busy"] <= 2
            connection.sendall(answer(b"", "503 Busy") if busy else answer(BODY, Content_Length=size))
        elif path.startswith("to/"):
            connection.sendall(answer(b"", "302 Found", Location=path.removeprefix("to/").replace("~", "/")))
        elif path.startswith("slowly-to/"):
            time.sleep(0.2)
            connection.sendall(answer(b"", "302 Found", Location="/slowly-to/again"))
        elif path in DRIPS:
            start, rest = DRIPS[path]
            connection.sendall(start)
            drip(connection, rest * 1_000)
        elif path in WHOLE:
            connection.sendall(WHOLE[path])
        elif path in CUT_SHORT:
            connection.sendall(CUT_SHORT[path])
        elif path == "gzip-bomb":
            connection.sendall(answer(gzip.compress(bytes(10**7)), Content_Encoding="gzip"))
        elif path == "round":
            connection.sendall(answer(b"", "302 Found", Location="/round"))
        elif path.isdecimal():
            connection.sendall(answer(b"", f"{path} No"))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver of our own: the tests ask no other."""

    def resolve(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        addresses = ADDRESSES.get(host, [host] if host[:1].isdigit() else [])
        if not addresses:
            raise socket.gaierror(f"no {host}")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    connect = socket.socket.connect

    def loopback_only(sock: socket.socket, address: Any) -> None:
        assert sock.family != socket.AF_INET or ipaddress.ip_address(address[0]).is_loopback, address
        connect(sock, address)

    monkeypatch.setattr(socket.socket, "connect", loopback_only)


Fetch = Callable[..., bytes]


@pytest.fixture
def fetch(server: Server) -> Iterator[Fetch]:
    """Fetches a path of the server, or a URI; arguments change the rules."""
    made: list[Fetcher] = []

    def fetch(uri: str, **changes: Any) -> bytes:
        rules: dict[str, Any] = {
            "schemes": frozenset({"http"}),
            "hosts": (f"media.test:{server.port}",),
            "networks": LOOPBACK,
            "timeout_s": 5.0,
            "retries": 0,
            "max_bytes": 100_000,
        }
        tls = changes.pop("tls", None)
        fetcher = Fetcher(FetchRules(**{**rules, **changes}), tls=tls, sleep=lambda _: None)
        made.append(fetcher)
        is_whole = re.match(r"[a-z0-9.]*:|//", uri) is not None
        return fetcher.fetch(uri if is_whole else f"http://media.test:{server.port}/{uri}")

    yield fetch
    for fetcher in made:
        fetcher.close()


def refusal(fetch: Fetch, uri: str, **changes: Any) -> ContentError:
    with pytest.raises(ContentError) as caught:
        fetch(uri, **changes)
    return caught.value


# ---------------------------------------------------------------------- what works


@pytest.mark.parametrize(("path", "body"), [("good", BODY), ("until-close", BODY), ("chunked", BODY * 2)])
def test_a_body_is_fetched_however_it_is_sent(fetch: Fetch, path: str, body: bytes) -> None:
    assert fetch(path) == body


@pytest.mark.parametrize("path", sorted(WHOLE))
def test_a_body_is_unpacked_and_put_together(fetch: Fetch, path: str) -> None:
    assert fetch(path) == BODY


def test_a_redirect_within_the_rules_is_followed(fetch: Fetch, server: Server) -> None:
    assert fetch("to/~good") == BODY
    assert fetch(f"to/http:~~media.test:{server.port}~good") == BODY


def test_what_is_busy_is_tried_again(fetch: Fetch, server: Server) -> None:
    server.asked.clear()
    assert fetch("twice-busy", retries=2) == BODY
    assert server.asked["/twice-busy"] == 3


def test_many_are_fetched_at_once_and_each_has_its_own_end(server: Server) -> None:
    rules = FetchRules(
        frozenset({"http"}), (f"media.test:{server.port}",), networks=LOOPBACK, timeout_s=1.0, retries=0, concurrency=8
    )
    fetcher = Fetcher(rules)
    started = time.monotonic()
    paths = ["good", "silent", "404"] * 8
    results = [result for result, _ in fetcher.fetch_all([f"http://media.test:{server.port}/{path}" for path in paths])]
    assert [isinstance(result, bytes) for result in results] == [path == "good" for path in paths]
    assert time.monotonic() - started < 5
    fetcher.close()


def test_tls_is_checked_against_the_name(fetch: Fetch, tmp_path: Path) -> None:
    server, trusting = secure_server(tmp_path)
    rules = {"schemes": frozenset({"https"}), "hosts": (f"*.test:{server.port}",)}
    assert fetch(f"https://media.test:{server.port}/good", tls=trusting, **rules) == BODY
    other_name = refusal(fetch, f"https://cdn.media.test:{server.port}/good", tls=trusting, **rules)
    untrusted = refusal(fetch, f"https://media.test:{server.port}/good", **rules)
    assert other_name.reason is untrusted.reason is Reason.FETCH_FAILED
    assert "TLS" in other_name.detail
    server.close()


def of_buckets(server: Server, **changes: Any) -> dict[str, Any]:
    endpoint = f"http://127.0.0.1:{server.port}"
    return {"schemes": frozenset({"s3", "http"}), "hosts": ("shop", "to"), "s3_endpoint": endpoint, **changes}


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("s3://shop/c.jpg", "/shop/c.jpg"),
        ("s3://shop/a b/c+d.jpg", "/shop/a%20b/c%2Bd.jpg"),
        ("s3://shop/item#2?.jpg", "/shop/item%232%3F.jpg"),
        ("s3://shop/50%25.jpg", "/shop/50%2525.jpg"),
        ("s3://shop//a//b", "/shop//a//b"),
    ],
)
def test_an_object_is_asked_for_by_its_key(fetch: Fetch, server: Server, uri: str, path: str) -> None:
    server.asked.clear()
    assert refusal(fetch, uri, **of_buckets(server)).reason is Reason.FETCH_FAILED
    assert list(server.asked) == [path]


@pytest.mark.parametrize(
    "uri",
    [
        "s3://other/c.jpg",
        "s3://shop.evil/c.jpg",
        "s3://SHOP/c.jpg",
        "s3://shop/../other/c.jpg",
        "s3://shop/%2e%2e/other/c.jpg",
        "s3://shop/a/%252e%252e/%2e%2e/other/c.jpg",
        "s3://shop%2f../other/c.jpg",
        "s3://shop",
        "http://127.0.0.1:{port}/other/c.jpg",
        "http://127.0.0.1:{port}/shop/c.jpg",
        "http://127.0.0.1:{port}1/shop/c.jpg",
        "http://127.0.0.1:{port}.evil.test/shop/c.jpg",
        "http://127.0.0.1:{port}@evil.test/shop/c.jpg",
    ],
)
def test_an_endpoint_opens_nothing_but_the_listed_buckets(fetch: Fetch, server: Server, uri: str) -> None:
    server.asked.clear()
    for endpoint in (f"http://127.0.0.1:{server.port}", f"http://127.0.0.1:{str(server.port)[:-1]}"):
        error = refusal(fetch, uri.format(port=server.port), **of_buckets(server, s3_endpoint=endpoint))
        assert error.reason is Reason.URI_REFUSED
    assert not server.asked


def test_an_endpoint_may_redirect_only_to_where_any_uri_may_lead(fetch: Fetch, server: Server) -> None:
    key = "s3://to/~good"
    assert "not in encode.fetch.hosts" in refusal(fetch, key, **of_buckets(server)).detail
    assert "redirected to scheme" in refusal(fetch, key, **of_buckets(server, schemes=frozenset({"s3"}))).detail
    assert fetch(key, **of_buckets(server, hosts=("to", f"127.0.0.1:{server.port}"))) == BODY
    assert "s3_endpoint" in refusal(fetch, "s3://shop/c", **of_buckets(server, s3_endpoint=None)).detail


# ---------------------------------------------------------------------- where it may not go


@pytest.mark.parametrize(
    "uri",
    [
        "https://media.test/good",
        "ftp://media.test/good",
        "gopher://media.test/good",
        "file:///etc/passwd",
        "data:text/plain,hello",
        "//media.test/good",
        "good.jpg:",
    ],
)
def test_other_schemes_are_refused(fetch: Fetch, uri: str) -> None:
    assert refusal(fetch, uri).reason is Reason.URI_REFUSED


@pytest.mark.parametrize(
    "uri",
    [
        "http://evil.test/good",
        "http://media.test/good",  # another port than the one allowed
        "http://media.test:22/good",
        "http://media.test.evil.test/good",
        "http://media.test@evil.test/good",
        "http://user:secret@media.test/good",
        "http://[::1]/good",
        "http://media.test:x/good",
        "http://[/good",
        "http:///good",
        "http://127.0.0.1/good",
        "http://2130706433/good",
        "http://evil.test#media.test",
        "http://evil.test\\@media.test/",
    ],
)
def test_other_hosts_are_refused(fetch: Fetch, uri: str) -> None:
    assert refusal(fetch, uri).reason is Reason.URI_REFUSED


def test_a_star_stands_for_the_names_below_a_domain(fetch: Fetch, server: Server) -> None:
    uri = f"http://{{}}:{server.port}/good"
    hosts = (f"*.media.test:{server.port}",)
    assert fetch(uri.format("cdn.media.test"), hosts=hosts) == BODY
    for host in ("media.test", "evilmedia.test"):
        assert refusal(fetch, uri.format(host), hosts=hosts).reason is Reason.URI_REFUSED


@pytest.mark.parametrize("host", sorted(ADDRESSES.keys() - {"media.test", "cdn.media.test"}))
def test_a_name_that_leads_inside_is_refused_after_it_is_resolved(fetch: Fetch, server: Server, host: str) -> None:
    error = refusal(fetch, f"http://{host}:{server.port}/good", hosts=(f"{host}:{server.port}",))
    assert error.reason is Reason.URI_REFUSED
    assert "private" in error.detail


@pytest.mark.parametrize(
    "location",
    [
        "http:~~evil.test~good",
        "http:~~private.test:{port}~good",
        "https:~~media.test~good",
        "file:~~~etc~passwd",
        "~~evil.test~good",
    ],
)
def test_a_redirect_out_of_the_rules_is_refused(fetch: Fetch, server: Server, location: str) -> None:
    hosts = (f"media.test:{server.port}", f"private.test:{server.port}")
    error = refusal(fetch, "to/" + location.format(port=server.port), hosts=hosts)
    assert error.reason is Reason.URI_REFUSED


def test_the_connection_goes_to_the_address_that_was_checked(
    fetch: Fetch, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    resolve = socket.getaddrinfo

    def rebinding(host: str, port: int, *rest: Any, **named: Any) -> Any:
        asked.append(host)
        return resolve("private.test" if asked.count(host) > 1 else host, port, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    assert fetch("good") == BODY
    assert asked.count("media.test") == 1


def test_by_default_nothing_is_fetched() -> None:
    fetcher = Fetcher(FetchRules())
    for uri in ("https://media.test/good", "file:///etc/hostname", "http://media.test/", "s3://bucket/key"):
        with pytest.raises(ContentError, match=r"not allowed; encode\.fetch\.schemes has none"):
            fetcher.fetch(uri)
    fetcher.close()


# ---------------------------------------------------------------------- a server that misbehaves


@pytest.mark.parametrize(
    ("path", "reason", "said"),
    [
        ("404", Reason.FETCH_FAILED, "status 404"),
        ("503", Reason.FETCH_FAILED, r"status 503 \(tried 1 times\)"),
        ("204", Reason.FETCH_FAILED, "status 204"),
        ("says-large", Reason.TOO_LARGE, "999999999999 bytes are over"),
        ("is-large", Reason.TOO_LARGE, "more bytes than"),
        ("large-chunks", Reason.TOO_LARGE, "more bytes than"),
        ("half", Reason.FETCH_FAILED, "IncompleteRead"),
        ("noise", Reason.FETCH_FAILED, "BadStatusLine"),
        ("endless-head", Reason.FETCH_FAILED, "headers"),
        ("gone", Reason.FETCH_FAILED, "RemoteDisconnected"),
        ("round", Reason.FETCH_FAILED, "more than 3 redirects"),
    ],
)
def test_what_it_does_is_told(fetch: Fetch, path: str, reason: Reason, said: str) -> None:
    with pytest.raises(ContentError, match=said) as caught:
        fetch(path)
    assert caught.value.reason is reason


@pytest.mark.parametrize("path", sorted(CUT_SHORT))
def test_a_body_that_ends_early_or_makes_no_sense_is_not_taken_for_whole(fetch: Fetch, path: str) -> None:
    assert refusal(fetch, path).reason is Reason.FETCH_FAILED


def test_what_a_server_says_is_told_on_one_short_line(fetch: Fetch) -> None:
    detail = refusal(fetch, "long-noise").detail
    assert "BadStatusLine: ICY 200 noise" in detail
    assert len(detail) < 400
    assert "\n" not in detail
    assert "\r" not in detail


def test_a_small_body_that_unpacks_to_a_large_one_is_refused(fetch: Fetch) -> None:
    error = refusal(fetch, "gzip-bomb")
    assert error.reason is Reason.TOO_LARGE
    assert "unpacks to more bytes than the limit of 100000" in error.detail


@pytest.mark.parametrize("path", ["silent", "drips-head", "drips-body", "slowly-to/x", *sorted(DRIPS)])
def test_one_that_keeps_us_waiting_is_left_in_time(fetch: Fetch, server: Server, path: str) -> None:
    started = time.monotonic()
    with pytest.raises(ContentError, match=r"longer than 0\.5 s") as caught:
        fetch(path, timeout_s=0.5, retries=5)
    assert caught.value.reason is Reason.FETCH_FAILED
    assert f"http://media.test:{server.port}/{path}" in caught.value.detail
    assert time.monotonic() - started < 3


def secure_server(directory: Path) -> tuple[Server, ssl.SSLContext]:
    """And the context of a client that trusts it."""
    authority = Authority(directory)
    identity = authority.issue("server", ("media.test",))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.certificate, identity.key)
    return Server(context), ssl.create_default_context(cafile=str(authority.certificate))


def test_behind_tls_the_clock_is_the_same_and_an_end_without_goodbye_is_no_end(fetch: Fetch, tmp_path: Path) -> None:
    server, trusting = secure_server(tmp_path)
    rules = {"schemes": frozenset({"https"}), "hosts": (f"media.test:{server.port}",), "tls": trusting}
    uri = f"https://media.test:{server.port}/"
    assert fetch(uri + "closing", **rules) == BODY
    assert fetch(uri + "gzip-chunked", **rules) == BODY
    started = time.monotonic()
    for path in ("drips-closing", "drips-until-close", "drips-chunks", "drips-headers"):
        assert "longer than 0.5 s" in refusal(fetch, uri + path, timeout_s=0.5, **rules).detail
    assert time.monotonic() - started < 10
    assert refusal(fetch, uri + "until-close", **rules).reason is Reason.FETCH_FAILED
    server.close()


def test_a_name_that_takes_for_ever_to_resolve_is_left_in_time(fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: gate.wait(60))
    started = time.monotonic()
    assert "longer than 0.5 s" in refusal(fetch, "good", timeout_s=0.5).detail
    assert time.monotonic() - started < 3
    gate.set()


def test_an_address_that_does_not_answer_leaves_time_for_the_next(
    fetch: Fetch, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    mute = socket.socket()  # bound and not listening: what connects is refused; full: what connects waits
    mute.bind(("127.0.0.3", server.port))
    mute.listen(0)
    waiting = [socket.socket() for _ in range(4)]
    for each in waiting:
        each.setblocking(False)
        each.connect_ex(("127.0.0.3", server.port))
    monkeypatch.setitem(ADDRESSES, "media.test", ["127.0.0.3", "127.0.0.1"])
    networks = (ipaddress.ip_network("127.0.0.0/8"),)
    assert fetch("good", networks=networks, timeout_s=4) == BODY
    for each in [*waiting, mute]:
        each.close()


@pytest.mark.parametrize(
    "uri", ["http://media.test:{port}/{path}?X-Signature=SECRET", "http://media.test:{port}/{path}#SECRET"]
)
@pytest.mark.parametrize("path", ["drips-length", "404", "half", "says-large", "to/http:~~evil.test~a?SECRET"])
def test_a_failure_names_the_uri_without_its_secrets(fetch: Fetch, server: Server, uri: str, path: str) -> None:
    error = refusal(fetch, uri.format(port=server.port, path=path), timeout_s=0.5)
    assert f"http://media.test:{server.port}/{path.partition('?')[0]}?…" in error.detail
    assert "SECRET" not in error.detail
    error = refusal(fetch, f"http://user:SECRET@media.test:{server.port}/good")
    assert "credentials" in error.detail
    assert "SECRET" not in error.detail


def test_a_handshake_that_never_ends_is_left_in_time(fetch: Fetch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        started = time.monotonic()
        error = refusal(
            fetch,
            f"https://media.test:{port}/good",
            schemes=frozenset({"https"}),
            hosts=(f"media.test:{port}",),
            timeout_s=0.5,
        )
        assert error.reason is Reason.FETCH_FAILED
        assert time.monotonic() - started < 3


def test_nobody_there_and_no_such_name(fetch: Fetch) -> None:
    assert "Refused" in refusal(fetch, "http://media.test:9/x", hosts=("media.test:9",)).detail
    assert "does not resolve" in refusal(fetch, "http://unknown.test/x", hosts=("unknown.test",)).detail


# ---------------------------------------------------------------------- files


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "media" / "deep").mkdir(parents=True)
    (tmp_path / "media" / "deep" / "a disc.jpg").write_bytes(BODY)
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "media" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "media" / "inner-link").symlink_to(tmp_path / "media" / "deep" / "a disc.jpg")
    os.mkfifo(tmp_path / "media" / "pipe")
    return tmp_path


def of_files(root: Path) -> dict[str, Any]:
    return {"schemes": frozenset({"file"}), "roots": (root / "media",)}


@pytest.mark.parametrize("path", ["deep/a%20disc.jpg", "inner-link", "deep/../deep/a%20disc.jpg"])
def test_a_file_below_a_root_is_read(fetch: Fetch, root: Path, path: str) -> None:
    assert fetch(f"file://{root}/media/{path}", **of_files(root)) == BODY


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("media/../secret", Reason.URI_REFUSED),
        ("media/%2e%2e/secret", Reason.URI_REFUSED),
        ("secret", Reason.URI_REFUSED),
        ("media/link", Reason.URI_REFUSED),
        ("media/pipe", Reason.URI_REFUSED),
        ("media/deep", Reason.FETCH_FAILED),
        ("media/none", Reason.FETCH_FAILED),
        ("media/%00", Reason.URI_REFUSED),
        ("media-2/x", Reason.URI_REFUSED),
    ],
)
def test_no_other_file_is_read(fetch: Fetch, root: Path, path: str, reason: Reason) -> None:
    assert refusal(fetch, f"file://{root}/{path}", **of_files(root)).reason is reason


def test_a_file_on_another_host_is_refused(fetch: Fetch, root: Path) -> None:
    assert refusal(fetch, f"file://elsewhere{root}/media/x", **of_files(root)).reason is Reason.URI_REFUSED


@pytest.mark.parametrize("name", ["item#2.jpg", "what?.jpg", "100%.jpg", "a+b.jpg", "größe.jpg"])
def test_a_file_is_read_by_its_whole_name(fetch: Fetch, root: Path, name: str) -> None:
    (root / "media" / name).write_bytes(name.encode())
    (root / "media" / name.partition("#")[0].partition("?")[0]).write_bytes(name.encode())
    assert fetch(f"file://{root}/media/{name}", **of_files(root)) == name.encode()


def test_a_file_system_that_hangs_is_left_in_time(fetch: Fetch, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    monkeypatch.setattr(Fetcher, "_read_file", lambda *_: gate.wait(60))
    assert "longer than 0.5 s" in refusal(fetch, f"file://{root}/media/x", timeout_s=0.5, **of_files(root)).detail
    gate.set()


def test_a_large_file_is_refused(fetch: Fetch, root: Path) -> None:
    error = refusal(fetch, f"file://{root}/media/deep/a%20disc.jpg", max_bytes=100, **of_files(root))
    assert error.reason is Reason.TOO_LARGE
