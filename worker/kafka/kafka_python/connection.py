"""The way to a broker, the same for all clients of the library: where it is, who we are, how long we wait for it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from kafka.errors import KafkaError, KafkaTimeoutError
from kafka.net.compat import KafkaNetClient
from kafka.net.sasl.oauth import AbstractTokenProvider

from worker.errors import AccessError
from worker.kafka.advice import ConnectWait
from worker.kafka.certificates import check_certificates
from worker.kafka.kafka_python.diagnosis import LogTail, diagnose, suspect
from worker.kafka.kafka_python.translation import translate
from worker.kafka.reachability import unreachable_because
from worker.settings import KafkaSettings

BOOTSTRAP_TIMEOUT_MS = 5_000
CONNECT_RETRY_S = 1.0
NUM_PATIENT_ATTEMPTS = 2  # the first may meet a broker that is just restarting
RETRY_BACKOFF_MS = 20
CALL_TIMEOUT_MS = 10_000


def connection_config(settings: KafkaSettings) -> dict[str, Any]:
    """Arguments that the consumer, the producer and the admin client share."""
    config: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap_servers.split(","),
        "client_id": settings.client_id,
        "bootstrap_timeout_ms": BOOTSTRAP_TIMEOUT_MS,
        "request_timeout_ms": settings.request_timeout_ms,
        "retry_backoff_ms": RETRY_BACKOFF_MS,
        "reconnect_backoff_max_ms": 2_000,  # a broker that comes back is found again within seconds
        "security_protocol": settings.security_protocol,
        "api_version": settings.api_version,
    }
    if settings.security_protocol.endswith("SSL"):
        check_certificates(settings)
        config |= {
            "ssl_cafile": settings.ssl_cafile and str(settings.ssl_cafile),
            "ssl_certfile": settings.ssl_certfile and str(settings.ssl_certfile),
            "ssl_keyfile": settings.ssl_keyfile and str(settings.ssl_keyfile),
            "ssl_password": settings.ssl_key_password and settings.ssl_key_password.get_secret_value(),
            "ssl_check_hostname": settings.ssl_check_hostname,
        }
    if settings.sasl_mechanism == "OAUTHBEARER":
        config |= {"sasl_mechanism": "OAUTHBEARER", "sasl_oauth_token_provider": _TokenFile(settings)}
    elif settings.sasl_mechanism is not None and settings.sasl_password is not None:
        config |= {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": settings.sasl_username,
            "sasl_plain_password": settings.sasl_password.get_secret_value(),
        }
    return config


def wait_for_broker(settings: KafkaSettings, config: Mapping[str, Any]) -> None:
    """Return once a broker answers and accepts us; `config` is the `connection_config` of the settings.

    Raises as `ClientPort.connect` does.
    """
    waiting, why = ConnectWait(settings), ""
    num_attempts = 0
    with LogTail() as tail:
        while (remaining_s := waiting.remaining_s) > 0:
            why = unreachable_because(settings.bootstrap_servers)
            if why:
                time.sleep(min(CONNECT_RETRY_S, remaining_s))
            elif _is_answered(config, min(BOOTSTRAP_TIMEOUT_MS, int(remaining_s * 1000))):
                return
            elif cause := diagnose(tail.lines()):
                raise cause
            else:
                num_attempts += 1
                if num_attempts >= NUM_PATIENT_ATTEMPTS and (cause := suspect(tail.lines(), settings)):
                    raise cause
            waiting.tell(why)
        if cause := suspect(tail.lines(), settings):
            raise cause
    raise waiting.error(why)


def _is_answered(config: Mapping[str, Any], timeout_ms: int) -> bool:
    """Whether a broker lets us in and tells us of its cluster in time."""
    try:
        with contextlib.closing(KafkaNetClient(**{**config, "request_timeout_ms": timeout_ms})) as network:
            network.check_version(timeout_ms=timeout_ms)
    except KafkaTimeoutError:
        return False
    except KafkaError as error:
        raise translate(error, "connecting") from error
    return True


def open_client(kind: Callable[..., Any], *, kafka_client: Callable[..., Any] = KafkaNetClient, **config: Any) -> Any:
    """Make a client of the library. One that fails on the way leaves no thread and no socket, as it does by itself."""
    made: list[Any] = []

    def network(**settings: Any) -> Any:
        client = kafka_client(**settings)
        # The library's own setting does not reach here (3.0.12): a topic that is deleted under us would be made anew by
        # asking for it.
        client.cluster.config["allow_auto_create_topics"] = False
        made.append(client)
        return client

    try:
        return kind(**config, kafka_client=network)
    except BaseException:
        for client in made:
            client.close()
        raise


class _TokenFile(AbstractTokenProvider):  # type: ignore[misc]
    """Reads the bearer token anew for every authentication."""

    def __init__(self, settings: KafkaSettings) -> None:
        super().__init__()
        self._path = settings.sasl_oauth_token_file

    def token(self) -> str:
        try:
            return self._path.read_text().strip() if self._path else ""
        except OSError as error:
            raise AccessError(f"kafka.sasl_oauth_token_file: {error}") from error
