"""Calls at the start of a process or a command, made again until a broker answers them.

One broker of several may be down or just be restarting: the others answer, but not for what it leads or coordinates
until they have divided that among themselves. A running worker waits for that everywhere; so does one that starts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from worker.errors import ClientError, UnreachableError
from worker.settings import KafkaSettings

log = logging.getLogger(__name__)

FIRST_PAUSE_S, LAST_PAUSE_S = 0.5, 5.0

T = TypeVar("T")


def patience(settings: KafkaSettings) -> tuple[float, str]:
    """How long a start waits for a broker, and what says so."""
    return settings.connect_timeout_s, "kafka.connect_timeout_s"


def patiently(
    doing: str,
    call: Callable[[], T],
    timeout_s: float,
    setting: str = "",
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Make the call, and wait for brokers. `doing` says what is waited for, as "asking for topics".

    Every error that another try may cure is logged and waited out. Raises `UnreachableError` once the time is over,
    which names the `setting` that says how long it is, and any other error at once.
    """
    deadline, pause_s = clock() + timeout_s, FIRST_PAUSE_S
    while True:
        try:
            return call()
        except ClientError as error:
            if not error.retriable:
                raise
            remaining_s = deadline - clock()
            if remaining_s <= 0:
                raise UnreachableError(
                    f"no answer within {f'{setting}=' if setting else ''}{timeout_s:g} s: {error.one_line()}"
                ) from error
            log.warning(
                "%s: waiting for a broker, for %.0f s at most: %s", doing, remaining_s, error.one_line(),
                extra={"action": "start_wait"},
            )  # fmt: skip
            sleep(min(pause_s, remaining_s))
            pause_s = min(pause_s * 2, LAST_PAUSE_S)
