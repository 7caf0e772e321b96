"""Content from URIs: off unless configured, and then from nowhere but where the configuration says.

Item messages come from strangers, and a worker stands inside the network: what it fetches for them must not reach
anything that they could not reach themselves. So a scheme, host and, for files, a directory have to be on a list; every
address that a host resolves to is checked, and the connection goes to the address that was checked; a redirect is a
new URI under the same rules. Bytes and time are limited, the time by a clock of its own, because a server that
sends one byte a second never times a socket out.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import os
import random
import socket
import ssl
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from schemas import Reason
from worker.encode.media.errors import ContentError, too_large

Scheme = Literal["file", "http", "https", "s3"]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_REDIRECTS = 3
REDIRECTS = (301, 302, 303, 307, 308)
PORTS = {"http": 80, "https": 443}
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
CHUNK_BYTES = 256 * 1_024
FIRST_WAIT_S = 0.2
SHOWN_CHARS = 200


@dataclass(frozen=True, slots=True)
class FetchRules:
    """What may be fetched, and what it may cost. Nothing by default."""

    schemes: frozenset[Scheme] = frozenset()
    hosts: tuple[str, ...] = ()
    """`host`, `host:port` or `*.domain`; for `s3:` the buckets."""
    roots: tuple[Path, ...] = ()
    """Directories that `file:` URIs may lie in."""
    networks: tuple[Network, ...] = ()
    """Networks with private addresses that may be connected to all the same."""
    s3_endpoint: str | None = None
    """Base URL under which the objects of buckets lie, as `https://host/`."""
    max_bytes: int = 64 * 2**20
    timeout_s: float = 10.0
    """For one content, retries and redirects included."""
    retries: int = 2
    concurrency: int = 16


class _TransientError(Exception):
    """It may work the next time."""


class _Target(NamedTuple):
    """A URI whose scheme and host are allowed."""

    scheme: str
    host: str
    port: int
    path: str


class Fetcher:
    """Fetches under `rules`. Any number of threads may call it."""

    def __init__(
        self,
        rules: FetchRules,
        *,
        tls: ssl.SSLContext | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rules = rules
        self._roots = [root.resolve() for root in rules.roots]
        self._sleep = sleep
        self._tls = tls or ssl.create_default_context()
        self._threads = ThreadPoolExecutor(rules.concurrency, "fetch")

    def fetch_all(self, uris: Sequence[str]) -> Iterator[tuple[bytes | ContentError, float]]:
        """One result per URI, in order, and the seconds it took; at most `concurrency` at a time. Who stops listening
        cancels what is not begun."""
        return self._threads.map(self._fetch_or_error, uris)

    def fetch(self, uri: str) -> bytes:
        """The bytes. Raises `ContentError`: `uri_refused`, `fetch_failed` or `too_large`."""
        parts = _split(uri)
        if parts.scheme not in self._rules.schemes:
            allowed = ", ".join(sorted(self._rules.schemes)) or "none"
            raise _refused(f"scheme {parts.scheme!r} is not allowed; encode.fetch.schemes has {allowed}")
        if parts.scheme == "file":
            return self._read_file(parts)
        deadline = time.monotonic() + self._rules.timeout_s
        for attempt in range(self._rules.retries + 1):
            try:
                return self._follow(self._object_url(parts) if parts.scheme == "s3" else uri, deadline)
            except _TransientError as error:
                wait_s = FIRST_WAIT_S * 2**attempt * random.uniform(0.5, 1.5)
                if attempt == self._rules.retries or time.monotonic() + wait_s > deadline:
                    raise _failed(f"{error} (tried {attempt + 1} times)") from error
                self._sleep(wait_s)
        raise AssertionError("the last attempt returns or raises")

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _fetch_or_error(self, uri: str) -> tuple[bytes | ContentError, float]:
        started = time.monotonic()
        try:
            result: bytes | ContentError = self.fetch(uri)
        except ContentError as error:
            result = error
        return result, time.monotonic() - started

    # ------------------------------------------------------------------ files

    def _read_file(self, parts: SplitResult) -> bytes:
        if parts.netloc not in ("", "localhost"):
            raise _refused(f"a file on host {parts.netloc!r}")
        try:
            path = Path(unquote(parts.path)).resolve()
        except (OSError, ValueError, RuntimeError) as error:
            raise _refused("the path cannot be resolved") from error
        if not any(path.is_relative_to(root) for root in self._roots):
            raise _refused("the file lies in none of encode.fetch.roots")
        try:
            # What the path names now may not be what was resolved; a link put there meanwhile is not followed, and a
            # pipe does not hold us.
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise _refused("not a regular file")
                return self._bounded(file.read(self._rules.max_bytes + 1))
        except OSError as error:
            raise _failed(f"the file cannot be read: {error.strerror}") from error

    # ------------------------------------------------------------------ HTTP

    def _object_url(self, parts: SplitResult) -> str:
        if self._rules.s3_endpoint is None:
            raise _refused("s3: needs encode.fetch.s3_endpoint")
        if not _matches(parts.netloc, None, self._rules.hosts):
            raise _refused(f"bucket {parts.netloc!r} is not in encode.fetch.hosts")
        return f"{self._rules.s3_endpoint.rstrip('/')}/{quote(parts.netloc)}/{parts.path.lstrip('/')}"

    def _follow(self, uri: str, deadline: float) -> bytes:
        endpoint = self._rules.s3_endpoint
        for _ in range(MAX_REDIRECTS + 1):
            is_endpoint = endpoint is not None and uri.startswith(endpoint)
            answer = self._get(self._target(uri, is_endpoint=is_endpoint), deadline)
            if isinstance(answer, bytes):
                return answer
            uri = urljoin(uri, answer)
            if _split(uri).scheme not in self._rules.schemes & PORTS.keys():
                raise _refused(f"redirected to scheme {_split(uri).scheme!r}")
        raise _failed(f"more than {MAX_REDIRECTS} redirects")

    def _target(self, uri: str, *, is_endpoint: bool) -> _Target:
        parts = _split(uri)
        try:
            host, port = parts.hostname or "", parts.port
        except ValueError as error:
            raise _refused("the port is no number") from error
        if parts.username is not None or parts.password is not None:
            raise _refused("credentials in a URI")
        if not is_endpoint and not _matches(host, port, self._rules.hosts):
            raise _refused(f"host {host[:SHOWN_CHARS]!r} is not in encode.fetch.hosts")
        path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._") + (f"?{parts.query}" if parts.query else "")
        return _Target(parts.scheme, host, port or PORTS[parts.scheme], path)

    def _get(self, target: _Target, deadline: float) -> bytes | str:
        """The body, or where a redirect points."""
        connection = self._connection(target, deadline)
        # Ends whatever the server keeps us at: a handshake, headers or a body that drips.
        clock = threading.Timer(max(0.0, deadline - time.monotonic()), connection.abort)
        clock.daemon = True
        clock.start()
        try:
            connection.request("GET", target.path, headers={"Accept": "*/*", "User-Agent": "align-worker"})
            response = connection.getresponse()
            if response.status in REDIRECTS and (location := response.getheader("Location")):
                return location
            if response.status in TRANSIENT:
                raise _TransientError(f"status {response.status}")
            if response.status != 200:
                raise _failed(f"status {response.status}")
            return self._body(response)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if time.monotonic() >= deadline:
                raise _failed(f"takes longer than {self._rules.timeout_s:g} s") from error
            if isinstance(error, ssl.SSLError):
                raise _failed(f"TLS: {error}") from error
            raise _TransientError(f"{type(error).__name__}: {error}") from error
        finally:
            clock.cancel()
            connection.close()

    def _body(self, response: http.client.HTTPResponse) -> bytes:
        declared = response.getheader("Content-Length", "")
        if declared.isdecimal() and int(declared) > self._rules.max_bytes:
            raise too_large(f"{declared} bytes are over the limit of {self._rules.max_bytes}")
        chunks: list[bytes] = []
        num_bytes = 0
        while chunk := response.read1(CHUNK_BYTES) if response.chunked else response.read(CHUNK_BYTES):
            num_bytes += len(chunk)
            chunks.append(chunk)
            if num_bytes > self._rules.max_bytes:
                break
        if declared.isdecimal() and num_bytes < int(declared):
            raise http.client.IncompleteRead(b"", int(declared) - num_bytes)
        return self._bounded(b"".join(chunks))

    def _bounded(self, data: bytes) -> bytes:
        if len(data) > self._rules.max_bytes:
            raise too_large(f"more bytes than the limit of {self._rules.max_bytes}")
        return data

    def _connection(self, target: _Target, deadline: float) -> _Connection:
        try:
            found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise _TransientError(f"host {target.host[:SHOWN_CHARS]!r} does not resolve") from error
        addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
        for address in addresses:
            self._require_allowed(address, target.host)
        timeout_s = deadline - time.monotonic()
        if timeout_s <= 0:
            raise _failed(f"takes longer than {self._rules.timeout_s:g} s")
        tls = self._tls if target.scheme == "https" else None
        return _Connection(target, addresses, timeout_s, tls)

    def _require_allowed(self, address: str, host: str) -> None:
        checked = ipaddress.ip_address(address.partition("%")[0])
        mapped = getattr(checked, "ipv4_mapped", None)
        checked = mapped or checked
        if not (checked.is_global and not checked.is_multicast) and not any(
            checked in network for network in self._rules.networks
        ):
            raise _refused(f"host {host!r} resolves to {checked}, which is private; encode.fetch.networks may allow it")


class _Connection(http.client.HTTPConnection):
    """Connects to the addresses that were checked, under the name that was asked for."""

    def __init__(self, target: _Target, addresses: Sequence[str], timeout_s: float, tls: ssl.SSLContext | None) -> None:
        super().__init__(target.host, target.port, timeout=timeout_s)
        self._addresses, self._tls = addresses, tls
        self.default_port = PORTS[target.scheme]

    def connect(self) -> None:
        self.sock = self._connected()
        if self._tls is not None:
            # The handshake begins when `abort` can end it.
            self.sock = self._tls.wrap_socket(self.sock, server_hostname=self.host, do_handshake_on_connect=False)
            self.sock.do_handshake()

    def _connected(self) -> socket.socket:
        for address in self._addresses[:-1]:
            with contextlib.suppress(OSError):
                return socket.create_connection((address, self.port), self.timeout)
        return socket.create_connection((self._addresses[-1], self.port), self.timeout)

    def abort(self) -> None:
        """Wake up whoever waits for the server, from another thread."""
        if self.sock is not None:
            with contextlib.suppress(OSError):  # it is gone already
                socket.socket.shutdown(self.sock, socket.SHUT_RDWR)


def _split(uri: str) -> SplitResult:
    try:
        return urlsplit(uri)
    except ValueError as error:
        raise _refused("it is not a URI") from error


def _matches(host: str, port: int | None, allowed: Sequence[str]) -> bool:
    """Whether a host is on the list. A port other than the scheme's own has to be there, too."""
    host = host.lower().rstrip(".")
    for entry in allowed:
        name, _, entry_port = entry.lower().partition(":")
        same_port = entry_port == ("" if port is None else str(port))
        if same_port and (host == name or (name.startswith("*.") and host.endswith(name[1:]) and host != name[2:])):
            return True
    return False


def _refused(detail: str) -> ContentError:
    return ContentError(Reason.URI_REFUSED, f"uri: {detail}")


def _failed(detail: str) -> ContentError:
    return ContentError(Reason.FETCH_FAILED, f"uri: {detail}")
