"""Finds out why the client could not connect.

kafka-python reports a wrong password, an untrusted certificate and an absent broker with one and the same time-out;
what happened is only in its log. `LogTail` keeps that log's last lines while we connect, and `diagnose` reads them.
"""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Iterable
from types import TracebackType

from worker.errors import AccessError

_CAUSES: tuple[tuple[str, str], ...] = (
    (
        r"CERTIFICATE_VERIFY_FAILED.*(hostname|IP address) mismatch|doesn't match|Hostname mismatch",
        "the broker's certificate is for another host name: fix the certificate or the name in "
        "kafka.bootstrap_servers (kafka.ssl_check_hostname=false accepts any name)",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED",
        "the broker's certificate is not signed by a trusted authority: set kafka.ssl_cafile to the one that signed it",
    ),
    (
        r"TLSV1?3?_ALERT_CERTIFICATE_REQUIRED|ALERT_BAD_CERTIFICATE|ALERT_CERTIFICATE_UNKNOWN|ALERT_UNKNOWN_CA",
        "the broker refuses our certificate: check kafka.ssl_certfile and kafka.ssl_keyfile",
    ),
    (
        r"WRONG_VERSION_NUMBER|RECORD_LAYER_FAILURE|record layer failure|UNEXPECTED_EOF_WHILE_READING",
        "the broker's listener does not speak TLS: check kafka.security_protocol and the port",
    ),
    (
        r"UnsupportedSaslMechanism",
        "the broker does not offer this SASL mechanism: check kafka.sasl_mechanism",
    ),
    (
        r"SaslAuthenticationFailed|SASL.*[Aa]uthentication.*failed|[Aa]uthentication failed",
        "SASL authentication failed: check kafka.sasl_username, kafka.sasl_password and kafka.sasl_mechanism",
    ),
    (
        r"IllegalSaslState|unexpected Kafka request of type .* during SASL",
        "the broker's listener expects another protocol: check kafka.security_protocol and the port",
    ),
)


def diagnose(lines: Iterable[str]) -> AccessError | None:
    """The cause named by the client's log, as an error that says which setting to look at."""
    text = "\n".join(lines)
    for pattern, advice in _CAUSES:
        if re.search(pattern, text):
            return AccessError(f"the broker refused the connection: {advice}")
    return None


class LogTail(logging.Handler):
    """While open, keeps the last lines that the client logged at WARNING and above."""

    def __init__(self, logger: str = "kafka", num_lines: int = 200) -> None:
        super().__init__(level=logging.WARNING)
        self._logger = logging.getLogger(logger)
        self._lines: deque[str] = deque(maxlen=num_lines)

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())

    def lines(self) -> list[str]:
        return list(self._lines)

    def __enter__(self) -> LogTail:
        self._logger.addHandler(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._logger.removeHandler(self)
