"""All settings: typed, frozen, checked at start.

One name everywhere: the flag `--kafka.group_id`, the environment variable `ALIGN_KAFKA__GROUP_ID` and the YAML key
`kafka: {group_id: …}` are the same setting. Flags win over the environment, the environment over the file named by
`--config` or `ALIGN_CONFIG`. An unknown name anywhere is a `ConfigError`.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from worker.config_file import ConfigFile, read_config
from worker.errors import ConfigError
from worker.printable import shortened

ENV_PREFIX = "ALIGN_"
HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?")
CONFIG_FILE_VARIABLE = "ALIGN_CONFIG"
CALL_SLACK_S = 5.0
"""Seconds that a call to a broker may take beyond the time-out of its request."""
MAX_NAME_CHARS = 249
"""As of a topic. A group or a client whose name is too long for the protocol would wait for ever."""
OLDEST_API = (2, 1)
"""The oldest version of Kafka whose requests the brokers of today answer (KIP-896)."""
MAX_THREADS = 1_024
MAX_BATCH = 65_536
DECODER_START_S = 30.0
"""How long the process that reads media files may take to start."""


def _split_commas(value: Any) -> Any:
    """Lists are written `a,b` in flags and in the environment."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _split_pairs(value: Any) -> Any:
    """Maps are written `a=b,c=d` in flags and in the environment."""
    if not isinstance(value, str):
        return value
    pairs = [part.strip().partition("=") for part in value.split(",") if part.strip()]
    if any(not (name and equals) for name, equals, _ in pairs):
        raise ValueError("expected NAME=VALUE,…")
    return {name: entry for name, _, entry in pairs}


def _version(value: Any) -> Any:
    """Two numbers, `2,3`."""
    parts = _split_commas(value)
    if not isinstance(parts, list | tuple):
        return value
    if len(parts) != 2 or not all(re.fullmatch("[0-9]{1,4}", str(part)) for part in parts):
        raise ValueError("must be two numbers, as 2,3")
    version = tuple(map(int, parts))
    if version < OLDEST_API:
        raise ValueError(f"must be {','.join(map(str, OLDEST_API))} or newer: older requests are not answered")
    return version


def broker_addresses(servers: str) -> list[tuple[str, int]]:
    """Host and port of each broker in `host:port[,host:port…]`. Raises `ValueError`, saying what to write instead."""
    return [_address(server.strip()) for server in servers.split(",")]


def _address(server: str) -> tuple[str, int]:
    shown = repr(shortened(server))
    if not server:
        raise ValueError("an entry is empty: write host:port, with a comma only between two")
    if "://" in server:
        raise ValueError(
            f"{shown} is a URL: leave out what stands before the host; kafka.security_protocol says it, and give "
            "host:port"
        )
    host, colon, port = server.rpartition(":")
    if not colon or (server.startswith("[") and server.endswith("]")):
        raise ValueError(f"{shown} has no port: write host:port, as {server}:9092")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(f"{shown} is no host:port: an IPv6 address stands in brackets, as [::1]:9092")
    if not (port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= 65_535):
        raise ValueError(f"{shown}: the port must be a number from 1 to 65535")
    if host.startswith("["):
        try:
            ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            raise ValueError(f"{shown}: what stands in brackets must be an IPv6 address") from None
        return host[1:-1], int(port)
    if not re.fullmatch(r"[\w.-]+", host):
        raise ValueError(f"{shown} is no host:port")
    return host, int(port)


def _servers(value: Any) -> Any:
    """A list of brokers, too; without the spaces around the commas, which the client takes for a part of the name."""
    text = ",".join(value) if isinstance(value, list) and all(isinstance(each, str) for each in value) else value
    if not isinstance(text, str):
        return value
    broker_addresses(text)
    return ",".join(server.strip() for server in text.split(","))


_CREDENTIALS = re.compile(
    r"://[^/?#@\s]*:[^/?#@\s]*@|\b(ssl)?(password|passwd|pwd|secret|token|api_?key)\s*=", re.IGNORECASE
)


def _without_credentials(instead: str) -> AfterValidator:
    """Refuse an address with a password in it, which `config`, logs and errors would show. `instead`: where it goes."""

    def check(value: Any) -> Any:
        texts = value.values() if isinstance(value, dict) else [value]
        if any(isinstance(text, str) and _CREDENTIALS.search(text) for text in texts):
            raise ValueError(f"there is a password in it, which would be shown: {instead}")
        return value

    return AfterValidator(check)


MOST = {"_ms": 2**31 - 1, "_s": 10**9, "_mb": 2**24}
"""Largest number of a setting, by the unit in its name: a time in milliseconds goes to Kafka, which takes 31 bits."""
MOST_OF_ALL = 2**53
"""The same of all others: the largest whole number that a float holds."""


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _within_reach(cls, value: Any, info: ValidationInfo) -> Any:
        """A number that a clock, a client or the system cannot take would end the process when it is used."""
        if isinstance(value, int | float):
            most = next((each for unit, each in MOST.items() if str(info.field_name).endswith(unit)), MOST_OF_ALL)
            if value > most:
                raise ValueError(f"must be at most {most}")
        return value


MAX_SECRET_BYTES = 64 * 1024


def secret_fields(model: type[BaseModel]) -> list[str]:
    """The fields that hold secrets. Each has another one beside it, `…_file`, that names a file to read it from."""
    return [name for name, field in model.model_fields.items() if SecretStr in (field.annotation, *_args(field))]


def _args(field: FieldInfo) -> tuple[Any, ...]:
    return get_args(field.annotation)


def _with_secrets(group: str, model: type[BaseModel], given: Any) -> Any:
    """The values of a group with each secret read that a `…_file` names. Raises `ValueError`, which names the setting
    and never what is in the file."""
    if not isinstance(given, Mapping):
        return given
    read: dict[str, Any] = {}
    for name in secret_fields(model):
        path = given.get(f"{name}_file")
        if isinstance(path, str | Path):
            if given.get(name) is not None:
                raise ValueError(f"{group}.{name} and {group}.{name}_file are both set: give one of them")
            read[name] = _read_secret(f"{group}.{name}_file", Path(path))
    return {**given, **read}


