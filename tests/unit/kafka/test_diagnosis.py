"""Samples are lines that kafka-python 3.0.12 logged against Apache Kafka 4.3.1 (Python 3.11, OpenSSL 3)."""

import logging
import threading
from typing import Any

import pytest

from worker.kafka.kafka_python.diagnosis import MIN_HANG_UPS, LogTail, diagnose, suspect
from worker.settings import KafkaSettings

LOST = "<KafkaConnection node_id=bootstrap-0 broker_version={} (disconnected)>: Connection lost: {}"
HANDSHAKE = "KafkaConnectionError: Handshake failed: {} (_ssl.c:1006)"
SASL_ERROR = "[Error 58] SaslAuthenticationFailedError: SaslAuthenticationFailedError: {}"
HUNG_UP = LOST.format("(4, 3)", "KafkaConnectionError: socket disconnected")
REFUSED = LOST.format("(4, 3)", "KafkaConnectionError: 111 ECONNREFUSED")
SASL_SETTINGS = {
    "security_protocol": "SASL_SSL",
    "sasl_mechanism": "PLAIN",
    "sasl_username": "user",
    "sasl_password": "secret",
}


def lost(cause: str) -> list[str]:
    """The line, among what the client also logs then."""
    return [
        "<KafkaTCPTransport [127.0.0.1:20446<-36730]>: socket disconnected",
        LOST.format("(4, 3)", cause),
        f"Bootstrap connection to bootstrap-0 failed: {cause} (backoff 0.05 secs)",
        "Bootstrap bootstrap-0 not ready; waiting 0.05 secs",
        "Bootstrap failed: KafkaTimeoutError: Unable to bootstrap from ['127.0.0.1:20446']",
    ]


def handshake(cause: str) -> str:
    return HANDSHAKE.format(cause)


VERIFY = "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: {}"


@pytest.mark.parametrize(
    ("cause", "named"),
    [
        (SASL_ERROR.format("Authentication failed: Invalid username or password"), "kafka.sasl_password"),
        (
            SASL_ERROR.format(
                "Authentication failed during authentication due to invalid credentials with SASL mechanism "
                "SCRAM-SHA-512"
            ),
            "kafka.sasl_password",
        ),
        (SASL_ERROR.format('{"status":"invalid_token"}'), "kafka.sasl_oauth_token_file"),
        ("[Error 33] UnsupportedSaslMechanismError", "kafka.sasl_mechanism"),
        ("[Error 34] IllegalSaslStateError", "kafka.security_protocol"),
        (
            handshake("[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred in violation of protocol"),
            "kafka.security_protocol",
        ),
        (handshake("[SSL: WRONG_VERSION_NUMBER] wrong version number"), "kafka.security_protocol"),
        (handshake("[SSL: RECORD_LAYER_FAILURE] record layer failure"), "kafka.security_protocol"),
        (handshake(VERIFY.format("certificate signature failure")), "kafka.ssl_cafile"),
        (handshake(VERIFY.format("unable to get local issuer certificate")), "kafka.ssl_cafile"),
        (handshake(VERIFY.format("self-signed certificate in certificate chain")), "kafka.ssl_cafile"),
        (
            handshake(VERIFY.format("Hostname mismatch, certificate is not valid for '127.1'.")),
            "kafka.bootstrap_servers",
        ),
        (
            handshake(VERIFY.format("IP address mismatch, certificate is not valid for '10.0.0.1'.")),
            "kafka.ssl_check_hostname",
        ),
        (handshake(VERIFY.format("certificate has expired")), "out of date"),
        (
            "KafkaConnectionError: [SSL: SSLV3_ALERT_BAD_CERTIFICATE] sslv3 alert bad certificate (_ssl.c:2580)",
            "kafka.ssl_certfile",
        ),
        (
            "KafkaConnectionError: [SSL: SSLV3_ALERT_CERTIFICATE_UNKNOWN] sslv3 alert certificate unknown",
            "kafka.ssl_certfile",
        ),
        (
            "KafkaConnectionError: [SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert certificate required",
            "kafka.ssl_certfile",
        ),
    ],
)
def test_a_cause_that_is_told_names_the_setting(cause: str, named: str) -> None:
    error = diagnose([*lost("KafkaConnectionError: socket disconnected"), *lost(cause)])
    assert error is not None
    assert named in error.one_line()
    assert error.exit_code == 5


@pytest.mark.parametrize(
    "cause",
    [
        "KafkaConnectionError: 111 ECONNREFUSED",
        "KafkaConnectionError: socket disconnected",
        "[Error 7] RequestTimedOutError: Request timed out after 9999 ms",
    ],
)
def test_an_absent_broker_is_nobodys_fault(cause: str) -> None:
    assert diagnose(lost(cause)) is None


def test_a_broker_that_keeps_hanging_up_is_suspected_of_another_protocol() -> None:
    error = suspect([HUNG_UP] * MIN_HANG_UPS, KafkaSettings())
    assert error is not None
    assert "kafka.security_protocol=PLAINTEXT" in error.one_line()
    assert "sasl" not in error.one_line()


def test_with_sasl_the_credentials_are_suspected_first() -> None:
    error = suspect([HUNG_UP] * MIN_HANG_UPS, KafkaSettings(**SASL_SETTINGS))
    assert error is not None
    line = error.one_line()
    assert line.index("kafka.sasl_mechanism") < line.index("kafka.sasl_password") < line.index("SASL_SSL")
    assert "secret" not in line


@pytest.mark.parametrize("lines", [[], [HUNG_UP] * (MIN_HANG_UPS - 1), [*[HUNG_UP] * 9, REFUSED]])
def test_a_broker_that_comes_and_goes_is_not_suspected(lines: list[Any]) -> None:
    assert suspect(lines, KafkaSettings()) is None


def test_the_tail_has_the_clients_last_warnings_of_this_thread_while_it_is_open() -> None:
    client = logging.getLogger("kafka.net.connection")
    with LogTail(num_lines=2) as tail:
        for number in range(3):
            client.warning("line %d", number)
        client.debug("not a warning")
        logging.getLogger("elsewhere").warning("not the client")
        other = threading.Thread(target=client.warning, args=("not ours",))
        other.start()
        other.join()
    client.warning("too late")
    assert tail.lines() == ["line 1", "line 2"]
