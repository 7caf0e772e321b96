"""What a start does while a broker is away."""

import pytest

from worker.errors import AccessError, CallTimeoutError, ClientError, RecordTooLargeError, TopicError, UnreachableError
from worker.kafka.patience import patiently


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


def asked(clock: Clock, errors: list[Exception], timeout_s: float = 60.0) -> str:
    def call() -> str:
        if errors:
            raise errors.pop(0)
        return "answer"

    return patiently("asking for topics", call, timeout_s, "kafka.connect_timeout_s", clock=clock, sleep=clock.sleep)


def test_what_may_work_the_next_time_is_tried_again_ever_more_rarely(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    failures = [ClientError("refused"), CallTimeoutError("late"), *[ClientError("still") for _ in range(5)]]
    assert asked(clock, failures) == "answer"
    assert clock.pauses == [0.5, 1, 2, 4, 5, 5, 5]
    assert "asking for topics: waiting for a broker, for 60 s at most: refused" in caplog.text


def test_it_ends_after_its_time_with_what_was_asked_why_and_the_setting() -> None:
    with pytest.raises(UnreachableError) as raised:
        asked(Clock(), [ClientError("asking for topics: refused") for _ in range(100)])
    assert str(raised.value) == "no answer within kafka.connect_timeout_s=60 s: asking for topics: refused"


@pytest.mark.parametrize("error", [AccessError("no"), TopicError("no"), RecordTooLargeError("no")])
def test_what_no_other_try_would_cure_is_raised_at_once(error: AccessError | RecordTooLargeError | TopicError) -> None:
    clock = Clock()
    with pytest.raises(type(error)):
        asked(clock, [error])
    assert clock.pauses == []
