"""Content from URIs: off unless configured, and then from nowhere but where the configuration says.

Item messages come from strangers, and a worker stands inside the network: what it fetches for them must not reach
anything that they could not reach themselves. So a scheme, host and, for files, a directory have to be on a list; every
address that a host resolves to is checked, and the connection goes to the address that was checked; a redirect is a
new URI under the same rules. Bytes and time are limited, the time by one clock for all that a content takes:
names, connections, answers, retries and unpacking.
"""

from __future__ import annotations

import http.client
import ipaddress
import os
import random
import socket
import ssl
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urljoin

from schemas import Reason
from worker.encode.clock import Aside, Clock, LateError
from worker.encode.http_get import Redirect, Resolved, StatusError, get
from worker.encode.media.errors import ContentError, too_large
from worker.encode.unpacking import CutShortError
from worker.encode.uris import (
    PORTS,
    HostRule,
    UriError,
    WebUri,
    parse_endpoint,
    parse_file,
    parse_object,
    parse_web,
    scheme_of,
    shown,
)

Scheme = Literal["file", "http", "https", "s3"]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_REDIRECTS = 3
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
FIRST_WAIT_S = 0.2
SHOWN_CHARS = 200
TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
"""IPv4 as the IPv6 side of a NAT64 sees it."""
NOT_PUBLIC = tuple(
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24",  # protocol assignments; metadata of Oracle's cloud
        "168.63.129.16/32",  # the host of a virtual machine in Azure
        "fec0::/10",  # site-local
        "3fff::/20",  # documentation
    )
)
"""Beside what the standard library, in its older versions, takes for private."""


@dataclass(frozen=True, slots=True)
class FetchRules:
    """Rules for fetching: which URIs, how large, how long. Nothing is allowed by default."""

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
    """Limit of a body, as sent and as unpacked."""
    timeout_s: float = 10.0
    """For one content, retries and redirects included."""
    retries: int = 2
    concurrency: int = 16


class _TransientError(Exception):
    """It may work the next time."""


