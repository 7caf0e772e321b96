"""Schemas by the ids that stand before records. The registry is asked once for each; that it does not answer is no
fault of a record, so nothing is refused for it: the process ends, with what has been finished committed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from schemas import Reason
from worker.errors import AccessError, ConfigError, UnreachableError, WorkerError
from worker.mapping.problem import MisfitError
from worker.settings import RegistrySettings

T = TypeVar("T")
UNKNOWN_FOR_S = 60.0
"""For how long a schema that is not there is not asked for again."""
MAX_UNKNOWN = 1_000
_RETRY_S = 0.5
_FORBIDDEN = (401, 403)
_SETTING = "input.registry.url"


class Registered(NamedTuple):
    """A schema as it lies in the registry."""

    kind: str
    """`AVRO`, `PROTOBUF` or `JSON`."""
    text: str
    references: tuple[tuple[str, str, int], ...] = ()
    """Name, subject and version of each schema that it names."""


class Registry(Protocol):
    """Raises `MisfitError` for a schema that is not there, `WorkerError` where the registry does not answer."""

    def schema(self, schema_id: int, kind: str) -> Registered: ...

    def version(self, subject: str, version: int, kind: str) -> Registered: ...


class Cached(Generic[T]):
    """What is made of each schema, by its id. For one thread."""

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

    def __getitem__(self, schema_id: int) -> T:
        """Raises as the registry does."""
        found = self._known.get(schema_id)
        return self._asked(schema_id) if found is None else found

    def _asked(self, schema_id: int) -> T:
        now = self._clock()
        until, problem = self._unknown.get(schema_id, (0.0, None))
        if problem is not None and now < until:
            raise MisfitError(str(problem), problem.reason)
        try:
            registered = self._registry.schema(schema_id, self._kind)
            if registered.kind != self._kind:
                raise MisfitError(
                    f"has schema {schema_id}, which is {registered.kind} and not {self._kind}", Reason.WRONG_FORMAT
                )
            made = self._known[schema_id] = self._make(registered)
        except MisfitError as error:
            if len(self._unknown) >= MAX_UNKNOWN:
                self._unknown.clear()
            self._unknown[schema_id] = (now + UNKNOWN_FOR_S, error)
            raise
        return made


class ConfluentRegistry:
    """A registry that speaks the API of Confluent's: Karapace, Redpanda and Apicurio do, too."""

    def __init__(self, settings: RegistrySettings, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises `ConfigError` where its library is not installed."""
        assert settings.url is not None
        self._url, self._timeout_s, self._clock = settings.url, settings.timeout_s, clock
        if (settings.username is None) != (settings.password is None):
            raise ConfigError("input.registry.username and input.registry.password go together: set both or neither")
        try:
            from confluent_kafka.schema_registry import SchemaRegistryClient
        except ImportError as error:
            raise ConfigError(
                f"{_SETTING} needs {error.name or 'a library'}: pip install 'align-worker[avro,protobuf]'"
            ) from None
        options: dict[str, Any] = {"url": settings.url, "timeout": min(5.0, settings.timeout_s), "max.retries": 0}
        if settings.username is not None and settings.password is not None:
            options["basic.auth.user.info"] = f"{settings.username}:{settings.password.get_secret_value()}"
        if settings.ssl_cafile is not None:
            options["ssl.ca.location"] = str(settings.ssl_cafile)
        try:
            self._client = SchemaRegistryClient(options)
        except (ValueError, OSError) as error:
            raise ConfigError(f"{_SETTING}: {str(error).splitlines()[0]}") from None

    def schema(self, schema_id: int, kind: str) -> Registered:
        form = _form(kind)
        return self._asked(f"schema {schema_id}", lambda: self._client.get_schema(schema_id, fmt=form))

    def version(self, subject: str, version: int, kind: str) -> Registered:
        form = _form(kind)
        return self._asked(
            f"version {version} of {subject}", lambda: self._client.get_version(subject, version, fmt=form).schema
        )

    def _asked(self, what: str, ask: Callable[[], Any]) -> Registered:
        from confluent_kafka.schema_registry.error import SchemaRegistryError

        deadline = self._clock() + self._timeout_s
        while True:
            try:
                return _registered(ask())
            except SchemaRegistryError as error:
                if error.http_status_code == 404:
                    raise MisfitError(f"has {what}, which the registry does not know", Reason.WRONG_FORMAT) from None
                if error.http_status_code in _FORBIDDEN:
                    raise AccessError(
                        f"{_SETTING}: the schema registry at {self._url} refuses us ({error.http_status_code}): see "
                        "input.registry.username and input.registry.password"
                    ) from None
                problem: WorkerError = self._silent(f"it answers {error.http_status_code}")
                if error.http_status_code < 500 and error.http_status_code != 429:
                    raise problem from None
            except Exception as error:  # whatever its HTTP client raises: all of it means that there was no answer
                problem = self._silent(type(error).__name__)
            if self._clock() + _RETRY_S >= deadline:
                raise problem
            time.sleep(_RETRY_S)

    def _silent(self, why: str) -> UnreachableError:
        return UnreachableError(
            f"{_SETTING}: the schema registry at {self._url} cannot be asked within {self._timeout_s:g} s ({why})"
        )


def _form(kind: str) -> str | None:
    """Protobuf as a descriptor: only the registry can compile its text."""
    return "serialized" if kind == "PROTOBUF" else None


def _registered(schema: Any) -> Registered:
    references = tuple((each.name, each.subject, each.version) for each in schema.references or ())
    return Registered(schema.schema_type or "AVRO", schema.schema_str or "", references)
