"""The HTTP port: what each path answers, and that no client can keep another one waiting."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import logging
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from http import HTTPStatus
from importlib import resources
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram

from worker.errors import ConfigError
from worker.monitoring import http as worker_http
from worker.monitoring.health import Health
from worker.monitoring.http import (
    HttpServer,
    Response,
    answer,
    content_security_policy,
    is_allowed,
    make_routes,
    status_json,
)
from worker.monitoring.status import (
    AccountingStatus,
    DeadLetterStatus,
    Mode,
    PartitionStatus,
    ProcessState,
    RoleStatus,
    Status,
)
from worker.partitions.state import PartitionState

PATHS = ("/", "/status.json", "/metrics", "/livez", "/readyz", "/startupz")
PAGE = resources.files("worker.monitoring").joinpath("status_page.html").read_text(encoding="utf-8")


def make_status(detail: str = "") -> Status:
    return Status(
        version="1.2.3",
        state=ProcessState.RUNNING,
        started_at_ms=1_000,
        now_ms=61_000,
        delivery="at_least_once",
        space={"space_id": "abc", "dim": 64, "modalities": ["text", "image"]},
        device={"device_requested": "auto", "device_active": "cpu"},
        roles=[make_role(detail)],
    )


def make_role(detail: str) -> RoleStatus:
    return RoleStatus(
        role="items",
        group_id="group",
        group_stable=True,
        topics={"items": "items"},
        mode=Mode.LIVE,
        partitions=[PartitionStatus(partition=0, state=PartitionState.RUNNING, position=12, committed=10, lag=3)],
        accounting=AccountingStatus(consumed=12, published=9, superseded=0, dead_lettered=1, abandoned=0, in_flight=2),
        per_second=3.5,
        latency_ms={"p50": 12.0, "p99": None},
        freshness_ms={"p50": 15.0, "p99": 40.0},
        batch_fill=0.5,
        batch_max_records=512,
        queue_records=1,
        queue_limit=8_192,
        unacknowledged=1,
        state={"remembered": 12, "bytes": 1_200},
        dead_letters=[DeadLetterStatus(at_ms=2_000, partition=0, offset=4, reason="schema", detail=detail)],
    )


class World:
    """A running server and the state behind it."""

    def __init__(self) -> None:
        self.registry, self.health = CollectorRegistry(), Health()
        self.status: Callable[[], Status] = make_status
        self.server = HttpServer("127.0.0.1", 0, self.registry, self.health, lambda: self.status())
        Counter("align_things_total", "Things.", registry=self.registry).inc(7)
        Histogram("align_times_seconds", "Times.", registry=self.registry).observe(0.2)


class Answer(NamedTuple):
    code: int
    headers: dict[str, str]
    body: bytes


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    world.server.start()
    yield world
    world.server.close()


def ask(server: HttpServer, path: str, method: str = "GET", body: bytes | None = None, host: str = "") -> Answer:
    with closing(http.client.HTTPConnection(urlsplit(server.address).netloc, timeout=5)) as connection:
        connection.request(method, path, body, {"Host": host} if host else {})
        response = connection.getresponse()
        return Answer(response.status, dict(response.getheaders()), response.read())


def connect(server: HttpServer) -> socket.socket:
    address = urlsplit(server.address)
    # Shorter than the server's own time-out, so that a test waiting for a cut does not take that for one.
    return socket.create_connection((address.hostname, address.port), timeout=2)


def test_probes_follow_the_health(world: World) -> None:
    def codes() -> list[int]:
        return [ask(world.server, path).code for path in ("/startupz", "/livez", "/readyz")]

    assert codes() == [503, 200, 503]
    world.health.started()
    assert codes() == [200, 200, 503]
    world.health.joined()
    assert codes() == [200, 200, 200]
    world.health.draining()
    assert codes() == [200, 200, 503]


def test_a_probe_gives_its_reason_on_one_line(world: World) -> None:
    world.health.dead("publish thread stopped:\n  KafkaTimeoutError\n")
    got = ask(world.server, "/livez")
    assert (got.code, got.body) == (503, b"publish thread stopped: KafkaTimeoutError\n")
    assert got.headers["Content-Type"] == "text/plain; charset=utf-8"


def test_metrics_are_prometheus_text_without_creation_times(world: World) -> None:
    got = ask(world.server, "/metrics")
    assert got.code == 200
    assert got.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = got.body.decode().splitlines()
    assert "align_things_total 7.0" in lines
    assert "align_times_seconds_count 1.0" in lines
    assert not [line for line in lines if "_created" in line]


def test_status_json_is_the_status(world: World) -> None:
    got = ask(world.server, "/status.json")
    assert (got.code, got.headers["Content-Type"]) == (200, "application/json")
    assert Status.model_validate_json(got.body) == make_status()


def test_half_a_surrogate_pair_in_a_dead_letter_does_not_break_the_status() -> None:
    shown = json.loads(status_json(make_status("bad \udc80 text")))
    assert shown["roles"][0]["dead_letters"][0]["detail"] == "bad \udc80 text"


@pytest.mark.parametrize("path", PATHS)
def test_head_answers_as_get_does_without_the_body(world: World, path: str) -> None:
    world.health.started()
    world.health.joined()
    got, head = ask(world.server, path), ask(world.server, path, "HEAD")
    assert (got.code, head.code, head.body) == (200, 200, b"")
    assert head.headers["Content-Length"] == got.headers["Content-Length"] == str(len(got.body))
    assert head.headers["Content-Type"] == got.headers["Content-Type"]


def test_nothing_follows_the_headers_of_head(world: World) -> None:
    with closing(connect(world.server)) as client:
        client.sendall(b"HEAD /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        answered = b"".join(iter(lambda: client.recv(4096), b""))
    assert answered.startswith(b"HTTP/1.1 200 ")
    assert answered.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("path", PATHS)
def test_no_answer_may_be_cached_or_guessed_at(world: World, path: str) -> None:
    headers = ask(world.server, path).headers
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "python" not in headers["Server"].lower()


def test_a_query_string_does_not_matter(world: World) -> None:
    assert ask(world.server, "/status.json?now=1").code == 200


def test_an_unknown_path_is_told_which_ones_there_are(world: World) -> None:
    got = ask(world.server, "/healthz")
    assert got.code == 404
    assert set(PATHS) <= set(got.body.decode().split())


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_only_get_and_head_are_allowed(world: World, method: str) -> None:
    got = ask(world.server, "/metrics", method, b"x" * 100)
    assert (got.code, got.headers["Allow"]) == (405, "GET, HEAD")


def test_a_request_that_is_not_http_is_refused_in_plain_text(world: World) -> None:
    with closing(connect(world.server)) as client:
        client.sendall(b"\x16\x03\x01 this is no request\r\n\r\n")
        answered = b"".join(iter(lambda: client.recv(4096), b""))
    assert b"400" in answered
    assert b"<html" not in answered.lower()


def test_a_fault_is_a_500_in_the_log_and_the_server_goes_on(world: World, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Status:
        raise RuntimeError("no status today")

    world.status = broken
    got = ask(world.server, "/status.json")
    assert got.code == 500
    assert b"no status today" not in got.body
    assert "no status today" in caplog.text
    assert ask(world.server, "/livez").code == 200


def test_nothing_is_written_to_the_log_or_the_terminal(
    world: World, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    for path in (*PATHS, "/nowhere"):
        ask(world.server, path)
    with closing(connect(world.server)) as client:
        client.sendall(b"nonsense\r\n\r\n")
        client.recv(4096)
    assert [each.message for each in caplog.records if not each.name.startswith("kafka")] == []  # no client of ours
    assert capfd.readouterr() == ("", "")


def test_clients_that_stall_do_not_hold_up_a_probe(world: World) -> None:
    with ExitStack() as open_sockets:
        for beginning in (b"", b"GET /metr", b"GET /metrics HTTP/1.1\r\nHost: x\r\n", b"POST / HTTP/1.1\r\n"):
            client = open_sockets.enter_context(closing(connect(world.server)))
            client.sendall(beginning)
        assert ask(world.server, "/livez").code == 200


def test_a_stalled_connection_is_cut_at_its_deadline(world: World) -> None:
    with closing(connect(world.server)) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\n")
        ask(world.server, "/livez")  # accepted after the stalled one, which therefore is known by now
        server = world.server._server
        assert server is not None
        server.cut(older_than_s=3600)
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(1)
        client.settimeout(2)
        server.cut(older_than_s=0)
        assert client.recv(1) == b""


def test_deadlines_are_looked_at_while_serving(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_http, "CONNECTION_DEADLINE_S", 0.0)
    with closing(connect(world.server)) as client:
        assert client.recv(1) == b""


def test_the_oldest_connection_gives_way_when_there_are_too_many(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_http, "MAX_CONNECTIONS", 3)
    with ExitStack() as open_sockets:
        clients = [open_sockets.enter_context(closing(connect(world.server))) for _ in range(4)]
        assert clients[0].recv(1) == b""
        clients[3].sendall(b"GET /livez HTTP/1.1\r\n\r\n")
        assert clients[3].recv(12) == b"HTTP/1.1 200"


def test_closing_ends_open_connections_and_may_be_repeated(world: World) -> None:
    with closing(connect(world.server)) as client:
        ask(world.server, "/livez")
        world.server.close()
        assert client.recv(1) == b""
    world.server.close()
    with pytest.raises(RuntimeError, match="not started"):
        _ = world.server.address


def test_a_server_starts_again_on_the_port_it_had(world: World) -> None:
    port = urlsplit(world.server.address).port
    assert port is not None
    ask(world.server, "/livez")
    world.server.close()
    again = HttpServer("127.0.0.1", port, world.registry, world.health, make_status)
    again.start()
    assert ask(again, "/livez").code == 200
    again.close()


def test_starting_asks_no_name_server(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(name: str = "") -> str:
        raise AssertionError(name)

    monkeypatch.setattr(socket, "getfqdn", hang)
    other = HttpServer("127.0.0.1", 0, world.registry, world.health, make_status)
    other.start()
    other.close()


def test_an_ipv6_address_is_a_url(world: World) -> None:
    server = HttpServer("::1", 0, world.registry, world.health, make_status)
    try:
        server.start()
    except ConfigError:
        pytest.skip("this machine has no IPv6")
    with closing(connect(server)):
        assert server.address.startswith("http://[::1]:")
    server.close()


@pytest.mark.parametrize(("host", "families"), [("::", "46"), ("[::]", "46"), ("[::1]", "6"), ("0.0.0.0", "4")])
def test_an_address_for_both_kinds_hears_both(world: World, host: str, families: str) -> None:
    server = HttpServer(host, 0, world.registry, world.health, make_status)
    try:
        server.start()
    except ConfigError:
        pytest.skip("this machine has no IPv6")
    port = urlsplit(server.address).port
    heard = ""
    for family, address in (("4", "127.0.0.1"), ("6", "[::1]")):
        with closing(http.client.HTTPConnection(f"{address}:{port}", timeout=5)) as connection, suppress(OSError):
            connection.request("GET", "/livez")
            assert connection.getresponse().status == 200
            heard += family
    server.close()
    assert heard == families


# ---------------------------------------------------------------------- by which name

OWN_NAMES = (
    "localhost", "localhost:9464", "LOCALHOST.", "127.0.0.1:9464", "10.1.2.3", "10.1.2.3:9464", "[::1]", "[::1]:9464",
    "[fd00::17]:9464", "[fe80::1%eth0]:9464",
)  # fmt: skip
STRANGE_NAMES = (
    "rebind.example", "rebind.example:9464", "worker", "localhost.example", "127.0.0.1.example", "example.localhost",
    "[rebind.example]", "[::1]rebind.example", "[::1].example:9464", "127.0.0.1:9464:80", "localhost:x", "[]", ":9464",
    "1.2.3.4@rebind.example", "rebind.example,localhost", "localhost rebind.example",
)  # fmt: skip


@pytest.mark.parametrize("host", OWN_NAMES)
@pytest.mark.parametrize("path", PATHS)
def test_addresses_and_localhost_are_answered_as_ever(world: World, host: str, path: str) -> None:
    world.health.started()
    world.health.joined()
    assert ask(world.server, path, host=host).code == 200


@pytest.mark.parametrize("host", STRANGE_NAMES)
@pytest.mark.parametrize("path", ["/", "/status.json", "/metrics", "/nothing"])
def test_another_name_is_refused_with_the_setting_that_allows_it(world: World, host: str, path: str) -> None:
    got = ask(world.server, path, host=host)
    assert got.code == 421
    assert b"http.allowed_hosts" in got.body
    assert len(got.body.splitlines()) == 1
    assert b"align_" not in got.body


@pytest.mark.parametrize("host", [*OWN_NAMES, *STRANGE_NAMES])
def test_a_probe_is_answered_under_every_name(world: World, host: str) -> None:
    assert [ask(world.server, path, host=host).code for path in ("/startupz", "/livez?verbose", "/readyz")] == [
        503, 200, 503,
    ]  # fmt: skip
    world.health.started()
    world.health.joined()
    world.health.dead("a detail")
    got = ask(world.server, "/livez", host=host)
    assert got.code == 503
    assert (b"a detail" in got.body) == (host in OWN_NAMES)


def test_names_can_be_allowed(world: World) -> None:
    names = ("worker.example", "*.align.svc")
    server = HttpServer("127.0.0.1", 0, world.registry, world.health, make_status, allowed_hosts=names)
    server.start()
    for host in ("worker.example", "Worker.Example.:9464", "a.align.svc", "a.b.align.svc:80", "localhost"):
        assert ask(server, "/metrics", host=host).code == 200, host
    for host in ("other.example", "a.worker.example", "align.svc", "notalign.svc"):
        assert ask(server, "/metrics", host=host).code == 421, host
    server.close()


def test_any_name_can_be_allowed(world: World) -> None:
    assert all(is_allowed(host, ("*",)) for host in ("rebind.example", "worker:9464", "localhost"))


def test_who_sends_no_name_is_no_browser_and_is_answered(world: World) -> None:
    for request in (b"GET /metrics HTTP/1.0\r\n\r\n", b"GET /metrics HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n"):
        with closing(connect(world.server)) as client:
            client.sendall(request)
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")


def test_of_several_names_each_must_be_allowed(world: World) -> None:
    with closing(connect(world.server)) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: rebind.example\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 421 ")


def test_a_port_in_use_names_the_setting(world: World) -> None:
    port = urlsplit(world.server.address).port
    assert port is not None
    second = HttpServer("127.0.0.1", port, world.registry, world.health, make_status)
    with pytest.raises(ConfigError, match=rf"http\.port: {port} is in use"):
        second.start()


def test_an_address_of_another_machine_names_the_setting(world: World) -> None:
    elsewhere = HttpServer("192.0.2.1", 0, world.registry, world.health, make_status)  # RFC 5737: nobody's
    with pytest.raises(ConfigError, match=r"http\.host: cannot listen on '192\.0\.2\.1'"):
        elsewhere.start()


def test_the_answer_is_a_response_whatever_happens() -> None:
    def broken() -> Response:
        raise KeyError("x")

    assert answer({"/x": broken}, "GET", "/x").code == HTTPStatus.INTERNAL_SERVER_ERROR
    assert answer({}, "GET", "/x").code == HTTPStatus.NOT_FOUND


def test_probes_and_page_do_not_ask_for_the_status(world: World) -> None:
    def stuck() -> Status:
        raise AssertionError

    routes = make_routes(world.registry, world.health, stuck)
    for path in ("/livez", "/readyz", "/startupz", "/"):
        assert answer(routes, "GET", path).code in (HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE)


def test_the_page_may_run_its_own_script_and_nothing_else(world: World) -> None:
    got = ask(world.server, "/")
    policy = dict(part.split(" ", 1) for part in got.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert "unsafe" not in got.headers["Content-Security-Policy"]
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        bodies = re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", got.body.decode(), re.DOTALL)
        digests = [base64.b64encode(hashlib.sha256(body.encode()).digest()).decode() for body in bodies]
        assert policy[directive].split() == [f"'sha256-{digest}'" for digest in digests] != []


def test_the_policy_follows_the_page() -> None:
    one, other = (content_security_policy(f"<style>a</style><script>{body}</script>") for body in "xy")
    assert one != other


def test_the_page_is_small_and_needs_nothing_from_elsewhere() -> None:
    assert len(PAGE.encode()) < 24_000
    assert not re.search(r"\bon[a-z]+\s*=\s*[\"']", PAGE), "inline event handlers"
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", PAGE)
    assert not re.search(r"(?:src|href)=\"(?!data:|[a-z.]+\")", PAGE), "only data: and relative addresses"
    assert re.search(r"<noscript>.*status\.json.*</noscript>", PAGE, re.DOTALL)


def test_every_status_field_is_shown_on_the_page() -> None:
    """A field that the page does not read is either missing there or not needed here."""
    fields = set(Status.model_fields) | set(PartitionStatus.model_fields) | set(DeadLetterStatus.model_fields)
    for name in (fields | set(AccountingStatus.model_fields)) - {"latency_ms", "freshness_ms"}:
        assert re.search(rf"\.{name}\b", PAGE), name
    assert re.search(r"\$\{name\}_ms", PAGE)
