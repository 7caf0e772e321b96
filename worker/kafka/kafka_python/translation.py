"""kafka-python's errors in our words: one table, kept complete by `tests/contract/test_kafka_errors.py`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kafka import errors as kafka_errors

from worker.errors import (
    AccessError,
    CallTimeoutError,
    ClientError,
    FencedError,
    NotMemberError,
    RecordTooLargeError,
    ReplacedError,
    WorkerError,
)
from worker.kafka.advice import FORBIDDEN, FORBIDDEN_TRANSACTIONAL_ID, SAME_INSTANCE_ID

_ACCESS = (
    "AuthorizationError IllegalSaslStateError SaslAuthenticationFailedError UnsupportedSaslMechanismError "
    "DelegationTokenExpiredError UnacceptableCredentialError TransactionalIdAuthorizationFailedError"
)
_FENCED = "FencedInstanceIdError"
_NOT_MEMBER = (
    "CommitFailedError IllegalGenerationError MemberIdRequiredError RebalanceInProgressError UnknownMemberIdError"
)
_REPLACED = "ProducerFencedError InvalidProducerEpochError"
_TOO_LARGE = "MessageSizeTooLargeError RecordListTooLargeError"
_TIMEOUT = "KafkaTimeoutError RequestTimedOutError"

_ADVICE = {
    "TransactionalIdAuthorizationFailedError": FORBIDDEN_TRANSACTIONAL_ID,
    "AuthorizationError": FORBIDDEN,
    "FencedInstanceIdError": SAME_INSTANCE_ID,
}

_TABLE: dict[str, type[WorkerError]] = {
    name: ours
    for names, ours in (
        (_ACCESS, AccessError),
        (_FENCED, FencedError),
        (_NOT_MEMBER, NotMemberError),
        (_REPLACED, ReplacedError),
        (_TOO_LARGE, RecordTooLargeError),
        (_TIMEOUT, CallTimeoutError),
    )
    for name in names.split()
}


def translate(error: BaseException, doing: str) -> WorkerError:
    """Our error for one of the client's. `doing` says what was attempted and starts the message.

    Anything without an entry of its own is a `ClientError` that is retriable exactly if the client says so.
    """
    for cls in type(error).__mro__:
        if ours := _TABLE.get(cls.__name__):
            advice = _ADVICE.get(cls.__name__)
            return ours(f"{doing}: {advice} ({error})" if advice else f"{doing}: {error}")
    translated = ClientError(f"{doing}: {type(error).__name__}: {error}")
    translated.retriable = bool(getattr(error, "retriable", False))
    return translated


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Translate what the client raises inside the block."""
    try:
        yield
    except (kafka_errors.KafkaError, ValueError, RuntimeError) as error:
        raise translate(error, doing) from error
