"""An encoder that is a server: batches by what it takes, many of them under way, and every answer checked.

    pieces ─► batches ─► as many requests at a time as it answers well ─► checked rows
                 ▲ halved on 4xx │ whole again on 5xx, silence and nonsense
                 └───────────────┘

What is the server's fault never becomes a fault of a content: when it does not answer, or answers as another model, the
call ends with `UnavailableError`, and what was to be encoded waits. A content is to blame only where the server refuses
it alone, and takes the sample at the same time.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas import Reason
from worker.encode.encoder import Piece, RemoteFigures, UnavailableError, Unit
from worker.encode.media.errors import ContentError
from worker.encode.media.forms import Form, Images, Part, Text
from worker.encode.remote.address import RemoteAddress
from worker.encode.remote.circuit import Circuit
from worker.encode.remote.faults import BusyError, DeniedError, OtherModelError, RefusedError, ServerFault
from worker.encode.remote.identity import Identity, is_same_vector, same_encoder
from worker.encode.remote.limit import ConcurrencyLimit
from worker.encode.remote.protocols import Announced, Payload, WireProtocol
from worker.encode.remote.transport import Transport, the_loop
from worker.errors import ConfigError, UnreachableError, WorkerError

BEAT_S = 0.1
CLOSE_S = 2.0
FEWEST = 8
"""Contents of a request, where there are as many: fewer cost more than they win."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 5.0
MAX_BODY_BYTES = 1_500_000
"""Payload of a request; servers commonly take 2 MB."""
SHORTER = 4.0
GROWTH = 1 / 16
"""Growth of the number of contents in a request, with each that is answered."""
SHORTEST_CUT = 256
"""Characters: a text that is refused for its length is not cut below this."""
BLAMED_AFTER = 3
"""Times that a content alone must use up its time, while the sample works, before it is refused."""
IMAGE_COST = 1_024

log = logging.getLogger(__name__)


class _ExhaustedError(Exception):
    """The time for a batch is used up."""


class _GoneError(Exception):
    """The server is not worth asking at present."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a server is waited for."""

    request_s: float = 30.0
    deadline_s: float = 60.0
    """For a batch, retries included; what has not been encoded then is looked into."""
    start_s: float = 60.0
    check_s: float = 30.0
    """After which it is asked again who it is."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """Pieces that are asked for together."""

    pieces: Sequence[Piece]
    time_s: float
    """For which the server's faults are borne."""
    rounds: int = 0
    """How often that has been used up."""


