"""Every error that the client can raise has a translation that somebody decided on."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from kafka import errors as kafka_errors

from worker.errors import (
    AccessError,
    CallTimeoutError,
    ClientError,
    FencedError,
    NotMemberError,
    RecordTooLargeError,
    ReplacedError,
)
from worker.kafka.kafka_python.translation import _TABLE, translate, translated

ALL: list[Any] = sorted(
    (cls for _, cls in inspect.getmembers(kafka_errors, inspect.isclass) if issubclass(cls, kafka_errors.KafkaError)),
    key=lambda cls: cls.__name__,
)
# Not in the table, and not retriable: each was looked at, and ends one call, not the process.
KNOWN_FINAL = 96


def instance(cls: type[Exception]) -> Exception:
    return cls({}) if cls is kafka_errors.LogTruncationError else cls("why")


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_every_error_is_translated_and_keeps_its_story(cls: type[Any]) -> None:
    ours = translate(instance(cls), "polling")
    assert str(ours).startswith("polling: ")
    if isinstance(ours, ClientError) and type(ours) is ClientError:
        assert ours.retriable == cls.retriable
        assert cls.__name__ in str(ours)


def test_the_table_names_errors_that_exist() -> None:
    assert set(_TABLE) <= {cls.__name__ for cls in ALL}


def test_no_error_has_appeared_that_nobody_looked_at() -> None:
    final = [cls for cls in ALL if type(translate(instance(cls), "x")) is ClientError and not cls.retriable]
    assert len(final) == KNOWN_FINAL, (
        "the client's errors changed: decide on the new ones in worker/kafka/kafka_python/translation.py"
    )


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (kafka_errors.TopicAuthorizationFailedError("t"), AccessError),
        (kafka_errors.SaslAuthenticationFailedError("t"), AccessError),
        (kafka_errors.FencedInstanceIdError("t"), FencedError),
        (kafka_errors.CommitFailedError(), NotMemberError),
        (kafka_errors.RebalanceInProgressError("t"), NotMemberError),
        (kafka_errors.ProducerFencedError(), ReplacedError),
        (kafka_errors.MessageSizeTooLargeError("t"), RecordTooLargeError),
        (kafka_errors.KafkaTimeoutError("t"), CallTimeoutError),
    ],
)
def test_what_the_loop_decides_on(error: Any, ours: Callable[..., Any]) -> None:
    with pytest.raises(ours), translated("doing"):
        raise error