def _read_secret(setting: str, path: Path) -> str:
    try:
        if not path.exists():
            raise ValueError(f"{setting}: no such file: {path}")
        if not path.is_file():
            raise ValueError(f"{setting}: {path} is not a file")
        with path.open("rb") as file:
            content = file.read(MAX_SECRET_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{setting}: cannot read {path}: {error.strerror or error}") from None
    if len(content) > MAX_SECRET_BYTES:
        raise ValueError(f"{setting}: {path} has more than {MAX_SECRET_BYTES} bytes: it is no password")
    try:
        secret = content.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError(f"{setting}: {path} is not text in UTF-8") from None
    if not secret:
        raise ValueError(f"{setting}: {path} is empty")
    return secret


class KafkaSettings(_Group):
    bootstrap_servers: Annotated[str, BeforeValidator(_servers)] = "localhost:9092"
    """Brokers to ask first, `host:port[,host:port…]`."""
    group_id: str = Field("align-worker", min_length=1, max_length=MAX_NAME_CHARS)
    """Consumer group of the items role; that of the users role has `-users` appended. Workers of one group share the
    partitions; a second deployment needs a name of its own."""
    client: Literal["kafka-python", "confluent-kafka"] = "kafka-python"
    """Which client library carries the records. confluent-kafka costs a fraction of the CPU time; its failures lie in
    C. `.github/decisions/` has the comparison."""
    properties_file: Path | None = None
    """File with further properties of librdkafka, `name=value` a line, such as those of Kerberos or OIDC. Read at
    start, never shown. Only with `client: confluent-kafka`."""
    client_id: str = Field("align-worker", max_length=MAX_NAME_CHARS)
    """Name shown in the broker's logs and quotas."""
    group_instance_id: str | None = Field(None, pattern=r"^[A-Za-z0-9._-]{1,249}$")
    """Name of this member in its group: one per process, the same after a restart, as a pod's name is. A process that
    comes back under its name within `session_timeout_ms` has its partitions again, and nobody else stops for it.
    Default: a name that is remembered on this machine, see `remember_member`."""
    remember_member: bool = True
    """Without `group_instance_id`: take the name of a process that has died on this machine, or a new one. Names lie in
    files in the temporary directory, and a file is in use for as long as its process lives. With false, a worker that
    is killed and started again is a stranger: the whole group waits until the session of the dead one has ended."""
    leave_group: bool | None = None
    """Whether a worker that stops, or is ended by the watchdog, leaves the group, so that others have its partitions at
    once. Right where its name does not come back (a Deployment). With false the partitions wait for it for
    `session_timeout_ms`, and nobody else stops (a StatefulSet). Default: true, unless `group_instance_id` is set."""
    assignor: Literal["range", "roundrobin", "cooperative-sticky"] = "range"
    """How partitions are shared out. All members must agree. `tests/bench/README.md` compares them."""
    group_protocol: Literal["classic", "consumer"] = "classic"
    """`consumer`: the protocol of KIP-848 (Kafka 4), in which nobody stops when a member joins, leaves or dies. The
    brokers share out the partitions then, and say how long a session is, so `assignor` and `heartbeat_interval_ms` mean
    nothing. Only with `client: confluent-kafka`. A group changes over when its last classic member has gone."""
    session_timeout_ms: int = Field(30_000, ge=1_000)
    """A member silent for this long loses its partitions. Too low: pauses look like deaths. Too high: the
    partitions of a dead worker that does not come back wait this long, and so does the whole group when a new one
    joins meanwhile. `tests/README.md` has what it costs. The broker has bounds of its own:
    `group.min.session.timeout.ms` and `group.max.session.timeout.ms`."""
    heartbeat_interval_ms: int = Field(1_000, ge=100)
    """At most a third of `session_timeout_ms`. A member hears of a rebalance with its next heartbeat; with the
    cooperative assignor all partitions stand still until every member has."""
    on_new_log: Literal["take_up", "refuse"] = "take_up"
    """Action where the log of an input, an output or a changelog is not the one of before: its topic was deleted
    and made again, or it was cut short. `take_up`: say so, and begin at its beginning, so that nothing in it is passed
    over and revisions decide as ever. `refuse`: end with exit code 4, and leave everything as it is until a person has
    looked. A topic that comes back with another number of partitions is refused in any case."""
    max_poll_interval_ms: int = Field(30_000, ge=5_000)
    """Longest pause between polls before the client leaves the group; also the rebalance time-out: how long all others
    wait for a member that does not join again."""
    fetch_max_bytes: int = Field(8 * 2**20, ge=2**16, le=2**30)
    """Most bytes of one fetch, and so of client memory per broker."""
    client_rack: str | None = Field(None, max_length=MAX_NAME_CHARS)
    """Where this process runs, in the words of the brokers' `broker.rack`: mostly the name of a zone. Brokers whose
    `replica.selector.class` knows racks then have it fetch from a replica in the same place."""
    max_record_bytes: int = Field(16 * 2**20, ge=2**16, le=2**30)
    """Largest record, unpacked, that is taken into memory: a larger one becomes a dead letter without its value. A
    compressed batch within its topic's limit can hold records of any size. The contract's messages have at most 16
    MiB."""
    fetch_max_wait_ms: int = Field(500, ge=1)
    """How long the broker holds a fetch that has nothing to return. New data ends the wait at once."""
    delivery_timeout_ms: int = Field(15_000, ge=1_000)
    """A record not acknowledged within this time has failed and is computed again from the log. Kept below
    `session_timeout_ms`, so that a frozen worker's writes die before its partitions have a new owner."""
    request_timeout_ms: int = Field(8_000, ge=500)
    """One request to one broker. Below `delivery_timeout_ms`."""
    linger_ms: int = Field(5, ge=0)
    """How long the producer waits for more records for the same partition."""
    produce_batch_bytes: int = Field(256 * 1024, ge=1_024, le=2**30)
    """Size of one produce batch. The idempotent producer has one batch in flight per partition, so small batches
    cap throughput at size / round trip."""
    compression: Literal["none", "gzip", "lz4", "zstd", "snappy"] = "none"
    """Vectors hardly compress (float16: 1 % with lz4, 10 % with zstd)."""
    connect_timeout_s: float = Field(120.0, gt=0)
    """How long to wait at start for a broker that does not answer, before the process ends."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "GSSAPI"] | None = None
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    sasl_password_file: Path | None = None
    """File holding `sasl_password`, such as a mounted Secret. Read at start, without a line break at its end."""
    sasl_oauth_token_file: Path | None = None
    """File holding a bearer token, read again at every authentication, so that a rotated token is picked up."""
    ssl_cafile: Path | None = None
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None
    ssl_key_password: SecretStr | None = None
    ssl_key_password_file: Path | None = None
    """File holding `ssl_key_password`."""
    ssl_check_hostname: bool = True
    api_version: Annotated[tuple[int, int] | None, NoDecode, BeforeValidator(_version)] = None
    """Assume this broker version, as `2,3`, instead of asking. Only the embedded broker needs it."""
    check_crcs: bool = True
    """Verify record checksums."""

    @model_validator(mode="before")
    @classmethod
    def _read_secrets(cls, given: Any) -> Any:
        return _with_secrets("kafka", cls, given)

    @model_validator(mode="after")
    def _consistent(self) -> KafkaSettings:
        if self.heartbeat_interval_ms * 3 > self.session_timeout_ms:
            raise ValueError("kafka.heartbeat_interval_ms must be at most a third of kafka.session_timeout_ms")
        if self.delivery_timeout_ms * 2 > self.session_timeout_ms:
            raise ValueError("kafka.delivery_timeout_ms must be at most half of kafka.session_timeout_ms")
        if self.request_timeout_ms + self.linger_ms > self.delivery_timeout_ms:
            raise ValueError("kafka.delivery_timeout_ms must exceed kafka.request_timeout_ms + kafka.linger_ms")
        if self.fetch_max_wait_ms >= self.request_timeout_ms:
            raise ValueError("kafka.request_timeout_ms must exceed kafka.fetch_max_wait_ms: no fetch would be answered")
        if self.request_timeout_ms >= self.max_poll_interval_ms:
            raise ValueError(
                "kafka.max_poll_interval_ms must exceed kafka.request_timeout_ms: one slow answer would cost the "
                "place in the group"
            )
        if self.leave_group is False and self.group_instance_id is None and not self.remember_member:
            raise ValueError(
                "kafka.leave_group=false needs kafka.group_instance_id or kafka.remember_member: nobody else could "
                "come back to the partitions"
            )
        if self.security_protocol.startswith("SASL") and self.sasl_mechanism is None:
            raise ValueError(f"kafka.sasl_mechanism is required with kafka.security_protocol={self.security_protocol}")
        if self.sasl_mechanism is not None and not self.security_protocol.startswith("SASL"):
            raise ValueError("kafka.sasl_mechanism needs kafka.security_protocol SASL_PLAINTEXT or SASL_SSL")
        if self.client != "confluent-kafka":
            for name, is_set in (
                ("group_protocol=consumer", self.group_protocol == "consumer"),
                ("properties_file", self.properties_file is not None),
                ("sasl_mechanism=GSSAPI", self.sasl_mechanism == "GSSAPI"),
            ):
                if is_set:
                    raise ValueError(f"kafka.{name} needs kafka.client=confluent-kafka")
        if self.sasl_mechanism == "OAUTHBEARER" and self.sasl_oauth_token_file is None and self.properties_file is None:
            raise ValueError(
                "kafka.sasl_oauth_token_file is required with kafka.sasl_mechanism=OAUTHBEARER (or, with "
                "kafka.client=confluent-kafka, an OIDC method in kafka.properties_file)"
            )
        if self.sasl_mechanism not in (None, "OAUTHBEARER", "GSSAPI") and not (
            self.sasl_username and self.sasl_password
        ):
            raise ValueError(
                f"kafka.sasl_mechanism={self.sasl_mechanism} needs kafka.sasl_username and kafka.sasl_password, "
                "or kafka.sasl_password_file"
            )
        for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile", "sasl_oauth_token_file", "properties_file"):
            path = getattr(self, name)
            if path is not None and not path.is_file():
                raise ValueError(f"kafka.{name}: no such file: {path}")
        return self

    @property
    def leaves_group(self) -> bool:
        """Whether a worker that stops leaves the group."""
        return self.group_instance_id is None if self.leave_group is None else self.leave_group

    @property
    def longest_rebalance_s(self) -> float:
        """How long a rebalance may take in which nothing is wrong with this member: until the session of one that has
        died has ended, and then until the slowest of the others has joined."""
        return (self.session_timeout_ms + self.max_poll_interval_ms) / 1000


def topic_name(name: str) -> str:
    """The name, if it can be one of a topic. Raises `ValueError`: a broker would be asked in vain, or for ever."""
    if not re.fullmatch(r"[a-zA-Z0-9._-]{1,249}", name) or name in (".", ".."):
        raise ValueError(
            f"{shortened(name, 60)!r} cannot be the name of a topic: up to {MAX_NAME_CHARS} letters a-z, A-Z, digits, "
            "dots, underscores and hyphens"
        )
    return name


class TopicSettings(_Group):
    items: str = "items"
    events: str = "events"
    item_vectors: str = "item-vectors"
    user_vectors: str = "user-vectors"
    dead_letters: str = "dead-letters"
    item_state: str = "item-state"
    """Compacted changelog of what the items role remembers."""
    user_state: str = "user-state"
    """The same of the users role."""
    rollouts: str = "rollouts"
    """Compacted control topic: which space is published, and read, while one follows another (`space rollout`, which
    makes it)."""

    @model_validator(mode="after")
    def _distinct(self) -> TopicSettings:
        names = list(self.model_dump().values())
        if repeated := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"topics.*: {', '.join(sorted(repeated))} is used for more than one topic")
        for setting, name in self.model_dump().items():
            try:
                topic_name(name)
            except ValueError as error:
                raise ValueError(f"topics.{setting}: {error}") from None
        return self


class RegistrySettings(_Group):
    """Schemas of records in Avro and Protobuf."""

    url: str | None = Field(None, pattern=r"^https?://[^@\s]+$")
    """Schema registry that speaks the API of Confluent's, as `https://registry:8081`; several, separated by commas, are
    asked one after the other."""
    username: str | None = None
    """User of basic authentication, with `password`."""
    password: SecretStr | None = None
    """The password of that user."""
    password_file: Path | None = None
    """File holding `password`, such as a mounted Secret. Read at start, without a line break at its end."""
    ssl_cafile: Path | None = None
    """Certificates that the registry's own is checked against. Default: those of this machine."""
    timeout_s: float = Field(10.0, gt=0, le=20)
    """How long an answer may take. A schema is asked for at its first record, and asked for again until the registry
    answers: its partition waits meanwhile, and no record is refused. A command that reads a topic ends after this."""

    @model_validator(mode="before")
    @classmethod
    def _read_secrets(cls, given: Any) -> Any:
        return _with_secrets("input.registry", cls, given)

    @model_validator(mode="after")
    def _consistent(self) -> RegistrySettings:
        if self.ssl_cafile is not None and not self.ssl_cafile.is_file():
            raise ValueError(f"input.registry.ssl_cafile: no such file: {self.ssl_cafile}")
        return self


FormatName = Literal["msgpack", "json", "avro", "protobuf", "json-schema"]


class InputTopic(_Group):
    format: FormatName = "msgpack"
    """Format of the records. `avro`, `protobuf` and `json-schema` begin with the id of a schema, as the serializers of
    Confluent's registry write them. All but the messages of the contract, in msgpack, need a `mapping`."""
    mapping: Path | None = None
    """File that says which value of a record is which field of a message (`worker/mapping/README.md`)."""


class InputSettings(_Group):
    """Format of the topics that are read in place: `topics.items` and `topics.events`."""

    items: InputTopic = InputTopic()
    events: InputTopic = InputTopic()
    registry: RegistrySettings = RegistrySettings()


class RelayTopic(InputTopic):
    topic: Annotated[str | None, AfterValidator(lambda name: None if name is None else topic_name(name))] = None
    """Topic of other people that is read, mapped, and written anew: its records need no key, or have another one."""


class RelaySettings(_Group):
    """Settings of the role `relay`."""

    items: RelayTopic = RelayTopic()
    """Topic whose records become items, in `topics.items`."""
    events: RelayTopic = RelayTopic()
    """Topic whose records become events, in `topics.events`."""


class SpaceSettings(_Group):
    path: Path | None = None
    """Directory made by `align-worker space create` or by training."""


class BatchSettings(_Group):
    max_records: int = Field(512, ge=1, le=MAX_BATCH)
    """Items per micro-batch. On a CPU nothing is won past 512; a GPU wants more."""
    max_bytes: int = Field(16 * 2**20, ge=1_024)
    """Bytes of input messages per micro-batch."""
    max_age_ms: int = Field(20, ge=0)
    """Live mode: while the log has more, a batch waits to be filled until its oldest record is this old, counted from
    the record's Kafka timestamp. With nothing more in the log it is taken as soon as compute is free. Too low:
    half-empty batches."""
    backlog_records: int = Field(4_096, ge=1)
    """Backlog mode starts when this many records wait in the log: batches then fill up, whatever their age."""
    queue_records: int = Field(8_192, ge=2)
    """Records decoded and waiting for compute before partitions are paused."""
    queue_bytes: int = Field(128 * 2**20, ge=2**20)
    """The same in bytes of input messages."""
    padded_sizes: Annotated[
        tuple[Annotated[int, Field(ge=1, le=MAX_BATCH)], ...] | None, NoDecode, BeforeValidator(_split_commas)
    ] = None
    """Batch sizes the model runs at; a batch is padded to the next one. Default: powers of two up to `max_records`.
    One single size makes vectors bit-identical whatever the batching."""

    @model_validator(mode="after")
    def _consistent(self) -> BatchSettings:
        if self.queue_records < 2 * self.max_records:
            raise ValueError("batch.queue_records must be at least twice batch.max_records")
        sizes = self.padded_sizes
        if sizes is not None and (list(sizes) != sorted(set(sizes)) or sizes[-1:] < (self.max_records,)):
            raise ValueError("batch.padded_sizes must rise and end at batch.max_records or above")
        return self


class FetchSettings(_Group):
    schemes: Annotated[frozenset[Literal["file", "http", "https", "s3"]], NoDecode, BeforeValidator(_split_commas)] = (
        frozenset()
    )
    """Schemes of URIs that content may be fetched from. None by default: who sends items then decides what this worker
    connects to."""
    hosts: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_commas)] = ()
    """Hosts that may be fetched from: `host`, `host:port` or `*.domain`; with `s3`, the buckets."""
    roots: Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_split_commas)] = ()
    """Directories that `file:` URIs may lie in."""
    networks: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_commas)] = ()
    """Networks of private addresses, as 10.1.0.0/16, that may be connected to. All others that are not public are
    refused."""
    s3_endpoint: Annotated[str | None, _without_credentials("objects are fetched unsigned")] = None
    """Where the objects of `s3://bucket/key` are fetched, unsigned: this URL, then bucket and key."""
    timeout_s: float = Field(10.0, gt=0)
    """For one content, retries included. The items of a batch wait for its slowest."""
    retries: int = Field(2, ge=0, le=10)
    """How often what may work the next time is tried again."""
    concurrency: int = Field(16, ge=1, le=256)
    """Fetches at a time."""


