"""Samples are what librdkafka 2.16.0 told against Apache Kafka 4.3.1."""

import pytest
from confluent_kafka import KafkaError

from worker.kafka.confluent_kafka.diagnosis import diagnose
from worker.settings import KafkaSettings

DOWN = KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down")
PLAIN = KafkaSettings()
SASL = KafkaSettings(
    security_protocol="SASL_SSL", sasl_mechanism="PLAIN", sasl_username="user", sasl_password="secret"
)  # fmt: skip


@pytest.mark.parametrize(
    ("code", "told", "named"),
    [
        (
            KafkaError._TRANSPORT,
            "ssl://127.0.0.1:29784/bootstrap: SSL handshake failed: Disconnected: SSL connection closed by peer: "
            "connecting to a PLAINTEXT broker listener? (after 2ms in state SSL_HANDSHAKE)",
            "kafka.security_protocol",
        ),
        (
            KafkaError._SSL,
            "ssl://127.0.0.1:9/bootstrap: SSL handshake failed: error:0A000086:SSL routines::certificate verify "
            "failed: broker certificate could not be verified, verify that ssl.ca.location is correctly configured",
            "kafka.ssl_cafile",
        ),
        (
            KafkaError._AUTHENTICATION,
            "sasl_plaintext://127.0.0.1:9/bootstrap: SASL authentication error: Authentication failed: Invalid "
            "username or password (after 300ms in state AUTH_REQ)",
            "kafka.sasl_password",
        ),
    ],
)
def test_the_setting_to_look_at_is_named(code: int, told: str, named: str) -> None:
    refusal = diagnose([DOWN, KafkaError(code, told), DOWN], SASL)
    assert named in refusal.advice


@pytest.mark.parametrize(("settings", "named"), [(PLAIN, "kafka.security_protocol"), (SASL, "kafka.sasl_mechanism")])
def test_a_broker_that_hangs_up_without_a_word_may_be_one_that_is_just_going(
    settings: KafkaSettings, named: str
) -> None:
    refusal = diagnose([DOWN], settings)
    assert named in refusal.advice
    assert not refusal.is_certain


@pytest.mark.parametrize(
    "told",
    [
        "127.0.0.1:9/bootstrap: Connect to ipv4#127.0.0.1:9 failed: Connection refused (after 0ms in state CONNECT)",
        "no.such.host:9/bootstrap: Failed to resolve 'no.such.host:9': Name or service not known",
        "127.0.0.1:9/bootstrap: ApiVersionRequest failed: Local: Timed out",
    ],
)
def test_a_broker_that_is_not_there_refuses_nobody(told: str) -> None:
    assert diagnose([KafkaError(KafkaError._TRANSPORT, told), DOWN], PLAIN) is None
    assert diagnose([], PLAIN) is None
