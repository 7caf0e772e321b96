"""Lines as kafka-python 3.0.12 logs them, and what they are taken for."""

import pytest

from worker.kafka.diagnosis import diagnose, suspect
from worker.settings import KafkaSettings

HUNG_UP = "<KafkaConnection node_id=bootstrap-0>: Connection lost: KafkaConnectionError: socket disconnected"


@pytest.mark.parametrize(
    ("line", "setting"),
    [
        ("SaslAuthenticationFailedError: Authentication failed: Invalid username or password", "kafka.sasl_password"),
        ("[Error 33] UnsupportedSaslMechanismError: not enabled", "kafka.sasl_mechanism"),
        ("[Error 34] IllegalSaslStateError", "kafka.security_protocol"),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: unable to get issuer", "kafka.ssl_cafile"),
        (
            "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: Hostname mismatch, certificate is not valid",
            "kafka.ssl_check_hostname",
        ),
        ("[SSL: WRONG_VERSION_NUMBER] wrong version number", "kafka.security_protocol"),
        ("[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert certificate required", "kafka.ssl_certfile"),
    ],
)
def test_the_setting_to_look_at_is_named(line, setting):
    error = diagnose(["Connection lost", line])
    assert error is not None
    assert setting in str(error)


def test_a_broker_that_is_away_is_no_refusal():
    lines = ["Connection failed: ECONNREFUSED", HUNG_UP, HUNG_UP, HUNG_UP]
    assert diagnose(lines) is None
    assert suspect(lines, KafkaSettings()) is None


def test_a_listener_that_hangs_up_again_and_again_is_suspected():
    assert suspect([HUNG_UP] * 2, KafkaSettings()) is None
    error = suspect([HUNG_UP] * 3, KafkaSettings())
    assert error is not None
    assert "kafka.security_protocol" in str(error)
