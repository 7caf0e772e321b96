"""URIs: what may be fetched, and a server that misbehaves in every way. Nothing here leaves the loopback."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import ssl
import threading
import time
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
}


def answer(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def drip(connection: socket.socket, data: bytes) -> None:
    for byte in data:
        connection.sendall(bytes([byte]))
        time.sleep(0.05)


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
    authority = Authority(tmp_path)
    identity = authority.issue("server", ("media.test",))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.certificate, identity.key)
    trusting = ssl.create_default_context(cafile=str(authority.certificate))
    server = Server(context)
    rules = {"schemes": frozenset({"https"}), "hosts": (f"*.test:{server.port}",)}
    assert fetch(f"https://media.test:{server.port}/good", tls=trusting, **rules) == BODY
    other_name = refusal(fetch, f"https://cdn.media.test:{server.port}/good", tls=trusting, **rules)
    untrusted = refusal(fetch, f"https://media.test:{server.port}/good", **rules)
    assert other_name.reason is untrusted.reason is Reason.FETCH_FAILED
    assert "TLS" in other_name.detail
    server.close()


def test_objects_are_fetched_from_the_endpoint(fetch: Fetch, server: Server) -> None:
    rules = {"schemes": frozenset({"s3"}), "hosts": ("shop", "to"), "s3_endpoint": f"http://127.0.0.1:{server.port}"}
    server.asked.clear()
    refusal(fetch, "s3://shop/a b/c.jpg", **rules)
    assert list(server.asked) == ["/shop/a%20b/c.jpg"]
    assert refusal(fetch, "s3://other/c.jpg", **rules).reason is Reason.URI_REFUSED
    assert "redirected" in refusal(fetch, "s3://to/~good", **rules).detail
    assert "s3_endpoint" in refusal(fetch, "s3://shop/c", **{**rules, "s3_endpoint": None}).detail


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


@pytest.mark.parametrize("path", ["silent", "drips-head", "drips-body"])
def test_one_that_keeps_us_waiting_is_left_in_time(fetch: Fetch, path: str) -> None:
    started = time.monotonic()
    with pytest.raises(ContentError, match=r"longer than 0\.5 s") as caught:
        fetch(path, timeout_s=0.5, retries=5)
    assert caught.value.reason is Reason.FETCH_FAILED
    assert time.monotonic() - started < 3


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


def test_a_large_file_is_refused(fetch: Fetch, root: Path) -> None:
    error = refusal(fetch, f"file://{root}/media/deep/a%20disc.jpg", max_bytes=100, **of_files(root))
    assert error.reason is Reason.TOO_LARGE