class Fetcher:
    """Fetches under `rules`. Any number of threads may call it. Raises `UriError` for rules that cannot be read."""

    def __init__(
        self,
        rules: FetchRules,
        *,
        tls: ssl.SSLContext | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rules = rules
        self._hosts = [HostRule.parse(entry) for entry in rules.hosts]
        self._roots = [root.resolve() for root in rules.roots]
        self._endpoint = None if rules.s3_endpoint is None else parse_endpoint(rules.s3_endpoint)
        self._sleep = sleep
        self._tls = tls or ssl.create_default_context()
        self._threads = ThreadPoolExecutor(rules.concurrency, "fetch")
        self._aside = Aside(2 * rules.concurrency)

    def fetch_all(self, uris: Sequence[str]) -> Iterator[tuple[bytes | ContentError, float]]:
        """One result per URI, in order, and the seconds it took; at most `concurrency` at a time. Who stops listening
        cancels what is not begun."""
        return self._threads.map(self._fetch_or_error, uris)

    def fetch(self, uri: str) -> bytes:
        """The bytes. Raises `ContentError`: `uri_refused`, `fetch_failed` or `too_large`, which names the URI."""
        try:
            return self._fetch(uri, Clock(self._rules.timeout_s))
        except UriError as error:
            raise ContentError(Reason.URI_REFUSED, f"uri: {error}: {shown(uri)}") from error
        except LateError as error:
            raise ContentError(Reason.FETCH_FAILED, f"uri: {error}: {shown(uri)}") from error
        except ContentError as error:
            raise ContentError(error.reason, f"uri: {error.detail}: {shown(uri)}") from error

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _fetch_or_error(self, uri: str) -> tuple[bytes | ContentError, float]:
        started = time.monotonic()
        try:
            result: bytes | ContentError = self.fetch(uri)
        except ContentError as error:
            result = error
        return result, time.monotonic() - started

    def _fetch(self, uri: str, clock: Clock) -> bytes:
        scheme = scheme_of(uri)
        if scheme not in self._rules.schemes:
            allowed = ", ".join(sorted(self._rules.schemes)) or "none"
            raise UriError(f"scheme {scheme[:SHOWN_CHARS]!r} is not allowed; encode.fetch.schemes has {allowed}")
        if scheme == "file":
            path = parse_file(uri)
            return self._aside.call(lambda: self._read_file(path), clock)
        start = self._object(uri) if scheme == "s3" else self._admitted(uri)
        for attempt in range(self._rules.retries + 1):
            try:
                return self._follow(start, clock)
            except _TransientError as error:
                wait_s = FIRST_WAIT_S * 2**attempt * random.uniform(0.5, 1.5)
                if attempt == self._rules.retries or clock.left_s() < wait_s:
                    raise _failed(f"{error} (tried {attempt + 1} times)") from error
                self._sleep(wait_s)
        raise AssertionError("the last attempt returns or raises")

    # ------------------------------------------------------------------ files

    def _read_file(self, name: str) -> bytes:
        try:
            path = Path(name).resolve()
        except (OSError, ValueError, RuntimeError) as error:
            raise UriError("the path cannot be resolved") from error
        if not any(path.is_relative_to(root) for root in self._roots):
            raise UriError("the file lies in none of encode.fetch.roots")
        try:
            # What the path names now may not be what was resolved; a link put there meanwhile is not followed, and a
            # pipe does not hold us.
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise UriError("not a regular file")
                data = file.read(self._rules.max_bytes + 1)
        except OSError as error:
            raise _failed(f"the file cannot be read: {error.strerror}") from error
        if len(data) > self._rules.max_bytes:
            raise too_large(f"more bytes than the limit of {self._rules.max_bytes}")
        return data

    # ------------------------------------------------------------------ HTTP

    def _object(self, uri: str) -> WebUri:
        """Where an object of a listed bucket lies. The endpoint is the operator's own, and needs no entry in the list;
        for nothing but that: a URI that names it as its host is judged as any other."""
        if self._endpoint is None:
            raise UriError("s3: needs encode.fetch.s3_endpoint")
        named = parse_object(uri)
        if not any(rule.admits_bucket(named.bucket) for rule in self._hosts):
            raise UriError(f"bucket {named.bucket[:SHOWN_CHARS]!r} is not in encode.fetch.hosts")
        return self._endpoint._replace(target=named.target(self._endpoint.target))

    def _admitted(self, uri: str) -> WebUri:
        target = parse_web(uri)
        if not any(rule.admits(target) for rule in self._hosts):
            named = target._replace(target="")
            raise UriError(f"host {str(named)[:SHOWN_CHARS]!r} is not in encode.fetch.hosts")
        return target

    def _follow(self, target: WebUri, clock: Clock) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._get(target, clock)
            if isinstance(answer, bytes):
                return answer
            target = self._redirected(target, answer)
        raise _failed(f"more than {MAX_REDIRECTS} redirects")

    def _redirected(self, source: WebUri, redirect: Redirect) -> WebUri:
        """Where a redirect points, under the rules that any URI is under."""
        try:
            uri = urljoin(str(source), redirect.location)
        except ValueError as error:
            raise UriError("redirected to what is no URI") from error
        scheme = scheme_of(uri)
        if scheme not in self._rules.schemes & PORTS.keys():
            raise UriError(f"redirected to scheme {scheme[:SHOWN_CHARS]!r}")
        try:
            return self._admitted(uri)
        except UriError as error:
            raise UriError(f"redirected, and there: {error}") from error

    def _get(self, target: WebUri, clock: Clock) -> bytes | Redirect:
        addresses = self._resolved(target, clock)
        tls = self._tls if target.scheme == "https" else None
        try:
            return get(target, addresses, clock, tls=tls, max_bytes=self._rules.max_bytes)
        except StatusError as error:
            if error.status in TRANSIENT:
                raise _TransientError(str(error)) from error
            raise _failed(str(error)) from error
        except CutShortError as error:
            raise _TransientError(str(error)) from error
        except ssl.SSLError as error:
            if isinstance(error, ssl.SSLEOFError):
                raise _TransientError(f"TLS: {error}") from error
            raise _failed(f"TLS: {error}") from error
        except (OSError, http.client.HTTPException) as error:
            said = " ".join(str(error).split())[:SHOWN_CHARS]  # some of it is the server's, of any length and form
            raise _TransientError(f"{type(error).__name__}: {said}") from error
        except ValueError as error:
            raise _failed(str(error)) from error

    def _resolved(self, target: WebUri, clock: Clock) -> Resolved:
        """The addresses of a host, all of which may be connected to. A resolver has no deadline of its own."""
        try:
            found = self._aside.call(
                lambda: socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM), clock
            )
        except (OSError, UnicodeError) as error:
            raise _TransientError(f"host {target.host[:SHOWN_CHARS]!r} does not resolve") from error
        addresses = list(dict.fromkeys((int(family), address) for family, _, _, _, address in found))
        for _, address in addresses:
            self._require_allowed(str(address[0]), target.host)
        return addresses

    def _require_allowed(self, text: str, host: str) -> None:
        address = _behind(ipaddress.ip_address(text.partition("%")[0]))
        if not _is_public(address) and not any(address in network for network in self._rules.networks):
            raise UriError(f"host {host!r} resolves to {address}, which is private; encode.fetch.networks may allow it")


def _behind(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, or leads to through a translator or tunnel."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in TRANSLATED:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or address


def _is_public(address: Address) -> bool:
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not any(address in network for network in NOT_PUBLIC)
    )


def _failed(detail: str) -> ContentError:
    return ContentError(Reason.FETCH_FAILED, detail)