class RemoteSettings(_Group):
    hosts: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_commas)] = ()
    """Hosts whose servers may encode, and so are sent the content of items: `host`, `host:port` or `*.domain`."""
    key_files: Annotated[dict[str, Path], NoDecode, BeforeValidator(_split_pairs)] = {}
    """Files with the keys of servers, `host=PATH,…`, or `host:port=PATH`; such as mounted Secrets. A key is sent as a
    bearer token to its host and nowhere else, and read again when a server is asked again who it is."""
    cafile: Path | None = None
    """Certificates that servers are trusted by, instead of those of the system."""
    concurrency: int = Field(64, ge=1, le=1_024)
    """Most requests to a server at a time. How many there are is found by how fast it answers, and by what it says."""
    max_batch: int = Field(32, ge=1, le=4_096)
    """Contents of one request, where a server does not say how many it takes."""
    timeout_s: float = Field(30.0, gt=0)
    """One request. Too low: a server that is slow is taken for one that is down."""
    deadline_s: float = Field(30.0, gt=0)
    """How long a batch is tried again after its first failure, before it is looked into what is wrong: the server, for
    which all that needs it waits then, or one content of the batch."""
    check_s: float = Field(30.0, gt=0)
    """After which a server is asked again which model it serves. The vector of a sample is compared besides, with each
    request."""
    start_timeout_s: float = Field(60.0, gt=0)
    """How long to wait at start for a server that does not answer, before the process ends."""


