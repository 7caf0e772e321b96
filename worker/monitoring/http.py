"""One port for Prometheus, the probes and the person on call.

Every answer is made from state that other threads keep: no handler asks Kafka or the model anything, so a
probe is as quick on a worker that hangs as on one that runs.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import ipaddress
import json
import logging
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from socketserver import TCPServer
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, disable_created_metrics, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from pydantic_core import PydanticSerializationError

from worker.errors import ConfigError
from worker.monitoring.health import Health, Probe
from worker.monitoring.status import Status

CONNECTION_DEADLINE_S = 5.0
"""A connection is cut when it is this old. An answer takes milliseconds; Prometheus gives up after 10 s."""
MAX_CONNECTIONS = 64
"""One more cuts the oldest: whatever holds it is slow, and a probe that waits behind it restarts the pod."""

PROBES = ("/livez", "/readyz", "/startupz")
SHOWN_CHARS = 200

_LOG = logging.getLogger(__name__)
_TEXT = "text/plain; charset=utf-8"
_HOST = re.compile(r"(\[(?P<address>[^\]]+)\]|(?P<name>[^:\[\]]+))(:\d*)?")


class Response(NamedTuple):
    code: HTTPStatus
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


Routes = Mapping[str, Callable[[], Response]]


def make_routes(registry: CollectorRegistry, health: Health, status: Callable[[], Status]) -> Routes:
    """Handlers by path."""
    page = resources.files("worker.monitoring").joinpath("status_page.html").read_text(encoding="utf-8")
    policy = (("Content-Security-Policy", content_security_policy(page)),)
    return {
        "/": lambda: Response(HTTPStatus.OK, "text/html; charset=utf-8", page.encode(), policy),
        "/status.json": lambda: Response(HTTPStatus.OK, "application/json", status_json(status())),
        "/metrics": lambda: Response(HTTPStatus.OK, CONTENT_TYPE_PLAIN_0_0_4, exposition(registry)),
        "/livez": lambda: _probe(health.livez()),
        "/readyz": lambda: _probe(health.readyz()),
        "/startupz": lambda: _probe(health.startupz()),
    }


def answer(routes: Routes, method: str, target: str) -> Response:
    """The response to one request. Never raises: a handler's fault is a 500."""
    path = target.partition("?")[0]
    if path not in routes:
        return _text(HTTPStatus.NOT_FOUND, f"no such path; there are {' '.join(routes)}")
    if method not in ("GET", "HEAD"):
        refusal = _text(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD are answered here")
        return refusal._replace(headers=(("Allow", "GET, HEAD"),))
    try:
        return routes[path]()
    except Exception:
        _LOG.exception("%s could not be answered", path, extra={"action": "http"})
        return _text(HTTPStatus.INTERNAL_SERVER_ERROR, "could not be answered; the log says why")


def answer_to(
    hosts: Sequence[str], allowed_hosts: Collection[str], routes: Routes, method: str, target: str
) -> Response:
    """The response to a request that was sent to these hosts, which is what its `Host` headers say.

    The browser of somebody who can reach this port lets a page of the web read what the page's own host answers, and
    whoever owns that host's name can make it lead here. Only a name gives that away; an address cannot be borrowed. A
    probe is answered under any name, with no more than its code under a strange one.
    """
    strange = [host for host in hosts if not is_allowed(host, allowed_hosts)]
    if not strange:
        return answer(routes, method, target)
    refusal = _text(
        HTTPStatus.MISDIRECTED_REQUEST,
        f"{strange[0][:SHOWN_CHARS]!r} is no name of this worker: list it in http.allowed_hosts, or use its IP address",
    )
    if target.partition("?")[0] not in PROBES:
        return refusal
    probe = answer(routes, method, target)
    return refusal._replace(code=probe.code, headers=probe.headers)


def is_allowed(host: str, allowed_hosts: Collection[str]) -> bool:
    """Whether a `Host` header names this server: `localhost`, an IP address, or one of the names, whatever the port."""
    whole = host.strip().lower()
    if not whole:  # no browser leaves it empty
        return True
    if (found := _HOST.fullmatch(whole)) is None:
        return False
    name = (found["address"] or found["name"]).rstrip(".")
    return _is_address(name) or (
        found["address"] is None and (name == "localhost" or any(_matches(name, each) for each in allowed_hosts))
    )


def _matches(name: str, pattern: str) -> bool:
    return pattern in ("*", name) or (pattern.startswith("*.") and name.endswith(pattern[1:]))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def exposition(registry: CollectorRegistry) -> bytes:
    """All metrics in the Prometheus text format 0.0.4."""
    # The series of creation times double the number of counters, and nothing here needs them.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def status_json(status: Status) -> bytes:
    try:
        return status.model_dump_json().encode()
    except PydanticSerializationError:
        # Text taken from a payload may hold half a surrogate pair, which UTF-8 cannot say and JSON can.
        return json.dumps(status.model_dump()).encode()


def content_security_policy(page: str) -> str:
    """Allow the page its own inline script and style, by hash, and requests to this server; nothing else."""
    hashes = {
        tag: " ".join(f"'sha256-{_sha256(body)}'" for body in re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL))
        for tag in ("script", "style")
    }
    return (
        f"default-src 'none'; script-src {hashes['script']}; style-src {hashes['style']}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _probe(probe: Probe) -> Response:
    return _text(HTTPStatus.OK if probe.ok else HTTPStatus.SERVICE_UNAVAILABLE, " ".join(probe.detail.split()))


def _text(code: HTTPStatus, line: str) -> Response:
    return Response(code, _TEXT, f"{line}\n".encode(errors="replace"))


class HttpServer:
    """Serves the routes from a thread of its own, one short-lived thread per connection."""

    def __init__(
        self,
        host: str,
        port: int,
        registry: CollectorRegistry,
        health: Health,
        status: Callable[[], Status],
        *,
        allowed_hosts: Collection[str] = (),
    ) -> None:
        """`host` is an address or a name, an IPv6 address with brackets or without; `::` listens on all addresses of
        both kinds. `allowed_hosts` as in `is_allowed`."""
        self._host, self._port = host.removeprefix("[").removesuffix("]"), port
        self._allowed_hosts = allowed_hosts
        self._routes = make_routes(registry, health, status)
        self._server: _Server | None = None

    def start(self) -> None:
        """Listen, and serve until `close`. Raises `ConfigError` where host and port cannot be listened on."""
        try:
            self._server = _Server(self._host, self._port, self._routes, self._allowed_hosts)
        except OSError as error:
            raise _cannot_listen(self._host, self._port, error) from error
        threading.Thread(target=self._server.serve_forever, name="http", daemon=True).start()

    @property
    def address(self) -> str:
        """`http://HOST:PORT`, with the port that was found where 0 was asked for."""
        if self._server is None:
            raise RuntimeError("the HTTP server is not started")
        host, port = self._server.server_name, self._server.server_port
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def close(self) -> None:
        """Stop listening and cut what is open. Does not wait for clients; may be called twice."""
        server, self._server = self._server, None
        if server is not None:
            with suppress(OSError):  # wakes the accepting thread; where it cannot, that takes half a second
                server.socket.shutdown(socket.SHUT_RDWR)
            server.shutdown()
            server.server_close()
            server.cut(older_than_s=0.0)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, host: str, port: int, routes: Routes, allowed_hosts: Collection[str]) -> None:
        self.routes, self.allowed_hosts = routes, allowed_hosts
        self._since: dict[socket.socket, float] = {}  # oldest first
        self._lock = threading.Lock()
        self.address_family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        super().__init__(address, _Handler)  # type: ignore[arg-type]

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:  # whether `::` hears IPv4, too, is else a setting of the system
            with suppress(OSError):
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # Not HTTPServer's: that asks DNS for this host's full name, and hangs where nobody answers.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._since[request] = time.monotonic()
            surplus = list(self._since)[:-MAX_CONNECTIONS]
        _cut(surplus)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._since.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        self.cut(CONNECTION_DEADLINE_S)

    def cut(self, older_than_s: float) -> None:
        """End connections of this age. The socket's own time-out starts anew with each byte that comes in."""
        limit = time.monotonic() - older_than_s
        with self._lock:
            expired = [request for request, since in self._since.items() if since <= limit]
        _cut(expired)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # clients that go away are no news
            _LOG.exception("a connection failed", extra={"action": "http"})


