"""What a client of a server that encodes gets out of it, beside what the server can give.

    python -m tests.bench.remote [--texts 4000] [--slots 8] [--rounds 2]

The server (`tests/remote_server.py`, a process of its own) takes so long for a request and for each text of it, and
works on so many requests at a time. Its ceiling is found by a bare client: the same texts in requests of a fixed size,
so many of them under way, for all sizes and numbers in a grid; the best of them counts. Variants take turns, and each
counts with its best round.

ceiling      the best of the grid
one by one   the best size, one request at a time
client       `ContentEncoder` and the client behind it, in batches as a worker makes them, two at a time
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx2

from schemas import Content
from tests.bench.host import host_line
from tests.remote_server import MODEL
from worker.encode.content import ContentEncoder, Route
from worker.encode.decoder_pool import DecoderPool
from worker.encode.remote.load import load_remote
from worker.settings import RemoteSettings

SIZES = (8, 16, 31, 32)
NUMBERS = (4, 8, 16, 32)
LANES = 2


def texts_of(num: int) -> list[str]:
    return [f"item {number}: " + "words of it " * (1 + number % 11) for number in range(num)]


async def bare(url: str, texts: Sequence[str], size: int, in_flight: int) -> float:
    """Texts per second of requests of one size, so many under way."""
    waiting = [texts[start : start + size] for start in range(0, len(texts), size)]
    limits = httpx2.Limits(max_connections=in_flight, max_keepalive_connections=in_flight)
    async with httpx2.AsyncClient(limits=limits, timeout=60, trust_env=False) as client:

        async def work() -> None:
            while waiting:
                body = json.dumps({"model": MODEL, "input": waiting.pop(), "encoding_format": "base64"})
                answer = await client.post(url, content=body)
                assert answer.status_code == 200
                assert answer.content

        started = time.monotonic()
        await asyncio.gather(*(work() for _ in range(in_flight)))
        return len(texts) / (time.monotonic() - started)


def through(encoder: ContentEncoder, texts: Sequence[str], batch: int) -> tuple[float, float]:
    """Texts per second, and microseconds of CPU for each of them."""
    items = [{"text": Content(text=text)} for text in texts]
    batches = [items[start : start + batch] for start in range(0, len(items), batch)]
    started, cpu_s = time.monotonic(), time.process_time()
    with ThreadPoolExecutor(LANES) as lanes:
        for results, _ in lanes.map(lambda mine: encoder.encode(mine, [("text",)] * len(mine)), batches):
            assert all(not isinstance(result, Exception) for result in results)
    return len(texts) / (time.monotonic() - started), 1e6 * (time.process_time() - cpu_s) / len(texts)


@contextlib.contextmanager
def a_server(arguments: argparse.Namespace) -> Iterator[int]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = int(found.getsockname()[1])
    command = [
        sys.executable, "-m", "tests.remote_server", "--port", str(port), "--slots", str(arguments.slots),
        "--seconds", str(arguments.seconds), "--seconds-each", str(arguments.seconds_each), "--dim", "384",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert "listening" in process.stdout.readline()
        yield port
    finally:
        process.terminate()
        process.wait(10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=4_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=0.05, help="of a request (default: %(default)s)")
    parser.add_argument("--seconds-each", type=float, default=0.005, help="of a text of it (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=512, help="items of a micro-batch (default: %(default)s)")
    arguments = parser.parse_args()
    print(host_line())
    texts = texts_of(arguments.texts)
    with a_server(arguments) as port:
        url = f"http://127.0.0.1:{port}/v1/embeddings"
        grid = {
            (size, number): asyncio.run(bare(url, texts[: arguments.texts // 4], size, number))
            for size in SIZES
            for number in NUMBERS
        }
        best = max(grid, key=lambda each: grid[each])
        encoder = load_remote(
            f"openai+http://127.0.0.1:{port}/v1#{MODEL}", RemoteSettings(hosts=(f"127.0.0.1:{port}",))
        )
        pool = DecoderPool(1)
        content = ContentEncoder([Route("text", "text", encoder)], pool, cache_bytes=0)
        ceiling = one = 0.0
        ours, cpu_us = 0.0, 0.0
        for _ in range(arguments.rounds):
            ceiling = max(ceiling, asyncio.run(bare(url, texts, *best)))
            ours, cpu_us = max((ours, cpu_us), through(content, texts, arguments.batch))
            one = max(one, asyncio.run(bare(url, texts[: arguments.texts // 8], best[0], 1)))
        figures = encoder.figures
        content.close()
    print(f"ceiling     {ceiling:7.0f} texts/s, requests of {best[0]}, {best[1]} under way")
    print(f"one by one  {one:7.0f} texts/s")
    print(
        f"client      {ours:7.0f} texts/s, {ours / ceiling:.2f} of the ceiling, {ours / one:.1f} times one by one; "
        f"{cpu_us:.0f} CPU us each; {figures.requests} requests, up to {figures.limit} under way"
    )


if __name__ == "__main__":
    threading.current_thread().name = "bench"
    main()
