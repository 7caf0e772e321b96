"""Schemas by the ids that stand before records. The registry is asked once for each, on a thread of its own. That it
does not answer is no fault of a record, so nothing is refused for it: what needs the schema waits, and it is asked
again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from schemas import Reason
from worker.errors import AccessError, ConfigError, UnreachableError
from worker.mapping.problem import MisfitError
from worker.printable import shortened
from worker.settings import RegistrySettings

log = logging.getLogger(__name__)

T = TypeVar("T")
UNKNOWN_FOR_S = 60.0
"""For how long a schema that is not there is not asked for again."""
MAX_UNKNOWN = 1_000
STREAM_WAIT_S = 0.5
"""For how long a thread that has more to do than this record waits for an answer."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 5.0
LONGEST_REQUEST_S, CLOSE_S = 5.0, 2.0
MAX_TOLD = 200
KINDS = ("AVRO", "PROTOBUF", "JSON")
LEAST_CODE_OF_ITS_OWN = 40_400
"""Error codes of a registry have the status in front; what has none of them is somebody else's 404."""
_FORBIDDEN = (401, 403)
_SETTING = "input.registry.url"


class Registered(NamedTuple):
    """A schema as it lies in the registry."""

    kind: str
    """`AVRO`, `PROTOBUF` or `JSON`."""
    text: str
    references: tuple[tuple[str, str, int], ...] = ()
    """Name, subject and version of each schema that it names."""


class RegistryFault(Exception):  # noqa: N818  # it says whose it is
    """The registry's: no connection, no answer in time, a status of 5xx, nonsense. The same may work later."""


class Lookup(Generic[T]):
    """What is asked of a registry, again and again until it is settled. Any thread."""

    def __init__(self, detail: str) -> None:
        self.started_at = time.monotonic()
        self.detail = detail
        """Why it is not settled yet, for people."""
        self._changed = threading.Condition()
        self._has_failed = False
        self._found: tuple[T | None, Exception | None] | None = None

    @property
    def is_settled(self) -> bool:
        return self._found is not None

    def wait(self, until: float, *, ends_early: bool) -> bool:
        """Whether it is settled by then (monotonic). `ends_early`: the first failure is enough."""
        with self._changed:
            self._changed.wait_for(
                lambda: self.is_settled or (ends_early and self._has_failed), max(0.0, until - time.monotonic())
            )
        return self.is_settled

    def result(self) -> T:
        """Raises `MisfitError`, or the `WorkerError` that asking has ended with."""
        assert self._found is not None, "it has been waited for"
        value, error = self._found
        if error is not None:
            raise error
        return value  # type: ignore[return-value]  # without an error there is one

    def settle(self, value: T | None, error: Exception | None = None) -> None:
        with self._changed:
            self._found = value, error
            self._changed.notify_all()

    def fail(self, detail: str) -> None:
        with self._changed:
            self.detail, self._has_failed = detail, True
            self._changed.notify_all()


class AwaitedError(UnreachableError):
    """A record cannot be read before the registry has answered. Who can wait, waits for the lookup; where nobody does,
    it ends the process."""

    def __init__(self, lookup: Lookup[Any]) -> None:
        super().__init__(lookup.detail)
        self.lookup = lookup


class Registry(Protocol):
    """`schema` and `version` are called by lookups alone. They raise `MisfitError` for a schema that is not there,
    `RegistryFault` where the registry does not answer, and `WorkerError` where asking again is no use."""

    is_patient: bool
    """Whether who asks has nothing else to do than to wait for the answer."""
    wait_s: float
    """For how long who asks waits."""

    def schema(self, schema_id: int, kind: str) -> Registered: ...

    def version(self, subject: str, version: int, kind: str) -> Registered: ...

    def look_up(self, what: str, job: Callable[[], T]) -> Lookup[T]:
        """Begin to do a job that asks the registry."""
        ...

    def close(self) -> None:
        """Lookups are given up."""
        ...


