"""A server of embeddings that speaks every protocol and misbehaves in every way that it is told to.

    python -m tests.remote_server --port 8500 [--slots 4] [--seconds 0.01] [--seconds-each 0.002]

Vectors are made of the text and the name of the model alone, so that whoever knows both knows what the answer must be.
As a process it is told what to do by `POST /control` with a JSON object of the fields of `Manners`.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import functools
import hashlib
import json
import random
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

DIM = 32
MODEL = "acme/embedder"


@functools.lru_cache(maxsize=65_536)
def vector(text: str, model: str = MODEL, dim: int = DIM) -> NDArray[np.float32]:
    """What this model makes of a text. Of unit length."""
    seed = int.from_bytes(hashlib.blake2b(f"{model}\0{text}".encode(), digest_size=8).digest())
    made = np.random.default_rng(seed).standard_normal(dim)
    return (made / np.linalg.norm(made)).astype(np.float32)


@dataclass
class Manners:
    """How it behaves. Shares are of requests for vectors, by chance."""

    model: str = MODEL
    """The name that it says."""
    weights: str = MODEL
    """The model that it has, whatever it says."""
    revision: str = "5f1c"
    dim: int = DIM
    max_batch: int = 32
    max_bytes: int = 2_000_000
    max_chars: int = 100_000
    """Of a text; longer ones are refused."""
    slots: int = 8
    """Requests worked on at a time; others wait."""
    seconds: float = 0.0
    """For a request."""
    seconds_each: float = 0.0
    """For a text of it."""
    status: int = 200
    """Of answers to requests for vectors, if it is not 200."""
    retry_after: str = ""
    drip_s: float = 0.0
    """Between the bytes of an answer with vectors."""
    most_waiting: int = 10_000
    """More requests than these are answered with 429."""
    error_share: float = 0.0
    """500."""
    garbage_share: float = 0.0
    """One of `GARBAGE`."""
    garbage: str = "any"
    other_share: float = 0.0
    """Answered by another model, as behind a balancer while one is being deployed."""
    key: str = ""
    """Required as a bearer token."""
    base64: bool = True
    """Knows `encoding_format`."""
    lists_models: bool = True
    shuffled: bool = False
    """The order of the vectors is another one than that of the texts; `index` says which is which."""


GARBAGE = (
    "html", "empty", "no json", "fewer", "more", "twice", "other dims", "nan", "zeros", "words", "deep", "cut", "reset",
    "redirect", "packed", "null",
)  # fmt: skip


@dataclass
class Seen:
    """What it has been asked."""

    requests: Counter[str] = field(default_factory=Counter)
    """By path."""
    texts: int = 0
    largest: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    headers: list[dict[str, str]] = field(default_factory=list)


class _AbortError(Exception):
    """The connection is to be broken."""


class RemoteServer:
    """On a thread and a loop of its own. `stop` and `start` again: the same port."""

    def __init__(self, encode: Callable[[list[str]], NDArray[np.float32]] | None = None, **manners: Any) -> None:
        """`encode`: a model, instead of vectors that are made up."""
        self._encode = encode
        self.tls: ssl.SSLContext | None = None
        self.manners = Manners(**manners)
        self.seen = Seen()
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._waiting = 0
        self._busy = 0
        self._turn: asyncio.Condition | None = None

    def __enter__(self) -> RemoteServer:
        self.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def start(self, port: int = 0) -> None:
        asyncio.run_coroutine_threadsafe(self._start(port or self.port), self._loop).result(10)

    def stop(self) -> None:
        """As if it were killed: nobody gets an answer any more."""
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)

    def url(self, protocol: str = "openai", model: str = MODEL) -> str:
        path = "/v1" if protocol in ("openai", "vllm") else ""
        return f"{protocol}+http{'' if self.tls is None else 's'}://127.0.0.1:{self.port}{path}" + (
            f"#{model}" if protocol != "tei" else ""
        )

    @property
    def is_up(self) -> bool:
        return self._server is not None and self._server.is_serving()

    async def _start(self, port: int) -> None:
        self._turn = self._turn or asyncio.Condition()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, limit=2**24, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        self._busy = self._waiting = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while (request := await _read(reader)) is not None:
                method, path, headers, body = request
                self.seen.requests[path] += 1
                answer = await self._answer(method, path, headers, body)
                for part in _dripped(answer, self.manners.drip_s and method == "POST"):
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(self.manners.drip_s)
        except (_AbortError, ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ValueError):
            pass
        finally:
            self._connections.discard(task)
            with contextlib.suppress(Exception):
                writer.transport.abort()

    async def _answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> bytes:
        manners = self.manners
        if path == "/control":
            known = {each.name for each in fields(Manners)}
            for name, value in json.loads(body).items():
                assert name in known, name
                setattr(manners, name, value)
            return _response(200, b"{}")
        if path == "/seen":
            return _response(200, json.dumps({"texts": self.seen.texts, "requests": self.seen.requests}).encode())
        if manners.key and headers.get("authorization") != f"Bearer {manners.key}":
            said = {"error": f"Incorrect API key provided: {headers.get('authorization', 'none')}"}
            return _response(401, json.dumps(said).encode())
        if method == "GET":
            return self._get(path)
        self.seen.headers.append(headers)
        return await self._vectors(path, headers, body)

    # ------------------------------------------------------------------ what it says of itself

    def _get(self, path: str) -> bytes:
        manners = self.manners
        if path == "/v1/models" and manners.lists_models:
            entry = {"id": manners.model, "object": "model", "max_model_len": 512}
            return _json(
                {"object": "list", "data": [entry | ({"revision": manners.revision} if manners.revision else {})]}
            )
        if path == "/info":
            return _json(
                {
                    "model_id": manners.model, "model_sha": manners.revision or None, "max_input_length": 512,
                    "max_client_batch_size": manners.max_batch, "max_concurrent_requests": 512,
                }
            )  # fmt: skip
        if path == f"/v2/models/{manners.model}":
            return _json(
                {
                    "name": manners.model, "versions": ["1", manners.revision or "2"], "platform": "test",
                    "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1, 1]}],
                    "outputs": [{"name": "embedding", "datatype": "FP32", "shape": [-1, manners.dim]}],
                }
            )  # fmt: skip
        if path == f"/v2/models/{manners.model}/config":
            return _json({"max_batch_size": manners.max_batch})
        return _response(404, b'{"error": "not found"}')

    # ------------------------------------------------------------------ vectors

    async def _vectors(self, path: str, headers: dict[str, str], body: bytes) -> bytes:
        manners = self.manners
        if len(body) > manners.max_bytes:
            return _response(413, b'{"error": "length limit exceeded"}')
        texts, shape = _asked(path, headers, body)
        if texts is None:
            return _response(404, b'{"error": "no such model"}')
        if isinstance(shape, dict) and shape.get("model", manners.model) != manners.model:
            return _response(404, b'{"error": "no such model"}')
        if isinstance(shape, dict) and "encoding_format" in shape and not manners.base64:
            return (
                _response(400, b'{"error": "unknown field encoding_format"}')
                if shape["encoding_format"] == "base64"
                else self._well(path, texts, "float")
            )
        if len(texts) > manners.max_batch:
            return _response(422, b'{"error": "batch size > maximum allowed batch size"}')
        if any("poison" in text for text in texts):
            return _response(400, b'{"error": "a token that is not allowed"}')
        if any(len(text) > manners.max_chars for text in texts):
            return _response(400, b'{"error": "maximum context length exceeded: too many tokens"}')
        if self._waiting >= manners.most_waiting:
            return _response(429, b'{"error": "overloaded"}', {"Retry-After": manners.retry_after})
        self.seen.in_flight += 1
        self.seen.most_in_flight = max(self.seen.most_in_flight, self.seen.in_flight)
        try:
            await self._work(len(texts))
        finally:
            self.seen.in_flight -= 1
        self.seen.texts += len(texts)
        self.seen.largest = max(self.seen.largest, len(texts))
        if any("crash" in text for text in texts):
            return _response(500, b'{"error": "out of memory"}')
        if manners.status != 200:
            return _response(manners.status, b'{"error": "as told"}', {"Retry-After": manners.retry_after})
        if random.random() < manners.error_share:
            return _response(500, b'{"error": "by chance"}')
        encoding = shape.get("encoding_format", "float") if isinstance(shape, dict) else ""
        if random.random() < manners.garbage_share:
            kind = random.choice(GARBAGE) if manners.garbage == "any" else manners.garbage
            return self._garbage(kind, path, texts, encoding)
        return self._well(path, texts, encoding)

    async def _work(self, num_texts: int) -> None:
        """One slot for as long as the request takes."""
        manners = self.manners
        assert self._turn is not None
        self._waiting += 1
        try:
            async with self._turn:
                await self._turn.wait_for(lambda: self._busy < manners.slots)
                self._busy += 1
        finally:
            self._waiting -= 1
        try:
            if seconds := manners.seconds + manners.seconds_each * num_texts:
                await asyncio.sleep(seconds)
        finally:
            self._busy -= 1
            async with self._turn:
                self._turn.notify(1)

    def _rows(self, texts: list[str]) -> NDArray[np.float32]:
        manners = self.manners
        if self._encode is not None:
            return self._encode(texts)
        model = "acme/other" if random.random() < manners.other_share else manners.weights
        return np.stack([vector(text, model, manners.dim) for text in texts])

    def _well(self, path: str, texts: list[str], encoding: str) -> bytes:
        return _formed(path, self._rows(texts), encoding, self.manners)

    def _garbage(self, kind: str, path: str, texts: list[str], encoding: str) -> bytes:
        rows = self._rows(texts)
        if kind == "html":
            return _response(200, b"<html>Welcome to the proxy</html>")
        if kind == "empty":
            return _response(200, b"")
        if kind == "no json":
            return _response(200, b'{"data": [')
        if kind == "null":
            return _response(200, b"null")
        if kind == "deep":
            return _response(200, b"[" * 100_000)
        if kind == "words":
            return _response(200, b'{"data": [{"embedding": "no vector", "index": 0}], "outputs": [1]}')
        if kind == "cut":
            raise _AbortError
        if kind == "reset":
            raise _AbortError
        if kind == "redirect":
            return _response(307, b"", {"Location": "http://127.0.0.1:1/elsewhere"})
        if kind == "packed":
            return _response(200, b"\x1f\x8b\x08 not really", {"Content-Encoding": "gzip"})
        changed = {
            "fewer": rows[:-1],
            "more": np.concatenate([rows, rows[:1]]),
            "twice": rows,
            "other dims": np.concatenate([rows, rows], axis=1),
            "nan": np.where(np.arange(len(rows))[:, None] == 0, np.nan, rows),
            "zeros": np.where(np.arange(len(rows))[:, None] == 0, 0.0, rows),
        }[kind].astype(np.float32)
        if not len(changed):
            return _response(200, b"[]")
        return _formed(path, changed, encoding, self.manners, twice=kind == "twice")


def _asked(path: str, headers: dict[str, str], body: bytes) -> tuple[list[str] | None, Any]:
    """The texts of a request, and what else it says."""
    if path == "/v1/embeddings":
        asked = json.loads(body)
        if "messages" in asked:
            parts = asked["messages"][0]["content"]
            return [" ".join(part.get("text") or part["image_url"]["url"] for part in parts)], asked
        return list(asked["input"]), asked
    if path == "/embed":
        return list(json.loads(body)["inputs"]), None
    if path.endswith("/infer"):
        length = int(headers["inference-header-content-length"])
        (taken,) = json.loads(body[:length])["inputs"]
        rest, texts = body[length:], []
        assert taken["parameters"]["binary_data_size"] == len(rest)
        while rest:
            (size,) = struct.unpack("<I", rest[:4])
            texts.append(rest[4 : 4 + size].decode())
            rest = rest[4 + size :]
        assert taken["shape"] == [len(texts), 1]
        return texts, None
    return None, None


def _formed(path: str, rows: NDArray[np.float32], encoding: str, manners: Manners, *, twice: bool = False) -> bytes:
    if path == "/v1/embeddings":
        entries = [
            {
                "object": "embedding",
                "index": 0 if twice else index,
                "embedding": base64.b64encode(row.tobytes()).decode() if encoding == "base64" else _plain(row),
            }
            for index, row in enumerate(rows)
        ]
        if twice and len(entries) == 1:
            entries = entries * 2
        if manners.shuffled:
            random.shuffle(entries)
        return _json({"object": "list", "data": entries, "model": manners.model})
    if path == "/embed":
        return _json([_plain(row) for row in rows] + ([_plain(rows[0])] if twice else []))
    data = rows.tobytes() + (rows[:1].tobytes() if twice else b"")
    output = {
        "name": "embedding", "datatype": "FP32", "shape": list(rows.shape),
        "parameters": {"binary_data_size": len(data)},
    }  # fmt: skip
    head = json.dumps({"model_name": manners.model, "outputs": [output]}).encode()
    return _response(200, head + data, {"Inference-Header-Content-Length": str(len(head))})


def _dripped(answer: bytes, is_dripped: object) -> list[bytes]:
    return [answer[index : index + 1] for index in range(len(answer))] if is_dripped else [answer]


def _plain(row: NDArray[np.float32]) -> list[float]:
    return [float(value) for value in row]


def _json(value: Any) -> bytes:
    return _response(200, json.dumps(value).encode())


def _response(status: int, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status} As told", f"Content-Length: {len(body)}", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items() if value]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def _read(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str], bytes] | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return method, path, headers, body


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8_500)
    for name in ("seconds", "seconds-each"):
        parser.add_argument(f"--{name}", type=float, default=0.0)
    for name in ("slots", "max-batch", "dim"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Manners, name.replace("-", "_")))
    arguments = vars(parser.parse_args())
    server = RemoteServer(**{name: value for name, value in arguments.items() if name != "port"})
    server.start(arguments["port"])
    print(f"listening on {server.port}", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
