"""The way to a broker, the same for all clients of the library: where it is, who we are, how long we wait for it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from worker.errors import AccessError, ConfigError, WorkerError
from worker.kafka.advice import ConnectWait
from worker.kafka.certificates import check_certificates
from worker.kafka.confluent_kafka.diagnosis import diagnose
from worker.kafka.confluent_kafka.translation import codes, kafka_error, translate
from worker.kafka.reachability import unreachable_because
from worker.settings import KafkaSettings

log = logging.getLogger(__name__)

CALL_TIMEOUT_S = 10.0
ATTEMPT_S = 5.0
CONNECT_RETRY_S = 0.5
PATIENT_S = 5.0
"""For how long a broker may behave like one that does not let us in: so does one that is just going down or coming up.
"""
_TOKEN_LIFETIME_S = 300.0
"""After which the file of a bearer token is read again."""

_OURS = frozenset(
    [
        "bootstrap.servers",
        "client.id",
        "group.id",
        "group.instance.id",
        "group.protocol",
        "enable.auto.commit",
        "auto.offset.reset",
        "enable.auto.offset.store",
        "isolation.level",
        "transactional.id",
        "transaction.timeout.ms",
        "enable.idempotence",
        "acks",
        "request.required.acks",
        "message.timeout.ms",
        "delivery.timeout.ms",
        "enable.partition.eof",
        "partition.assignment.strategy",
        "session.timeout.ms",
        "heartbeat.interval.ms",
        "max.poll.interval.ms",
        "linger.ms",
        "queue.buffering.max.ms",
        "batch.size",
        "compression.type",
        "compression.codec",
        "check.crcs",
        "allow.auto.create.topics",
        "delivery.report.only.error",
        "security.protocol",
        "client.rack",
        "partitioner",
        "statistics.interval.ms",
    ]
)
"""Properties that the adapter relies on, or that have a setting of their own."""

Properties = Mapping[str, Any]


def connection_config(settings: KafkaSettings) -> dict[str, Any]:
    """Properties that all clients share."""
    config: dict[str, Any] = {
        "bootstrap.servers": settings.bootstrap_servers,
        "client.id": settings.client_id,
        "security.protocol": settings.security_protocol,
        "socket.timeout.ms": settings.request_timeout_ms,
        "socket.keepalive.enable": True,
        "socket.nagle.disable": True,
        "retry.backoff.ms": 20,
        "retry.backoff.max.ms": 1_000,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 2_000,  # a broker that comes back is found again within seconds
        "enable.metrics.push": False,
        "logger": logging.getLogger("kafka.librdkafka"),  # by itself the library writes to standard error
        "error_cb": _told,
    }
    if settings.security_protocol.endswith("SSL"):
        check_certificates(settings)
        files = {
            "ssl.ca.location": settings.ssl_cafile,
            "ssl.certificate.location": settings.ssl_certfile,
            "ssl.key.location": settings.ssl_keyfile,
        }
        config |= {name: str(path) for name, path in files.items() if path is not None}
        if settings.ssl_key_password is not None:
            config["ssl.key.password"] = settings.ssl_key_password.get_secret_value()
        config["ssl.endpoint.identification.algorithm"] = "https" if settings.ssl_check_hostname else "none"
    if settings.sasl_mechanism is not None:
        config["sasl.mechanism"] = settings.sasl_mechanism
        if settings.sasl_mechanism == "OAUTHBEARER" and settings.sasl_oauth_token_file is not None:
            config["oauth_cb"] = _token_reader(settings.sasl_oauth_token_file)
        elif settings.sasl_password is not None:
            config["sasl.username"] = settings.sasl_username
            config["sasl.password"] = settings.sasl_password.get_secret_value()
    return config | further_properties(settings)


def further_properties(settings: KafkaSettings) -> dict[str, str]:
    """Read `kafka.properties_file`. Raises `ConfigError` for a property that has a setting, or is relied on."""
    path = settings.properties_file
    if path is None:
        return {}
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"kafka.properties_file: {path} cannot be read: {error}") from error
    found = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, separator, value = (part.strip() for part in line.partition("="))
        if not separator or not name:
            raise ConfigError(f"kafka.properties_file: line {number} of {path} is not name=value")
        if name in _OURS:
            raise ConfigError(
                f"kafka.properties_file: {name} in line {number} of {path} is not to be set there: it has a setting "
                f"of its own, or the worker relies on it"
            )
        found[name] = value
    return found


def open_client(kind: Callable[..., Any], config: Properties) -> Any:
    """Make a client of the library. Raises `ConfigError` for properties that it does not take."""
    try:
        return kind(dict(config))
    except KafkaException as error:
        known = kafka_error(error)
        if known is not None and known.code() in codes("_INVALID_ARG _NOENT _UNSUPPORTED_FEATURE"):
            raise ConfigError(f"librdkafka does not take our configuration: {known.str()}") from error
        raise translate(error, "opening a client") from error


def wait_for_broker(settings: KafkaSettings, config: Properties) -> None:
    """Return once a broker answers and accepts us; `config` is the `connection_config` of the settings.

    Raises as `ClientPort.connect` does.
    """
    waiting, why = ConnectWait(settings), ""
    refused_since: float | None = None
    while (remaining_s := waiting.remaining_s) > 0:
        why = unreachable_because(settings.bootstrap_servers)
        if why:
            time.sleep(min(CONNECT_RETRY_S, remaining_s))
        else:
            errors: list[KafkaError] = []
            if _is_answered({**config, "error_cb": errors.append}, min(ATTEMPT_S, remaining_s)):
                return
            refusal = diagnose(errors, settings)
            if refusal is None:
                refused_since = None
            else:
                refused_since = refused_since or time.monotonic()
                if refusal.is_certain or time.monotonic() - refused_since > PATIENT_S:
                    raise AccessError(refusal.advice)
                time.sleep(min(CONNECT_RETRY_S, remaining_s))
            why = errors[-1].str() if errors else ""
        waiting.tell(why)
    raise waiting.error(why)


def is_answered(config: Properties) -> bool:
    """Whether a broker answers a new client, within some seconds. Never raises."""
    errors: list[KafkaError] = []
    try:
        return _is_answered({**config, "error_cb": errors.append}, ATTEMPT_S)
    except WorkerError:
        return False


def _is_answered(config: Properties, timeout_s: float) -> bool:
    """Whether a broker lets us in and tells us of its cluster in time."""
    client = open_client(AdminClient, config)
    deadline = time.monotonic() + timeout_s
    while (remaining_s := deadline - time.monotonic()) > 0:
        try:
            client.list_topics(topic=None, timeout=min(0.5, remaining_s))
            return True
        except KafkaException as error:
            known = kafka_error(error)
            if known is None or known.code() not in (KafkaError._TRANSPORT, KafkaError._TIMED_OUT):  # noqa: SLF001
                raise translate(error, "connecting") from error
        client.poll(0)  # hands over what has gone wrong
        if diagnosable(config):
            client.poll(0.2)
            return False
    return False


def diagnosable(config: Properties) -> bool:
    """Whether something has gone wrong by now that another moment would not change."""
    errors = getattr(config["error_cb"], "__self__", [])
    wanted = codes("_AUTHENTICATION _SSL _ALL_BROKERS_DOWN")
    return any(error.code() in wanted for error in errors)


def _told(error: KafkaError) -> None:
    """Log what else the library reports: it goes on by itself, so this is for those who look for a cause."""
    log.debug("%s", error.str(), extra={"action": "client_told"})


def _token_reader(path: Path) -> Callable[[str], tuple[str, float]]:
    def token(_: str) -> tuple[str, float]:
        try:
            return path.read_text().strip(), time.time() + _TOKEN_LIFETIME_S
        except OSError as error:
            raise WorkerError(f"kafka.sasl_oauth_token_file: {error}") from error

    return token
