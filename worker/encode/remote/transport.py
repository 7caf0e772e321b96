"""One request, under one clock, with what came of it as an answer or a fault. On an event loop of its own.

Redirects are not followed, proxies of the environment not used, and answers not unpacked: what is asked is the host
that the settings name, and nobody else.
"""

from __future__ import annotations

import asyncio
import datetime
import ssl
import threading
from collections.abc import Coroutine, Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx2

from worker.encode.remote.faults import BusyError, DeniedError, RefusedError, ServerFault
from worker.encode.remote.protocols import Answer, Call
from worker.encode.uris import WebUri
from worker.errors import ConfigError

MAX_BYTES = 64 * 2**20
SAID_CHARS = 200
AGAIN = (408, 425)
LENGTH_WORDS = ("too long", "too large", "maximum", "exceed", "at most", "max_", "length", "tokens")
LONGEST_RETRY_AFTER_S = 60.0
USER_AGENT = "align-worker"
MAX_KEY_BYTES = 16 * 1024

T = TypeVar("T")


class Loop:
    """An event loop on a thread of its own, for all servers of the process."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="remote-encoders", daemon=True)
        self._thread.start()

    def start(self, work: Coroutine[Any, Any, T]) -> Any:
        """A `concurrent.futures.Future`."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)


_loop: Loop | None = None
_loop_lock = threading.Lock()


def the_loop() -> Loop:
    global _loop
    with _loop_lock:
        if _loop is None:
            _loop = Loop()
        return _loop


class Transport:
    """Requests to one server."""

    def __init__(
        self, base: WebUri, *, key_file: Path | None, cafile: Path | None, timeout_s: float, most: int
    ) -> None:
        self._base = str(base)
        self._key_file = key_file
        self._key = ""
        self.read_key()
        try:
            tls = ssl.create_default_context(cafile=None if cafile is None else str(cafile))
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"encode.remote.cafile: {cafile} cannot be read as certificates: {error}") from error
        self._timeout_s = timeout_s
        self._client = httpx2.AsyncClient(
            verify=tls,
            trust_env=False,
            follow_redirects=False,
            timeout=httpx2.Timeout(timeout_s),
            limits=httpx2.Limits(max_connections=most, max_keepalive_connections=most, keepalive_expiry=30.0),
            headers={"Accept-Encoding": "identity", "User-Agent": USER_AGENT},
        )

    def read_key(self) -> None:
        """Again, so that a key that was changed is used. Raises `ConfigError`, which never says what is in the file."""
        if self._key_file is None:
            return
        try:
            data = self._key_file.read_bytes()[: MAX_KEY_BYTES + 1]
            key = data.decode("ascii").strip()
        except OSError as error:
            raise ConfigError(f"encode.remote.key_files: cannot read {self._key_file}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"encode.remote.key_files: {self._key_file} is no text in ASCII") from None
        if not key or not key.isprintable() or len(data) > MAX_KEY_BYTES:
            raise ConfigError(f"encode.remote.key_files: {self._key_file} holds no key: one line is expected")
        self._key = key

    async def get(self, path: str) -> Answer:
        """404, 405 and 501 are answers. Raises what `faults` has."""
        return await self._send("GET", path, {}, None, (404, 405, 501))

    async def post(self, call: Call, headers: Mapping[str, str]) -> Answer:
        return await self._send("POST", call.path, {**call.headers, **headers}, call.body, ())

    async def close(self) -> None:
        await self._client.aclose()

    async def _send(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None, wanted: tuple[int, ...]
    ) -> Answer:
        sent = dict(headers) | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        try:
            async with asyncio.timeout(self._timeout_s):
                request = self._client.build_request(method, self._base + path, headers=sent, content=body)
                response = await self._client.send(request, stream=True)
                try:
                    answer = await self._read(response)
                finally:
                    await response.aclose()
        except TimeoutError:
            raise ServerFault(f"no answer in {self._timeout_s:g} s") from None
        except httpx2.ConnectError as error:
            if isinstance(error.__cause__, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY" in str(error):
                raise DeniedError(f"its certificate is not trusted: {self._line(str(error))}") from None
            raise ServerFault(f"no connection: {self._line(str(error))}") from None
        except httpx2.HTTPError as error:
            raise ServerFault(f"{type(error).__name__}: {self._line(str(error))}") from None
        except (OSError, httpx2.InvalidURL, ValueError) as error:
            raise ServerFault(f"{type(error).__name__}: {self._line(str(error))}") from None
        if answer.status != 200 and answer.status not in wanted:
            self._raise_for(answer)
        return answer

    async def _read(self, response: httpx2.Response) -> Answer:
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise ServerFault("an answer that is packed, which was not asked for")
        parts, num_bytes = [], 0
        async for part in response.aiter_raw():
            num_bytes += len(part)
            if num_bytes > MAX_BYTES:
                raise ServerFault(f"an answer of more than {MAX_BYTES} bytes")
            parts.append(part)
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status_code, headers, b"".join(parts))

    def _raise_for(self, answer: Answer) -> None:
        status, said = answer.status, self._line(answer.body[:2_000].decode("utf-8", "replace"))
        detail = f"status {status}" + (f": {said}" if said else "")
        if status in (429, 503):
            raise BusyError(detail, retry_after(answer.headers.get("retry-after")))
        if status in (401, 403, 407):
            hint = "" if self._key else "; name a file with its key in encode.remote.key_files"
            raise DeniedError(f"it refuses us: {detail}{hint}")
        if status in (404, 405, 410):
            raise DeniedError(f"it has not what is asked for: {detail}; is the path of its address right?")
        if 400 <= status < 500 and status not in AGAIN:
            is_size = status == 413 or any(word in said.lower() for word in LENGTH_WORDS)
            raise RefusedError(detail, is_size=is_size)
        if 300 <= status < 400:
            raise ServerFault(f"{detail}; redirects are not followed")
        raise ServerFault(detail)

    def _line(self, text: str) -> str:
        """For a log: one short line, without the key, which some servers repeat."""
        line = " ".join(text.split())
        return (line.replace(self._key, "***") if self._key else line)[:SAID_CHARS]


def retry_after(value: str | None) -> float | None:
    """Seconds, from either form of the header; None for what is none."""
    if value is None:
        return None
    text = value.strip()
    if text.replace(".", "", 1).isdigit():
        return min(LONGEST_RETRY_AFTER_S, float(text))
    try:
        at = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    left = (at - datetime.datetime.now(at.tzinfo or datetime.UTC)).total_seconds() if at.tzinfo else 0.0
    return min(LONGEST_RETRY_AFTER_S, max(0.0, left))
