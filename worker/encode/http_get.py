"""One GET over HTTP, every step of it under one clock: connection, handshake, headers, body, and what it is packed in.

A socket's own time limit starts anew with every byte, and a server chooses how its body ends; so each single read asks
the clock how long it may take. A body that ends before it says so is an error, never a shorter body.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
import ssl
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from worker.encode.clock import Clock
from worker.encode.media.errors import too_large
from worker.encode.unpacking import unpacked
from worker.encode.uris import PORTS, WebUri

CHUNK_BYTES = 256 * 1_024
REDIRECTS = (301, 302, 303, 307, 308)
MAX_LINE_BYTES = 65_536
MAX_SIZE_DIGITS = 16
MAX_TRAILERS = 100
MAX_INTERIM = 16  # answers before the answer, as 100 Continue and 103 Early Hints

Resolved = Sequence[tuple[int, Any]]
"""Address families and socket addresses, all of which may be connected to."""


class StatusError(Exception):
    """An answer that is neither the body nor a redirect."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


class Redirect(NamedTuple):
    location: str


def get(
    uri: WebUri, addresses: Resolved, clock: Clock, *, tls: ssl.SSLContext | None, max_bytes: int
) -> bytes | Redirect:
    """The body, unpacked, or where a redirect points.

    Raises `LateError`, `StatusError`, `ContentError` for too many bytes, and `OSError`, `HTTPException` or
    `ValueError` for a server that breaks off or makes no sense.
    """
    connection = _Connection(uri, addresses, clock, tls)
    try:
        connection.request("GET", uri.target, headers={"Accept": "*/*", "User-Agent": "align-worker"})
        response = connection.getresponse()
        location = response.getheader("Location")
        if response.status in REDIRECTS and location:
            return Redirect(_as_text(location))
        if response.status != 200:
            raise StatusError(response.status)
        body = _body(response, max_bytes)
        codings = ",".join(response.headers.get_all("Content-Encoding", []))
        return unpacked(body, codings, max_bytes, clock.left_s)
    finally:
        connection.release()