def _cut(connections: list[socket.socket]) -> None:
    for connection in connections:
        with suppress(OSError):  # its own thread may have closed it
            connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "align-worker", ""
    timeout = CONNECTION_DEADLINE_S
    disable_nagle_algorithm = True  # headers and body are two writes; the second would wait for the first's receipt
    error_content_type, error_message_format = _TEXT, "%(code)d %(message)s\n"

    def do_GET(self) -> None:
        server, hosts = self.server, self.headers.get_all("Host", [])
        response = answer_to(hosts, server.allowed_hosts, server.routes, self.command, self.path)
        self.send_response(response.code)
        for name, value in (
            ("Content-Type", response.content_type),
            ("Content-Length", str(len(response.body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
            ("Connection", "close"),
            *response.headers,
        ):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Probes and scrapes come every few seconds: no access log."""


def _cannot_listen(host: str, port: int, error: OSError) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        return ConfigError(f"http.port: {port} is in use on {host}: choose another, or 0 for any free one")
    if error.errno in (errno.EACCES, errno.EPERM):
        return ConfigError(f"http.port: not allowed to listen on {port}: choose one above 1023")
    return ConfigError(
        f"http.host: cannot listen on {host!r} ({error.strerror or error}): "
        "use 0.0.0.0 for all IPv4 addresses, :: for those of IPv6, too, or 127.0.0.1 for this machine only"
    )