class EncodeSettings(_Group):
    encoders: Annotated[
        dict[str, str],
        NoDecode,
        BeforeValidator(_split_pairs),
        _without_credentials("the key of a server goes into a file, encode.remote.key_files"),
    ] = {}
    """Which encoder makes a modality's features of raw content, `modality=MODEL,…`. MODEL is built in (`builtin-text`,
    `builtin-image`, `builtin-audio`, `builtin-video`), a model directory, or a server and its model, as
    `openai+http://host/v1#model`; `MODEL@CONTENT` takes the content of another name, as `frames=/models/clip@video`.
    Without any, raw content is refused."""
    dims: Annotated[dict[str, Annotated[int, Field(ge=1)]], NoDecode, BeforeValidator(_split_pairs)] = {}
    """Dimensions that are kept of the features of a modality, `modality=N,…`, for models whose first dimensions stand
    alone (Matryoshka). Part of the encoder's name."""
    document_prompts: Annotated[dict[str, str], NoDecode, BeforeValidator(_split_pairs)] = {}
    """Prefix of the texts of items, by modality, instead of the model directory's. Part of the
    encoder's name."""
    query_prompts: Annotated[dict[str, str], NoDecode, BeforeValidator(_split_pairs)] = {}
    """Prefix of the words of `recommend --text`, by modality, instead of the model directory's."""
    frames: int = Field(8, ge=1, le=256)
    """Frames taken of a video."""
    windows: int = Field(4, ge=1, le=256)
    """Windows taken of an audio clip that is longer than one."""
    decoders: int = Field(0, ge=0, le=256)
    """Processes that read media files. 0: one less than there are cores."""
    decode_timeout_s: float = Field(20.0, gt=0)
    """A file that takes longer is given up, with its decoder. Too low: good videos are refused on a busy machine."""
    decode_memory_mb: int = Field(1_024, ge=128)
    """Memory that one decoder may have."""
    max_bytes: int = Field(64 * 2**20, ge=1_024)
    """Largest file that is read or fetched."""
    max_pixels: int = Field(50_000_000, ge=1_024)
    """Largest image or frame."""
    max_seconds: float = Field(600.0, gt=0)
    """Longest audio or video."""
    cache_bytes: int = Field(64 * 2**20, ge=0)
    """Features that are kept, so that an item whose content has not changed is not encoded again."""
    fetch: FetchSettings = FetchSettings()
    """Content that comes as a URI."""
    remote: RemoteSettings = RemoteSettings()
    """Encoders that are servers."""