def _body(response: http.client.HTTPResponse, max_bytes: int) -> bytes:
    """Read the body as it was sent; chunks are put together."""
    codings = ",".join(response.headers.get_all("Transfer-Encoding", []))
    if codings and codings.strip().lower() not in ("chunked", "identity"):
        raise http.client.HTTPException(f"Transfer-Encoding {codings[:40]!r}")
    declared = None if response.chunked else _declared_bytes(response)
    if declared is not None and declared > max_bytes:
        raise too_large(f"{declared} bytes are over the limit of {max_bytes}")
    response.length = declared
    body = bytearray()
    for part in _chunks(response) if response.chunked else iter(lambda: response.read(CHUNK_BYTES), b""):
        body += part
        if len(body) > max_bytes:
            raise too_large(f"more bytes than the limit of {max_bytes}")
    if declared is not None and len(body) < declared:
        raise http.client.IncompleteRead(b"", declared - len(body))
    return bytes(body)


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Read here, because the base class takes half a line with a 0 in it for the last chunk."""
    while (size := _chunk_size(_line(response))) > 0:
        while size:
            part = response.fp.read(min(size, CHUNK_BYTES))
            if not part:
                raise http.client.IncompleteRead(b"", size)
            size -= len(part)
            yield part
        if _line(response).strip():
            raise http.client.HTTPException("a chunk is longer than it says")
    for _ in range(MAX_TRAILERS):
        if not _line(response).strip():
            return
    raise http.client.HTTPException(f"more than {MAX_TRAILERS} trailers")


def _chunk_size(line: bytes) -> int:
    digits = line.partition(b";")[0].strip()
    if not 0 < len(digits) <= MAX_SIZE_DIGITS or digits.strip(b"0123456789abcdefABCDEF"):
        raise http.client.HTTPException("a chunk without a size")
    return int(digits, 16)


def _line(response: http.client.HTTPResponse) -> bytes:
    line = response.fp.readline(MAX_LINE_BYTES)
    if not line.endswith(b"\n"):
        raise http.client.IncompleteRead(line)
    return line


def _declared_bytes(response: http.client.HTTPResponse) -> int | None:
    """None: the body goes on until the server closes."""
    lines = response.headers.get_all("Content-Length", [])
    values = {value.strip() for line in lines for value in line.split(",")}
    if not values:
        return None
    value = values.pop()
    if values or not (value.isascii() and value.isdecimal()) or len(value) > 18:
        raise http.client.HTTPException("Content-Length is no number, or several")
    return int(value)


def _as_text(header: str) -> str:
    """Headers are read as Latin-1; servers write UTF-8."""
    try:
        return header.encode("latin-1").decode()
    except UnicodeError:
        return header


class _Response(http.client.HTTPResponse):
    """Skips any interim answer as if it were 100 Continue."""

    _num_interim = 0

    def _read_status(self) -> tuple[str, int, str]:
        version, status, reason = super()._read_status()  # type: ignore[misc]
        if 100 <= status < 200 and status != http.client.SWITCHING_PROTOCOLS:
            self._num_interim += 1
            if self._num_interim > MAX_INTERIM:
                raise http.client.HTTPException(f"more than {MAX_INTERIM} interim answers")
            return version, http.client.CONTINUE, reason
        return version, status, reason


class _Connection(http.client.HTTPConnection):
    """Connects to the addresses that were checked, under the name that was asked for."""

    response_class = _Response

    def __init__(self, uri: WebUri, addresses: Resolved, clock: Clock, tls: ssl.SSLContext | None) -> None:
        super().__init__(uri.host, uri.port)
        self.default_port = PORTS[uri.scheme]
        self._addresses, self._clock, self._tls = addresses, clock, tls
        self._socket: socket.socket | None = None

    def connect(self) -> None:
        self._socket = self._connected()
        if self._tls is not None:
            # An end without the goodbye of TLS may be the doing of another, who cuts a body short.
            wrapped = self._tls.wrap_socket(
                self._socket, server_hostname=self.host, do_handshake_on_connect=False, suppress_ragged_eofs=False
            )
            self._socket = wrapped
            with _in_time(wrapped, self._clock):
                wrapped.do_handshake()
        self.sock = _Wire(self._socket, self._clock)

    def release(self) -> None:
        """Close the socket. `close` does not: the base class calls it before the body is read."""
        self.close()
        if self._socket is not None:
            self._socket.close()

    def _connected(self) -> socket.socket:
        """With the first address that answers; none may use up the time of those behind it."""
        for number, (family, address) in enumerate(self._addresses, 1):
            is_last = number == len(self._addresses)
            left_s = self._clock.left_s()
            made = socket.socket(family, socket.SOCK_STREAM)
            try:
                with _in_time(made, self._clock) if is_last else contextlib.nullcontext():
                    made.settimeout(left_s / (len(self._addresses) - number + 1))
                    made.connect(address)
                return made
            except BaseException as error:
                made.close()
                if is_last or not isinstance(error, OSError):
                    raise
        raise OSError("no address to connect to")


class _Wire:
    """A stand-in for the socket of the base class."""

    def __init__(self, connected: socket.socket, clock: Clock) -> None:
        self._socket, self._clock = connected, clock

    def sendall(self, data: bytes) -> None:
        with _in_time(self._socket, self._clock):
            self._socket.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self._socket, self._clock), CHUNK_BYTES)

    def close(self) -> None:
        """Left to `_Connection.release`: the body is still to be read."""


class _Reader(io.RawIOBase):
    def __init__(self, connected: socket.socket, clock: Clock) -> None:
        self._socket, self._clock = connected, clock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _in_time(self._socket, self._clock):
            return self._socket.recv_into(buffer)


@contextlib.contextmanager
def _in_time(connected: socket.socket, clock: Clock) -> Iterator[None]:
    connected.settimeout(clock.left_s())
    try:
        yield
    except TimeoutError:
        raise clock.late() from None
