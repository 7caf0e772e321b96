"""Every error that librdkafka can tell has a translation that somebody decided on."""

from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from worker.errors import (
    AccessError,
    CallTimeoutError,
    ClientError,
    FencedError,
    NotMemberError,
    RecordTooLargeError,
    ReplacedError,
)
from worker.kafka.confluent_kafka import translation
from worker.kafka.confluent_kafka.translation import FINAL, TABLE, translate, translated

ALL = {name: code for name in dir(KafkaError) if name.isupper() and type(code := getattr(KafkaError, name)) is int}
# Neither in the table nor final: each was looked at, and another try may cure it.
KNOWN_RETRIABLE = 122


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_error_is_translated_and_keeps_its_story(name: str) -> None:
    ours = translate(KafkaError(ALL[name], "why"), "polling")
    assert str(ours).startswith("polling: ")
    assert "why" in str(ours)
    if type(ours) is ClientError:
        assert ours.retriable == (ALL[name] not in FINAL)


def test_no_error_has_appeared_that_nobody_looked_at() -> None:
    rest = [name for name, code in ALL.items() if code not in TABLE and code not in FINAL]
    assert len(rest) == KNOWN_RETRIABLE, "the library's errors changed: decide on the new ones in translation.py"


def test_the_tables_name_errors_that_exist() -> None:
    named = [getattr(translation, name) for name in vars(translation) if name.isupper() and name.startswith("_")]
    assert not {name for names in named if isinstance(names, str) for name in names.split()} - set(ALL)
    assert set(translation._ADVICE) <= set(ALL)


def test_a_fatal_error_is_not_tried_again() -> None:
    error = translate(KafkaError(KafkaError._TRANSPORT, "gone", fatal=True), "sending")
    assert isinstance(error, ClientError)
    assert not error.retriable


@pytest.mark.parametrize(
    ("code", "ours"),
    [
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, AccessError),
        (KafkaError._AUTHENTICATION, AccessError),
        (KafkaError.FENCED_INSTANCE_ID, FencedError),
        (KafkaError.ILLEGAL_GENERATION, NotMemberError),
        (KafkaError.STALE_MEMBER_EPOCH, NotMemberError),
        (KafkaError._FENCED, ReplacedError),
        (KafkaError.INVALID_PRODUCER_EPOCH, ReplacedError),
        (KafkaError.MSG_SIZE_TOO_LARGE, RecordTooLargeError),
        (KafkaError._MSG_TIMED_OUT, CallTimeoutError),
    ],
)
def test_what_the_loop_decides_on(code: int, ours: Callable[..., Any]) -> None:
    with pytest.raises(ours), translated("doing"):
        raise KafkaException(KafkaError(code))


def test_a_future_that_does_not_come_is_a_call_that_timed_out() -> None:
    with pytest.raises(CallTimeoutError), translated("doing"):
        raise TimeoutError


def test_a_full_queue_is_tried_again() -> None:
    with pytest.raises(ClientError) as raised, translated("sending"):
        raise BufferError("Local: Queue full")
    assert raised.value.retriable