class PublishSettings(_Group):
    vector_dtype: Literal["f2", "f4"] = "f2"
    """Element type of published vectors."""
    format: Literal["msgpack", "json", "connect_json"] = "msgpack"
    """How vectors are written. `json`: the fields of the message, for sinks without a schema. `connect_json`: the same
    in Kafka Connect's envelope of schema and payload. schemas/README.md, *As JSON*, has what each takes. Both need the
    extra `json` and take several times the room."""
    json_vectors: Literal["numbers", "base64"] = "numbers"
    """In JSON, a vector as an array of numbers, or as base64 of its float32 elements, little-endian."""
    modality_vectors: bool = False
    """Publish each modality's own vector in the space beside the fused one."""
    max_in_flight_records: int = Field(8_192, ge=1)
    """Records sent and not yet acknowledged. The client has no bound of its own."""


class SinkSettings(_Group):
    """Settings of `align-worker sink`."""

    url: Annotated[str | None, _without_credentials("it goes into sink.password_file")] = None
    """Where the index is: `postgresql://user@host/database`, or `http://host:port`; of Milvus Lite a file. Put no
    password into it."""
    password: SecretStr | None = None
    """For PostgreSQL, and for Elasticsearch and OpenSearch with `username`; for Milvus and Qdrant their token."""
    password_file: Path | None = None
    """File holding `password`, such as a mounted Secret. Read at start, without a line break at its end."""
    username: str | None = None
    """For Elasticsearch and OpenSearch. Without it `password` is an API key there."""
    path: Path | None = None
    """Directory of the snapshots, for files."""
    vectors: Annotated[frozenset[Literal["items", "users"]], NoDecode, BeforeValidator(_split_commas)] = Field(
        frozenset({"items"}), min_length=1
    )
    """Entity whose vectors are written."""
    group_id: str | None = Field(None, min_length=1, max_length=MAX_NAME_CHARS)
    """Consumer group. Default: `<kafka.group_id>-sink-<kind>`. A new name reads everything again, which changes nothing
    in an index that has it."""
    prefix: str = Field("", pattern=r"^[a-z0-9_]{0,20}$")
    """Prefix of the names of tables and collections."""
    distance: Literal["cosine", "ip", "l2"] = "cosine"
    """Comparison that the index is made for. All vectors are of unit length."""
    index: Literal["hnsw", "none"] = "hnsw"
    """`none`: make no index over vectors. pgvector's is made once the topics have been read to their end; until then
    every row is looked at."""
    index_memory_mb: int | None = Field(None, ge=1, le=2_000_000)
    """For pgvector: memory of the server for making that index (`maintenance_work_mem`). The whole index should fit, or
    it takes many times as long. Default: the server's."""
    columns: Annotated[
        dict[
            Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,40}$")], Literal["number", "text", "bool", "tags"]
        ],
        NoDecode,
        BeforeValidator(_split_pairs),
    ] = Field(default_factory=dict)
    """For pgvector: attributes that have a column of their own, `price=number,category=text`, to index and to filter
    by. All are in `attributes` besides."""
    max_records: int = Field(1_000, ge=1, le=65_536)
    """Records of a batch. Too low: the index is asked more often than it need be."""
    timeout_s: float = Field(30.0, gt=0)
    """How long the index may take for one answer. Below `watchdog.stalled_s`."""
    connect_timeout_s: float = Field(120.0, gt=0)
    """How long to wait at start for an index that does not answer, before the process ends."""
    keep_deleted_s: float = Field(7 * 86_400.0, ge=0)
    """How long it is remembered in the index that an item was deleted. Longer than anything may come late."""
    snapshot_interval_s: float = Field(10.0, ge=0)
    """Interval between snapshots, for files."""

    @model_validator(mode="before")
    @classmethod
    def _read_secrets(cls, given: Any) -> Any:
        return _with_secrets("sink", cls, given)


class RefusedSettings(_Group):
    warn_share: float = Field(0.1, ge=0, lt=1)
    """Share of the recent input (the last five minutes in which there was any) that may become dead letters before the
    status page turns amber and the log says so. Too low: every bad record does it. All of it always does."""


class CommitSettings(_Group):
    interval_ms: int = Field(500, ge=10)
    """How often offsets are committed. What lies between two commits is computed again after a crash."""


