"""Finds out why the client could not connect.

kafka-python reports a wrong password, an untrusted certificate and an absent broker with one and the same time-out;
what happened is only in its log. `LogTail` keeps that log's last lines while we connect, and `diagnose` reads them.
"""

from __future__ import annotations

import logging
import re
import threading
from collections import deque
from collections.abc import Sequence
from types import TracebackType

from worker.errors import AccessError
from worker.settings import KafkaSettings

_CAUSES: tuple[tuple[str, str], ...] = (
    (
        r"CERTIFICATE_VERIFY_FAILED.*([Hh]ostname|IP address) mismatch",
        "the broker's certificate is for another host name: fix the certificate or the name in "
        "kafka.bootstrap_servers (kafka.ssl_check_hostname=false accepts any name)",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED.*(has expired|not yet valid)",
        "the broker's certificate is out of date, or this host's clock is wrong",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED",
        "the broker's certificate is not signed by a trusted authority: set kafka.ssl_cafile to the one that signed it",
    ),
    (
        r"ALERT_CERTIFICATE_REQUIRED|ALERT_BAD_CERTIFICATE|ALERT_CERTIFICATE_\w+|ALERT_UNKNOWN_CA",
        "the broker refuses our certificate: check kafka.ssl_certfile and kafka.ssl_keyfile",
    ),
    (
        r"\[SSL: (WRONG_VERSION_NUMBER|RECORD_LAYER_FAILURE|UNEXPECTED_EOF_WHILE_READING)\]",
        "the broker's listener does not speak TLS: check kafka.security_protocol and the port in "
        "kafka.bootstrap_servers",
    ),
    (
        r"UnsupportedSaslMechanismError",
        "the broker does not offer this SASL mechanism: check kafka.sasl_mechanism",
    ),
    (
        r"SaslAuthenticationFailedError",
        "SASL authentication failed: check kafka.sasl_username, kafka.sasl_password and kafka.sasl_mechanism, or "
        "kafka.sasl_oauth_token_file",
    ),
    (
        r"IllegalSaslStateError",
        "the broker's listener takes no SASL: check kafka.security_protocol and the port in kafka.bootstrap_servers",
    ),
)
_HUNG_UP = "Connection lost: KafkaConnectionError: socket disconnected"
_ABSENT = "ECONNREFUSED"
MIN_HANG_UPS = 3


def diagnose(lines: Sequence[str]) -> AccessError | None:
    """The cause named by the client's log, as an error that says which setting to look at."""
    text = "\n".join(lines)
    for pattern, advice in _CAUSES:
        if re.search(pattern, text):
            return AccessError(f"the broker refused the connection: {advice}")
    return None


def suspect(lines: Sequence[str], settings: KafkaSettings) -> AccessError | None:
    """Guess why a broker hangs up without a word. Only for when it has done so for a while.

    A listener does so when it is spoken to in another protocol than its own, and often instead of saying that the
    credentials are wrong. A broker that is going down or coming up also refuses connections now and then.
    """
    if sum(_HUNG_UP in line for line in lines) < MIN_HANG_UPS or any(_ABSENT in line for line in lines):
        return None
    protocol = f"kafka.security_protocol={settings.security_protocol} and the port in kafka.bootstrap_servers"
    if settings.sasl_mechanism is None:
        return AccessError(f"the broker closes every connection without an answer: check {protocol}")
    return AccessError(
        "the broker closes every connection without an answer: check kafka.sasl_mechanism, the credentials "
        f"(kafka.sasl_username and kafka.sasl_password, or kafka.sasl_oauth_token_file), then {protocol}"
    )


class LogTail(logging.Handler):
    """While open, keeps the last lines that the client logged on this thread, at WARNING and above."""

    def __init__(self, logger: str = "kafka", num_lines: int = 1_000) -> None:
        super().__init__(level=logging.WARNING)
        self._logger = logging.getLogger(logger)
        self._lines: deque[str] = deque(maxlen=num_lines)
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:  # other clients of this process have their own troubles
            self._lines.append(record.getMessage())

    def lines(self) -> list[str]:
        return list(self._lines)

    def __enter__(self) -> LogTail:
        self._logger.addHandler(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._logger.removeHandler(self)