class Cached(Generic[T]):
    """Decoders made of schemas, kept by id. For one thread."""

    def __init__(
        self,
        registry: Registry,
        kind: str,
        make: Callable[[Registered], T],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._kind = kind
        self._make = make
        self._clock = clock
        self._known: dict[int, T] = {}
        self._unknown: dict[int, tuple[float, MisfitError]] = {}
        self._lookups: dict[int, Lookup[T]] = {}

    def __getitem__(self, schema_id: int) -> T:
        """Raises `MisfitError`, `AwaitedError`, and what the registry raises."""
        found = self._known.get(schema_id)
        return self._asked(schema_id) if found is None else found

    def _asked(self, schema_id: int) -> T:
        until, problem = self._unknown.get(schema_id, (0.0, None))
        if problem is not None and self._clock() < until:
            raise MisfitError(str(problem), problem.reason)
        lookup = self._lookups.get(schema_id)
        if lookup is None:
            lookup = self._registry.look_up(f"schema {schema_id}", lambda: self._looked_up(schema_id))
            self._lookups[schema_id] = lookup
        registry = self._registry
        if not lookup.wait(lookup.started_at + registry.wait_s, ends_early=not registry.is_patient):
            raise AwaitedError(lookup)
        del self._lookups[schema_id]
        try:
            made = self._known[schema_id] = lookup.result()
        except MisfitError as error:
            if len(self._unknown) >= MAX_UNKNOWN:
                self._unknown.clear()
            self._unknown[schema_id] = (self._clock() + UNKNOWN_FOR_S, error)
            raise MisfitError(str(error), error.reason) from None
        return made

    def _looked_up(self, schema_id: int) -> T:
        registered = self._registry.schema(schema_id, self._kind)
        if registered.kind != self._kind:
            raise MisfitError(
                f"has schema {schema_id}, which is {registered.kind} and not {self._kind}", Reason.WRONG_FORMAT
            )
        return self._make(registered)


class ConfluentRegistry:
    """A registry that speaks the API of Confluent's: Karapace, Redpanda and Apicurio do, too."""

    def __init__(self, settings: RegistrySettings, *, wait_s: float | None = None) -> None:
        """`wait_s`: for how long an answer is waited for by who has something else to do; without it, as long as an
        answer may take. Raises `ConfigError` where its library is not installed."""
        assert settings.url is not None
        self._url, self._timeout_s = settings.url, settings.timeout_s
        self.is_patient = wait_s is None
        self.wait_s = settings.timeout_s if wait_s is None else wait_s
        self._closed = threading.Event()
        self._requests: _Requests | None = None
        self._lock = threading.Lock()
        if (settings.username is None) != (settings.password is None):
            raise ConfigError("input.registry.username and input.registry.password go together: set both or neither")
        try:
            from confluent_kafka.schema_registry import AsyncSchemaRegistryClient
        except ImportError as error:
            raise ConfigError(
                f"{_SETTING} needs {error.name or 'a library'}: pip install 'align-worker[avro,protobuf]'"
            ) from None
        share_s = settings.timeout_s / len(settings.url.split(","))  # so that the last one is asked, too
        options: dict[str, Any] = {"url": settings.url, "timeout": min(LONGEST_REQUEST_S, share_s), "max.retries": 0}
        if settings.username is not None and settings.password is not None:
            options["basic.auth.user.info"] = f"{settings.username}:{settings.password.get_secret_value()}"
        if settings.ssl_cafile is not None:
            options["ssl.ca.location"] = str(settings.ssl_cafile)
        try:
            self._client = AsyncSchemaRegistryClient(options)
        except (ValueError, OSError) as error:
            raise ConfigError(f"{_SETTING}: {str(error).splitlines()[0]}") from None

    def schema(self, schema_id: int, kind: str) -> Registered:
        async def ask() -> Any:
            return await self._client.get_schema(schema_id, fmt=_form(kind))

        return self._answer(f"schema {schema_id}", ask)

    def version(self, subject: str, version: int, kind: str) -> Registered:
        async def ask() -> Any:
            return (await self._client.get_version(subject, version, fmt=_form(kind))).schema

        return self._answer(f"version {version} of {subject}", ask)

    def look_up(self, what: str, job: Callable[[], T]) -> Lookup[T]:
        lookup: Lookup[T] = Lookup(self._told(f"has not answered for {what} yet"))
        threading.Thread(target=self._work, args=[lookup, what, job], name="registry lookup", daemon=True).start()
        return lookup

    def close(self) -> None:
        """Lookups are given up."""
        self._closed.set()
        with self._lock:
            requests, self._requests = self._requests, None
        if requests is not None:
            requests.close()

    # ------------------------------------------------------------------ threads of lookups

    def _work(self, lookup: Lookup[T], what: str, job: Callable[[], T]) -> None:
        pause_s, detail = FIRST_PAUSE_S, ""
        while not self._closed.is_set():
            try:
                lookup.settle(job())
            except RegistryFault as fault:
                if str(fault) != detail:
                    detail = str(fault)
                    log.warning("%s; what needs %s waits", detail, what, extra={"action": "registry_unavailable"})
                lookup.fail(detail)
            except Exception as error:  # of the record, of who we are, or a defect: whoever waits raises it
                lookup.settle(None, error)
                return
            else:
                if detail:
                    log.info("%s", self._told(f"has answered for {what}"), extra={"action": "registry_well"})
                return
            self._closed.wait(pause_s * (0.5 + random.random()))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _answer(self, what: str, ask: Callable[[], Coroutine[Any, Any, Any]]) -> Registered:
        from confluent_kafka.schema_registry.error import SchemaRegistryError

        try:
            return self._the_requests().answer(ask, self._timeout_s)
        except SchemaRegistryError as error:
            raise self._refused(what, error.http_status_code, error.error_code) from None
        except TimeoutError:
            raise self._fault(f"has not answered in {self._timeout_s:g} s") from None
        except Exception as error:  # whatever its HTTP client raises: all of it means that there was no answer
            raise self._fault(_without_answer(error)) from None

    def _the_requests(self) -> _Requests:
        with self._lock:
            if self._requests is None:
                self._requests = _Requests(self._client)
            return self._requests

    def _refused(self, what: str, status: int, code: object) -> Exception:
        if status in _FORBIDDEN:
            return AccessError(
                f"{_SETTING}: the schema registry at {self._url} refuses us ({status}): see input.registry.username "
                "and input.registry.password"
            )
        if status == 404 and isinstance(code, int) and code >= LEAST_CODE_OF_ITS_OWN:
            return MisfitError(f"has {what}, which the registry does not know", Reason.WRONG_FORMAT)
        if status == 404:
            return self._fault("answers 404 and not as a schema registry does: is the path of its address right?")
        return self._fault(f"answers {status}")

    def _fault(self, why: str) -> RegistryFault:
        return RegistryFault(self._told(why))

    def _told(self, why: str) -> str:
        return f"{_SETTING}: the schema registry at {self._url} {why}"


class _Requests:
    """An event loop on a thread of its own, so that each request as a whole is bounded by one clock."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="registry requests", daemon=True)
        self._thread.start()

    def answer(self, ask: Callable[[], Coroutine[Any, Any, Any]], timeout_s: float) -> Registered:
        """Raises `TimeoutError`, and what the request raises."""

        async def bounded() -> Registered:
            try:
                async with asyncio.timeout(timeout_s):
                    return _registered(await ask())
            except Exception:
                await self._client.clear_caches()  # in which it keeps nonsense, too
                raise

        return asyncio.run_coroutine_threadsafe(bounded(), self._loop).result()

    def close(self) -> None:
        async def end() -> None:
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await self._client.__aexit__()

        with contextlib.suppress(Exception):  # nobody waits for it any more
            asyncio.run_coroutine_threadsafe(end(), self._loop).result(CLOSE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_S)
        if not self._thread.is_alive():
            self._loop.close()


def _form(kind: str) -> str | None:
    """Protobuf as a descriptor: only the registry can compile its text."""
    return "serialized" if kind == "PROTOBUF" else None


def _registered(schema: Any) -> Registered:
    """Raises `ValueError` for what is none."""
    kind, text = schema.schema_type or "AVRO", schema.schema_str
    if kind not in KINDS or not isinstance(text, str) or not text:
        raise ValueError("its answer is no schema")
    references = tuple((each.name, each.subject, each.version) for each in schema.references or ())
    return Registered(kind, text, references)


def _without_answer(error: Exception) -> str:
    """What has become of a request, as the rest of a sentence about the registry."""
    told = shortened(" ".join(str(error).split()), MAX_TOLD)
    if _is_about_certificate(error):
        return f"has a certificate that is not trusted ({told}): input.registry.ssl_cafile names those that are"
    is_nonsense = isinstance(error, ValueError | TypeError | LookupError | AttributeError)
    does = "answers nonsense" if is_nonsense else "cannot be reached"
    return f"{does} ({type(error).__name__}{': ' if told else ''}{told})"


def _is_about_certificate(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False