class TransactionSettings(_Group):
    """With `delivery: exactly_once`."""

    id: str | None = Field(None, min_length=1, max_length=MAX_NAME_CHARS)
    """Name of this process towards the broker's transaction coordinator, which sees the group's name before it. No two
    live processes may share it; a process that starts with it ends at once what an earlier one has left open.
    Default: `kafka.group_instance_id`, or a name made up at each start; readers and the next owner of a partition
    then wait for up to `timeout_ms` and 10 s after a crash."""
    interval_ms: int = Field(100, ge=1, le=1_000)
    """How long a transaction takes in micro-batches before it is committed. Too low: a commit costs more than the
    work. Too high: it is added to the latency of every output, because readers see nothing before the commit."""
    max_records: int = Field(8_192, ge=1)
    """Records written after which a transaction is committed before its time."""
    timeout_ms: int = Field(30_000, ge=2_000)
    """A transaction that is open for this long is ended by the broker, and its inputs are computed again. What a dead
    worker has left open holds up whoever takes its partitions for as long. At most the broker's
    `transaction.max.timeout.ms`."""


class StateSettings(_Group):
    dir: Path | None = None
    """Directory of the local stores, on a disk of this process's own. What a worker remembers is on the disk then and
    not in memory, and a restart reads the rest of the changelog instead of all of it. Without it everything is in
    memory."""
    features: bool = True
    """Remember the features of every item, so that items may come in parts (`partial`). Without it the changelog of
    the items takes a hundred bytes per item instead of a whole message, and partial items become dead letters."""


class GraphSettings(_Group):
    """Settings of the items role, in a space with graph fusion."""

    max_waiting: int = Field(1_000_000, ge=1)
    """Pairs of an item and a neighbour of it without a vector that are remembered, to compute the item anew when the
    vector comes; about 200 bytes each. An item that does not fit is computed with the neighbours it has, and anew at
    its next message or when its partition moves. Where a catalogue comes all at once there are about half as many
    pairs as items times neighbours."""
    follow_changes: bool = False
    """Compute items again when a neighbour changes or goes, not only when it appears. Every message then costs as many
    computations as there are items that name its item, one remembered pair (`graph.max_waiting`) per neighbour, and a
    partition that changes hands all of its items with neighbours."""
    table_dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """Element type of the table of the items' vectors before graph fusion, on the device."""


class RolloutSettings(_Group):
    """Of a rollout from one space to the next."""

    backfill_rate: float = Field(2_000.0, ge=0)
    """Items, or users, per second that each worker brings into the next space from what it remembers; 0: as many as it
    can. Live traffic comes first in any case. Too high: it costs CPU time; too low: a large catalogue takes long."""


class LimitsSettings(_Group):
    max_future_s: float = Field(3600.0, gt=0)
    """How far the event time of an item or an event may lie after the Kafka timestamp of its record. What lies further
    is a dead letter: the latest event of a user weighs most, so one from a clock that is fast would own the user until
    then. Too low: clocks that are a little fast cost events."""


class UserSettings(_Group):
    max_waiting: int = Field(1_000_000, ge=1)
    """Pairs of a user and an item without a vector that are remembered, to compute the user when the vector comes;
    about 200 bytes each. A user that does not fit is computed at its next event."""
    follow_changes: bool = False
    """Compute users again when the vector of an item in their history changes or goes, not only when it appears.
    Costs one remembered pair (`users.max_waiting`) per event in a history; a popular item moves many users, and a
    partition that changes hands all of its own."""
    table_dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """Element type of the table of item vectors on the device: rows times dim times 2 or 4 bytes."""


def _host_names(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name != "*" and not HOST_NAME.fullmatch(name.removeprefix("*.")):
            raise ValueError(
                f"{name!r} is no host name: give names without scheme and port, as worker.example or *.example"
            )
    return tuple(name.lower().rstrip(".") for name in names)


class HttpSettings(_Group):
    host: str = "0.0.0.0"
    """Address to listen on: `0.0.0.0` is every IPv4 address of this machine, `::` every one of both kinds."""
    port: int = Field(9464, ge=0, le=65_535)
    """Metrics, probes and the status page. 0 picks a free port."""
    allowed_hosts: Annotated[
        tuple[str, ...], NoDecode, BeforeValidator(_split_commas), AfterValidator(_host_names)
    ] = ()
    """Names by which this server may be asked, besides `localhost` and every IP address: `host`, `*.domain`, or `*` for
    any. A page of the web could otherwise make its visitor's browser read metrics and status, under a name of its own
    that leads here. Probes are answered whatever the name."""


class LogSettings(_Group):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "text"] = "auto"
    """`json`: an object a line, for machines. `text`: for people. `auto`: text where standard error is a terminal, else
    JSON."""


class ShutdownSettings(_Group):
    drain_timeout_s: float = Field(20.0, gt=0)
    """After SIGTERM: how long accepted records may take to be published and committed. The pod's grace period must
    exceed it by 10 s or more; `kafka.max_poll_interval_ms` must be longer, because nothing is polled meanwhile."""
    revoke_timeout_s: float = Field(2.0, gt=0)
    """When a partition is handed over: how long its batches in work may take. Far below `kafka.session_timeout_ms`,
    because it holds up the whole group and no heartbeat is sent meanwhile."""


class WatchdogSettings(_Group):
    group_unstable_s: float = Field(120.0, gt=0)
    """A group that is not stable for this long, with a reachable broker, ends the process. Longer than
    `kafka.session_timeout_ms` and `kafka.max_poll_interval_ms` together: a rebalance may wait for others as long."""
    stalled_s: float = Field(60.0, gt=0)
    """A poll, encode, compute or publish thread that has work and does not move for this long ends the process. Longer
    than any call to a broker may take (`kafka.request_timeout_ms`) and than a file or a URI may."""