class ServerEncoder:
    """Any number of threads may call it. `load` has to be called first."""

    unit: Unit = "tokens"

    def __init__(
        self,
        address: RemoteAddress,
        wire: WireProtocol,
        transport: Transport,
        *,
        patience: Patience,
        concurrency: int,
        max_batch: int,
        prompt: str = "",
        query_prompt: str | None = None,
    ) -> None:
        """`max_batch`: where the server says nothing. `query_prompt`: what is put before texts instead of `prompt`,
        which the name is made of."""
        self._address = address
        self._wire = wire
        self._transport = transport
        self._patience = patience
        self._prompt = prompt
        self._put_before = prompt if query_prompt is None else query_prompt
        self._default_batch = max_batch
        self._max_batch = 1
        self._allowed = 1.0
        """Contents of a request that have not been too many lately; at most `_max_batch`."""
        self._max_tokens: int | None = None
        self._limit = ConcurrencyLimit(concurrency)
        self._circuit = Circuit()
        self._identity: Identity | None = None
        self._checked_at = float("-inf")
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._num_calls = 0
        """Calls of `rows` under way."""
        self._probing: asyncio.Lock | None = None
        self.figures = RemoteFigures(limit=self._limit.value)
        self.name = ""
        self.dim = 0
        self.batch_cost = 2**31

    def __str__(self) -> str:
        return str(self._address)

    # ------------------------------------------------------------------ any thread

    def load(self) -> None:
        """Ask the server what it serves. Raises `ConfigError` where waiting is no use, and `UnreachableError`."""
        try:
            self._identity = self._found()
        except WorkerError:
            self.close()
            raise
        self._checked_at = time.monotonic()
        self.name, self.dim = self._identity.name(self._prompt), self._identity.dim
        log.info(
            "%s: %s, %d dims, up to %d contents a request", self._address, self.name, self.dim, self._max_batch,
            extra={"action": "encoder_found"},
        )  # fmt: skip

    def _found(self) -> Identity:
        deadline, wait_s = time.monotonic() + self._patience.start_s, FIRST_WAIT_S
        while True:
            try:
                found: Identity = the_loop().start(self._ask()).result()
                return found
            except (DeniedError, OtherModelError, RefusedError) as error:
                raise ConfigError(f"encode.encoders: {self._address}: {error}") from None
            except (ServerFault, BusyError) as error:
                if time.monotonic() + wait_s > deadline:
                    raise UnreachableError(
                        f"encode.encoders: {self._address} has not answered in {self._patience.start_s:g} s "
                        f"(encode.remote.start_timeout_s): {error}"
                    ) from None
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, 2.0)

    def adopt(self, name: str) -> bool:
        """Take the name that a space knows this encoder by, if it means this encoder."""
        if not same_encoder(name, self.name):
            return False
        self.name = name
        return True

    def forms(self, num_vectors: int) -> tuple[Form, ...]:
        return self._wire.forms(num_vectors, self._max_tokens)

    def pieces(self, parts: Sequence[Part | None]) -> list[Piece]:
        for part in parts:
            if isinstance(part, Images):
                return [Piece(pixels_HW3, IMAGE_COST) for pixels_HW3 in part.pixels_NHW3]
        return [
            Piece(self._put_before + part.text, max(1, len(part.text) // 4)) for part in parts if isinstance(part, Text)
        ]

    def encode(self, pieces: Sequence[Piece]) -> NDArray[np.float32]:
        rows = self.rows(pieces, lambda: None)
        failed = next((row for row in rows if isinstance(row, ContentError)), None)
        if failed is not None:
            raise failed
        return np.stack([row for row in rows if not isinstance(row, ContentError)])

    def rows(
        self, pieces: Sequence[Piece], beat: Callable[[], None], trace: str = ""
    ) -> list[NDArray[np.float32] | ContentError]:
        """`trace`: a W3C trace context that the requests carry on."""
        found: list[NDArray[np.float32] | ContentError] = self._await(self._rows(pieces, trace), beat)
        return found

    def require_well(self, beat: Callable[[], None]) -> None:
        if self._circuit.is_open:
            self._await(self._require_well(), beat)

    def _await(self, work: Coroutine[Any, Any, Any], beat: Callable[[], None]) -> Any:
        future = the_loop().start(work)
        try:
            while True:
                try:
                    return future.result(timeout=BEAT_S)
                except FutureTimeoutError:
                    if future.done():
                        raise
                    beat()
        except _GoneError:
            raise UnavailableError(self._circuit.detail, self._circuit.retry_at) from None
        except CancelledError:
            raise UnavailableError(f"{self._address} is closed", time.monotonic() + 1.0) from None
        finally:
            future.cancel()

    def close(self) -> None:
        with contextlib.suppress(FutureTimeoutError):
            the_loop().start(self._transport.close()).result(CLOSE_S)

    # ------------------------------------------------------------------ event loop

    async def _rows(self, pieces: Sequence[Piece], trace: str) -> list[NDArray[np.float32] | ContentError]:
        await self._require_well()
        self._num_calls += 1
        try:
            return await self._all(pieces, trace)
        finally:
            self._num_calls -= 1

    async def _all(self, pieces: Sequence[Piece], trace: str) -> list[NDArray[np.float32] | ContentError]:
        order = sorted(range(len(pieces)), key=lambda index: -pieces[index].cost)
        batches = self._batches([pieces[index] for index in order])
        settled = await _together(self._settle(_Batch(batch, self._patience.deadline_s), trace) for batch in batches)
        if not self._carries_sample:
            await self._require_same()
        results: list[Any] = [None] * len(pieces)
        for index, row in zip(order, settled, strict=True):
            results[index] = row
        return results

    def _batches(self, pieces: Sequence[Piece]) -> list[Sequence[Piece]]:
        """Neighbours in cost together: as many as make work for all requests that may be under way, and no more than
        the server takes, in number and in bytes."""
        share = -(-len(pieces) * self._num_calls // self._limit.value)
        most = min(self._most(), max(FEWEST, share))
        batches: list[Sequence[Piece]] = []
        start = num_bytes = 0
        for index, piece in enumerate(pieces):
            size = _size(piece.payload)
            if index > start and (index - start >= most or num_bytes + size > MAX_BODY_BYTES):
                batches.append(pieces[start:index])
                start, num_bytes = index, 0
            num_bytes += size
        return [*batches, pieces[start:]]

    @property
    def _carries_sample(self) -> bool:
        """Whether each answer has the sample in it; otherwise it is asked for when all others are there."""
        return self._wire.batches and self._max_batch > 1

    def _most(self) -> int:
        """Contents in a request, beside the sample."""
        return max(1, int(self._allowed) - 1) if self._carries_sample else 1

    async def _settle(self, batch: _Batch, trace: str) -> list[NDArray[np.float32] | ContentError]:
        try:
            return list(await self._until_answered(batch, trace))
        except RefusedError as error:
            if len(batch.pieces) > 1:
                if error.is_size:
                    self._allowed = max(2.0, min(self._allowed, len(batch.pieces) / 2 + 1))
                return await self._halved(batch, trace)
            (piece,) = batch.pieces
            if error.is_size and isinstance(piece.payload, str) and len(piece.payload) >= 2 * SHORTEST_CUT:
                half = Piece(piece.payload[: len(piece.payload) // 2], max(1, piece.cost // 2), is_cut=True)
                return await self._settle(_Batch([half], batch.time_s), trace)
            await self._require_same()
            return [self._blame(f"refuses it: {error}")]
        except _ExhaustedError as error:
            await self._require_same()  # else it is not this batch
            if len(batch.pieces) > 1:
                return await self._halved(batch, trace)
            if batch.rounds + 1 >= BLAMED_AFTER:
                return [self._blame(f"fails on it again and again, and on nothing else: {error}")]
            return await self._settle(_Batch(batch.pieces, self._short_s, batch.rounds + 1), trace)

    async def _halved(self, batch: _Batch, trace: str) -> list[NDArray[np.float32] | ContentError]:
        middle = len(batch.pieces) // 2
        halves = (batch.pieces[:middle], batch.pieces[middle:])
        return await _together(self._settle(_Batch(half, self._short_s), trace) for half in halves)

    @property
    def _short_s(self) -> float:
        """For a batch that has failed once while the server was well."""
        return self._patience.deadline_s / SHORTER

    def _blame(self, detail: str) -> ContentError:
        self.figures.refused += 1
        return ContentError(Reason.MODEL_FAILURE, f"{self._address} {detail}")

    async def _until_answered(self, batch: _Batch, trace: str) -> NDArray[np.float32]:
        """The rows, tried again as long as it is the server's fault and there is time."""
        payloads = [piece.payload for piece in batch.pieces]
        deadline, wait_s = float("inf"), FIRST_WAIT_S
        while True:
            try:
                return await self._once(payloads, trace)
            except BusyError as error:
                self.figures.busy += 1
                self._limit.busy(time.monotonic(), error.retry_after_s)
                said: Exception = error
                if time.monotonic() > deadline:
                    self._open(f"{self._address} has taken nothing for {batch.time_s:g} s: {error}")
            except ServerFault as error:
                said = error
                self.figures.faults += 1
                if self._circuit.failed():
                    self._open(f"{self._address}: {error}")
            except (DeniedError, OtherModelError) as error:
                said = error
                self._open(f"{self._address}: {error}")
            if self._circuit.is_open:
                raise _GoneError
            deadline = min(deadline, time.monotonic() + batch.time_s)
            if time.monotonic() > deadline:
                raise _ExhaustedError(str(said))
            self.figures.retries += 1
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.5))
            wait_s = min(LONGEST_WAIT_S, 2 * wait_s)

    async def _once(self, payloads: Sequence[Payload], trace: str) -> NDArray[np.float32]:
        """One request, with the sample beside what is asked for: its vector says that the model is the one of before,
        in this very answer."""
        assert self._identity is not None
        if self._carries_sample and len(payloads) > 1 and len(payloads) >= self._allowed:
            raise RefusedError("more than it has taken", is_size=False)  # it has been learnt since the batch was made
        asked = [*payloads, self._sample()] if self._carries_sample else list(payloads)
        await self._acquire()
        if self._circuit.is_open:
            self._release()
            raise _GoneError
        started = time.monotonic()
        self.figures.requests += 1
        try:
            call = self._wire.call(asked)
            headers = {"Idempotency-Key": hashlib.blake2b(call.body, digest_size=16).hexdigest()}
            answer = await self._transport.post(call, headers | ({"traceparent": trace} if trace else {}))
            num_in_flight = self.figures.in_flight
            rows_ND = self._wire.rows(answer, len(asked))
        finally:
            self._release()
        if rows_ND.shape[1] != self.dim:
            await self._require_same()
            raise ServerFault(f"vectors of {rows_ND.shape[1]} dims, not {self.dim}")
        if len(asked) > len(payloads) and not is_same_vector(rows_ND[-1], self._identity.sample_D):
            await self._require_same()
            raise ServerFault("the vector of the sample is not the one it was")
        now = time.monotonic()
        self._limit.answered(now, now - started, sum(map(_size, asked)), num_in_flight)
        self._allowed = min(float(self._max_batch), self._allowed + GROWTH)
        self._circuit.succeeded()
        self.figures.answered += 1
        self.figures.answer_s += now - started
        self._wake()
        return rows_ND[: len(payloads)]

    # ------------------------------------------------------------------ turns

    async def _acquire(self) -> None:
        while not self._circuit.is_open:
            hold_s = self._limit.hold_until - time.monotonic()
            if hold_s > 0:
                await asyncio.sleep(hold_s)
            elif self.figures.in_flight < self._limit.value:
                break
            else:
                waiter = asyncio.get_running_loop().create_future()
                self._waiters.append(waiter)
                try:
                    await waiter
                except asyncio.CancelledError:
                    if waiter.done() and not waiter.cancelled():
                        self._wake()  # somebody else's turn
                    raise
        self.figures.in_flight += 1

    def _release(self) -> None:
        self.figures.in_flight -= 1
        self.figures.limit = self._limit.value
        self._wake()

    def _wake(self) -> None:
        num_free = self._limit.value - self.figures.in_flight
        if self._circuit.is_open:
            num_free = len(self._waiters)
        while num_free > 0 and self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                num_free -= 1

    # ------------------------------------------------------------------ who is there

    def _sample(self) -> Payload:
        sample = self._wire.sample
        return self._prompt + sample if isinstance(sample, str) else sample

    async def _ask(self) -> Identity:
        """Ask the server about itself, and how it encodes the sample."""
        self._transport.read_key()
        announced = await self._wire.announce(self._transport.get)
        while True:
            try:
                answer = await self._transport.post(self._wire.call([self._sample()]), {})
                (sample_D,) = self._wire.rows(answer, 1)
                break
            except RefusedError:
                if self._identity is not None or not self._wire.plainer():
                    raise
        self._learn(announced)
        return Identity(announced.model, announced.revision, np.array(sample_D, np.float32))

    def _learn(self, announced: Announced) -> None:
        if self._identity is None:
            self._max_tokens = announced.max_tokens
        self._max_batch = announced.max_batch or self._default_batch
        self._allowed = float(self._max_batch)
        if announced.max_requests is not None:
            self._limit.announce(announced.max_requests)

    async def _require_well(self) -> None:
        """Go on if the server is well, try it if it is time to. Raises `_GoneError`."""
        if not self._circuit.is_open and time.monotonic() - self._checked_at < self._patience.check_s:
            return
        if self._circuit.is_open and time.monotonic() < self._circuit.retry_at:
            raise _GoneError
        await self._require_same()

    async def _require_same(self) -> None:
        """Ask who is there, and close the circuit if it is whom we know. Raises `_GoneError`."""
        if self._probing is None:
            self._probing = asyncio.Lock()
        asked_at = time.monotonic()
        async with self._probing:
            if self._circuit.is_open and self._circuit.retry_at > time.monotonic():
                raise _GoneError
            if self._checked_at >= asked_at and not self._circuit.is_open:
                return
            assert self._identity is not None
            try:
                found = await self._ask()
            except (ServerFault, BusyError, DeniedError, OtherModelError, RefusedError, WorkerError) as error:
                self._open(f"{self._address}: {error}")
                raise _GoneError from None
            expected = self._identity
            is_same = (found.model, found.revision) == (expected.model, expected.revision)
            if not is_same or not is_same_vector(found.sample_D, expected.sample_D):
                self._open(
                    f"{self._address} has become another encoder: {found.name(self._prompt)} with {found.dim} dims, "
                    f"not {self.name} with {self.dim}; bring the old one back, or move to a new space"
                )
                raise _GoneError
            if self._circuit.is_open:
                log.info("%s answers again", self._address, extra={"action": "encoder_well"})
            self._circuit.close()
            self._checked_at = time.monotonic()
            self.figures.is_open, self.figures.detail = False, ""

    def _open(self, detail: str) -> None:
        self._circuit.open(time.monotonic(), detail, random.random())
        self.figures.is_open, self.figures.detail = True, detail
        self._wake()


async def _together(works: Iterable[Coroutine[Any, Any, list[Any]]]) -> list[Any]:
    """Their results, one behind the other. The first that fails ends them all."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return [each for found in await asyncio.gather(*tasks) for each in found]
    finally:
        for task in tasks:
            task.cancel()


def _size(payload: Any) -> int:
    return len(payload) if isinstance(payload, str) else int(payload.nbytes)
