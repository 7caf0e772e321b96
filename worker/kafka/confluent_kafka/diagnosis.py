"""Finds out why the library could not connect, from what it tells of each attempt."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Sequence
from typing import NamedTuple

from confluent_kafka import KafkaError

from worker.settings import KafkaSettings, broker_addresses


class Refusal(NamedTuple):
    """Why a broker does not let us in."""

    advice: str
    is_certain: bool
    """Not what a broker that is just going down or coming up might do as well."""


_CAUSES: tuple[tuple[str, str, bool], ...] = (
    (
        r"[Hh]ostname mismatch|IP address mismatch",
        "the broker's certificate is for another host name: fix the certificate or the name in "
        "kafka.bootstrap_servers (kafka.ssl_check_hostname=false accepts any name)",
        True,
    ),
    (
        r"certificate has expired|certificate is not yet valid",
        "the broker's certificate is out of date, or this host's clock is wrong",
        True,
    ),
    (
        r"certificate verify failed|unable to get (local )?issuer certificate|self.signed certificate|"
        r"broker certificate could not be verified",
        "the broker's certificate is not signed by a trusted authority: set kafka.ssl_cafile to the one that signed it",
        True,
    ),
    (
        r"alert (certificate required|bad certificate|unknown ca|certificate \w+)|alert number (42|46|48|116)",
        "the broker refuses our certificate: check kafka.ssl_certfile and kafka.ssl_keyfile",
        True,
    ),
    (
        r"SSL handshake failed.*(wrong version number|record layer failure|packet length too long)|"
        r"connecting to a PLAINTEXT broker listener",
        "the broker's listener does not speak TLS: check kafka.security_protocol and the port in "
        "kafka.bootstrap_servers",
        False,
    ),
    (
        r"[Uu]nsupported SASL mechanism|mechanism.*not (supported|enabled)|UNSUPPORTED_SASL",
        "the broker does not offer this SASL mechanism: check kafka.sasl_mechanism",
        True,
    ),
    (
        r"[Ii]llegal SASL state|ILLEGAL_SASL|SASL.*security.protocol|Request not valid in current SASL state",
        "the broker's listener takes no SASL: check kafka.security_protocol and the port in kafka.bootstrap_servers",
        True,
    ),
    (
        r"kafka\.sasl_oauth_token_file",
        "the bearer token cannot be read: check kafka.sasl_oauth_token_file",
        True,
    ),
    (
        r"SASL authentication (error|failed)|[Aa]uthentication fail|SASL.*fail|Invalid (username|credentials)",
        "SASL authentication failed: check kafka.sasl_username, kafka.sasl_password and kafka.sasl_mechanism, or "
        "kafka.sasl_oauth_token_file",
        True,
    ),
)
HANDSHAKE_TIMEOUT_S = 5.0
_ABSENT = re.compile(r"Connection refused|Failed to resolve|timed out", re.IGNORECASE)


def diagnose(errors: Sequence[KafkaError], settings: KafkaSettings) -> Refusal | None:
    """Turn the library's events into advice that says which setting to look at."""
    text = "\n".join(error.str() for error in errors)
    if "certificate verify failed" in text:
        text = certificate_problem(settings) or text
    for pattern, advice, is_certain in _CAUSES:
        if re.search(pattern, text):
            return Refusal(f"the broker refused the connection: {advice}", is_certain)
    # A broker that closes a connection is not told of: only that there is none left that does not.
    if errors and not _ABSENT.search(text):
        return Refusal(_hung_up(settings), is_certain=False)
    return None


def certificate_problem(settings: KafkaSettings) -> str:
    """Find the fault of a broker's certificate, which the library does not tell; empty where nothing
    is found."""
    context = ssl.create_default_context(cafile=settings.ssl_cafile)
    context.check_hostname = settings.ssl_check_hostname
    for host, port in broker_addresses(settings.bootstrap_servers):
        try:
            with (
                socket.create_connection((host, port), HANDSHAKE_TIMEOUT_S) as connection,
                context.wrap_socket(connection, server_hostname=host),
            ):
                pass
        except ssl.SSLCertVerificationError as error:
            return f"certificate verify failed: {error.verify_message}"
        except OSError:
            continue
    return ""


def _hung_up(settings: KafkaSettings) -> str:
    """Guess why a broker hangs up without a word: a listener does so when it is spoken to in
    another protocol than its own, and often instead of saying that the credentials are wrong."""
    protocol = f"kafka.security_protocol={settings.security_protocol} and the port in kafka.bootstrap_servers"
    if settings.sasl_mechanism is None:
        return f"the broker closes every connection without an answer: check {protocol}"
    return (
        "the broker closes every connection without an answer: check kafka.sasl_mechanism, the credentials "
        f"(kafka.sasl_username and kafka.sasl_password, or kafka.sasl_oauth_token_file), then {protocol}"
    )