class Settings(BaseSettings):
    """The whole configuration of one worker process."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    kafka: KafkaSettings = KafkaSettings()
    topics: TopicSettings = TopicSettings()
    input: InputSettings = InputSettings()
    relay: RelaySettings = RelaySettings()
    space: SpaceSettings = SpaceSettings()
    roles: Annotated[frozenset[Literal["items", "users", "relay"]], NoDecode, BeforeValidator(_split_commas)] = Field(
        frozenset({"items"}), min_length=1
    )
    """Roles of this process, separated by commas: `items` turns item messages into item vectors, `users` turns events
    into user vectors, and `relay` writes `relay.items.topic` and `relay.events.topic` anew, to those of items and
    events."""
    delivery: Literal["at_least_once", "exactly_once"] = "at_least_once"
    """The guarantee under faults: with `at_least_once`, outputs written twice and nothing lost. With `exactly_once`,
    outputs, dead letters, changelog and offsets are one transaction, and readers that set
    `isolation.level=read_committed` see each output once."""
    batch: BatchSettings = BatchSettings()
    encode: EncodeSettings = EncodeSettings()
    publish: PublishSettings = PublishSettings()
    sink: SinkSettings = SinkSettings()
    refused: RefusedSettings = RefusedSettings()
    commit: CommitSettings = CommitSettings()
    transaction: TransactionSettings = TransactionSettings()
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """`auto`, `cpu`, `cuda` or `cuda:N`. `auto` takes a GPU where there is one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Arithmetic of the model. `auto` is float32, everywhere, so that the vectors of one topic do not depend on which
    machine made them; the log tells at start how fast bfloat16 would be here. Another one is for a whole fleet."""
    threads: int = Field(0, ge=0, le=MAX_THREADS)
    """CPU threads of the model. 0: one less than there are cores, at least one, because the client needs one."""
    state: StateSettings = StateSettings()
    graph: GraphSettings = GraphSettings()
    users: UserSettings = UserSettings()
    limits: LimitsSettings = LimitsSettings()
    rollout: RolloutSettings = RolloutSettings()
    http: HttpSettings = HttpSettings()
    log: LogSettings = LogSettings()
    shutdown: ShutdownSettings = ShutdownSettings()
    watchdog: WatchdogSettings = WatchdogSettings()

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        for problem in (*self._time_problems(), *self._input_problems(), *self._relay_problems()):
            raise ValueError(problem)
        longest_s = max(self.encode.decode_timeout_s + DECODER_START_S, self.encode.fetch.timeout_s)
        if self.encode.encoders and longest_s >= self.watchdog.stalled_s:
            raise ValueError(
                f"watchdog.stalled_s must exceed encode.fetch.timeout_s, and encode.decode_timeout_s by "
                f"{DECODER_START_S:g} s: a slow file would pass for a stalled worker"
            )
        return self

    def _relay_problems(self) -> Iterator[str]:
        own = self.topics.model_dump()
        for name, relayed in (("relay.items.topic", self.relay.items), ("relay.events.topic", self.relay.events)):
            setting = next((f"topics.{key}" for key, value in own.items() if value == relayed.topic), None)
            if setting is not None:
                yield f"{name}: {relayed.topic} is {setting}, too, which would be read again and again: name another"

    def _input_problems(self) -> Iterator[str]:
        if "relay" in self.roles and not (self.relay.items.topic or self.relay.events.topic):
            yield "roles: relay needs relay.items.topic or relay.events.topic, the topic that is to be read"
        for name, topic in (
            ("input.items", self.input.items),
            ("input.events", self.input.events),
            ("relay.items", self.relay.items),
            ("relay.events", self.relay.events),
        ):
            if topic.format != "msgpack" and topic.mapping is None:
                yield (
                    f"{name}.format={topic.format} needs {name}.mapping: the file that says which value of a record is "
                    "which field of a message"
                )
            if topic.format in ("avro", "protobuf") and self.input.registry.url is None:
                yield f"{name}.format={topic.format} needs input.registry.url, which names the schema registry"

    def _time_problems(self) -> Iterator[str]:
        """Times of different groups of settings whose order matters, and that are out of it."""
        kafka, transaction, shutdown, watchdog = self.kafka, self.transaction, self.shutdown, self.watchdog
        session_s, poll_s = kafka.session_timeout_ms / 1000, kafka.max_poll_interval_ms / 1000
        if watchdog.group_unstable_s <= kafka.longest_rebalance_s:
            yield (
                f"watchdog.group_unstable_s={watchdog.group_unstable_s:g} must exceed kafka.session_timeout_ms + "
                f"kafka.max_poll_interval_ms ({kafka.longest_rebalance_s:g} s): for that long a rebalance may wait for "
                "a member that has died, and nothing is wrong with this one"
            )
        if watchdog.stalled_s <= kafka.request_timeout_ms / 1000 + CALL_SLACK_S:
            yield (
                f"watchdog.stalled_s={watchdog.stalled_s:g} must exceed kafka.request_timeout_ms by "
                f"{CALL_SLACK_S:g} s: a slow answer would pass for a stalled worker"
            )
        if shutdown.revoke_timeout_s >= session_s:
            yield (
                f"shutdown.revoke_timeout_s={shutdown.revoke_timeout_s:g} must be below kafka.session_timeout_ms "
                f"({session_s:g} s), far below best: no heartbeat is sent meanwhile"
            )
        if shutdown.drain_timeout_s >= poll_s:
            yield (
                f"shutdown.drain_timeout_s={shutdown.drain_timeout_s:g} must be below kafka.max_poll_interval_ms "
                f"({poll_s:g} s): nothing is polled meanwhile, and what is finished could not be committed"
            )
        if self.delivery == "exactly_once":
            if kafka.delivery_timeout_ms + transaction.interval_ms > transaction.timeout_ms:
                yield "transaction.timeout_ms must exceed kafka.delivery_timeout_ms + transaction.interval_ms"
            if transaction.timeout_ms / 1000 > kafka.longest_rebalance_s:
                yield (
                    f"transaction.timeout_ms={transaction.timeout_ms} must be at most kafka.session_timeout_ms + "
                    "kafka.max_poll_interval_ms: what a dead worker has left open would hold up the next owner of its "
                    "partitions beyond the rebalance"
                )
            if transaction.interval_ms * 2 > shutdown.revoke_timeout_s * 1000:
                yield "transaction.interval_ms must be at most half of shutdown.revoke_timeout_s"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _File(settings_cls, _config_file.get())


_config_file: ContextVar[ConfigFile | None] = ContextVar("config_file", default=None)


class _File(InitSettingsSource):
    """The YAML file, as the source that everything else overrides."""

    def __init__(self, settings_cls: type[BaseSettings], file: ConfigFile | None) -> None:
        super().__init__(settings_cls, init_kwargs={} if file is None else _checked(file, file.values))


def _checked(file: ConfigFile, values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Known settings that a file sets; a name without a value is as one left out."""
    known = setting_names()
    found = {}
    for key, value in values.items():
        name = prefix + key
        is_group = any(each.startswith(f"{name}.") for each in known)
        if is_group and isinstance(value, Mapping):
            found[key] = _checked(file, value, f"{name}.")
        elif is_group and value is not None:
            example = next(each for each in known if each.startswith(f"{name}."))
            raise ConfigError(f"{name} ({file.place(name)}): must hold settings, as {_as_map(example)}")
        elif not is_group and "." in key and name in known:
            raise ConfigError(f"{name} ({file.place(name)}): in a file it is written {_as_map(name)}")
        elif not is_group and name not in known:
            raise ConfigError(f"{shortened(name)} ({file.place(name)}): no such setting{_suggestion(name, known)}")
        elif value is not None:
            found[key] = value
    return found


def _as_map(name: str) -> str:
    """`kafka: {group_id: …}`"""
    *groups, leaf = name.split(".")
    text = f"{leaf}: …"
    for group in reversed(groups):
        text = f"{group}: {{{text}}}"
    return text


def load(flags: Mapping[str, str] | None = None, file: Path | None = None) -> Settings:
    """Settings from flags (`{"kafka.group_id": …}`), the environment and a YAML file, in this order of precedence.

    Raises `ConfigError` with one line per problem, naming each setting and where it is set; values are not repeated,
    they may be secret.
    """
    flags = flags or {}
    _refuse_unknown_variables(os.environ)
    if file is None and (named := os.environ.get(CONFIG_FILE_VARIABLE)):
        file = Path(named)
    content = None if file is None else read_config(file)
    token = _config_file.set(content)
    try:
        return Settings(**_nested(flags))
    except ValidationError as error:
        problems = (
            _problem(each, flags, content)
            for each in error.errors(include_url=False, include_input=False, include_context=False)
        )
        raise ConfigError("; ".join(problems)) from None
    except SettingsError as error:
        raise ConfigError(str(error)) from None
    finally:
        _config_file.reset(token)


def setting_names() -> dict[str, str]:
    """Every setting's name, with its description."""
    return {name: _description(field) for name, field in _leaves(Settings)}


def setting_descriptions() -> dict[str, str]:
    """Every setting's name, with what it does, what it may be, and what it is by default."""
    return {name: _described(name, field) for name, field in _leaves(Settings)}


def _leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """The settings of a group and of the groups in it, by their whole names."""
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _leaves(annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def _description(field: FieldInfo) -> str:
    return " ".join((field.description or "").split())


def _described(name: str, field: FieldInfo) -> str:
    choices = [_plain(choice) for choice in _choices(field.annotation)]
    offered = f"{'Any' if _is_many(field.annotation) else 'One'} of {', '.join(choices)}. " if choices else ""
    unit = next((unit for suffix, unit in _UNITS.items() if name.endswith(suffix)), "")
    default = _plain(field.default)
    shown = f"{default} {unit}" if unit and default != "none" else default
    return f"{_description(field)} {offered}(default: {shown})".strip()


_UNITS = {"_ms": "ms", "_s": "s", "_bytes": "bytes", "_mb": "MiB", "_records": "records", "_seconds": "s"}


def _choices(annotation: Any) -> list[Any]:
    """Choices of a value, where there is a list of them."""
    if annotation is bool:
        return [True, False]
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [choice for part in get_args(annotation) for choice in _choices(part)]


def _is_many(annotation: Any) -> bool:
    return get_origin(annotation) in (frozenset, tuple)


def _plain(value: Any) -> str:
    """A value as a flag takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or (isinstance(value, (tuple, frozenset, dict, str)) and not value):
        return "none"
    return ",".join(sorted(map(str, value))) if isinstance(value, (tuple, frozenset)) else str(value)


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return ENV_PREFIX + name.upper().replace(".", "__")


def redacted(settings: Settings) -> dict[str, Any]:
    """All settings as plain values; secrets are stars, and those that come from files are not there."""
    plain: dict[str, Any] = settings.model_dump(mode="json")
    _leave_out_read_secrets(settings, plain)
    return plain


def _leave_out_read_secrets(settings: BaseModel, plain: dict[str, Any]) -> None:
    for name in secret_fields(type(settings)):
        if plain.get(f"{name}_file") is not None:
            plain[name] = None
    for name in type(settings).model_fields:
        if isinstance(group := getattr(settings, name), BaseModel):
            _leave_out_read_secrets(group, plain[name])


def _nested(flags: Mapping[str, str]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in flags.items():
        *groups, leaf = name.split(".")
        place = nested
        for group in groups:
            place = place.setdefault(group, {})
        place[leaf] = value
    return nested


_EXPECTED = {
    **dict.fromkeys(("list_type", "tuple_type", "frozen_set_type"), "must be a list, as a,b"),
    "dict_type": "must be a map, as a=b,c=d",
    "string_type": "must be one text",
}


def _problem(error: Any, flags: Mapping[str, str], file: ConfigFile | None) -> str:
    message = _EXPECTED.get(error["type"]) or str(error["msg"]).removeprefix("Value error, ")
    parts = [part for part in error["loc"] if isinstance(part, str)]
    names = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
    name = next((each for each in names if each in setting_names()), names[0] if names else "")
    if error["type"] == "extra_forbidden":
        return f"{name}: no such setting{_suggestion(name, setting_names())}"
    if name in setting_names():
        return f"{name} ({_place(name, flags, file)}): {message}"
    return message if message.startswith(name) else f"{name}: {message}"


def _place(name: str, flags: Mapping[str, str], file: ConfigFile | None) -> str:
    """Where the value that holds was given."""
    if name in flags:
        return f"--{name}"
    if not os.environ.get(variable(name)) and file is not None and name in file.lines:
        return file.place(name)
    return variable(name)


def _refuse_unknown_variables(environ: Mapping[str, str]) -> None:
    """pydantic-settings ignores a misspelt first part of a name, and takes any case of the others; a worker that runs
    on a default instead of what was set is worse than one that does not start."""
    known = {variable(name) for name in setting_names()} | {CONFIG_FILE_VARIABLE}
    for name in environ:
        if name in known or not name.upper().startswith(ENV_PREFIX) or name.startswith("ALIGN_TEST_"):
            continue
        if name.upper() in known:
            raise ConfigError(f"{shortened(name)}: variables are written in capitals: {name.upper()}")
        raise ConfigError(f"{shortened(name)}: no such setting{_suggestion(name.upper(), known)}")


def _suggestion(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
