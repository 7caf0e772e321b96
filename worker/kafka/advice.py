"""Advice about brokers, in the same words whichever client library meets a problem."""

from __future__ import annotations

import logging
import time

from worker.errors import CallTimeoutError, UnreachableError
from worker.records import TopicPartition
from worker.settings import KafkaSettings

log = logging.getLogger(__name__)

TELL_AGAIN_S = 15.0

FORBIDDEN = "the broker's access control forbids it to our user: grant the ACL"
FORBIDDEN_TRANSACTIONAL_ID = (
    "the broker's access control forbids our transactional id: grant the ACL on transactional ids that begin with the "
    "name of the group, or set transaction.id to one that is allowed"
)
SAME_INSTANCE_ID = "another process runs with this kafka.group_instance_id: give every member its own"


class ConnectWait:
    """Tells that no broker answers yet: at once, when the cause changes, and again after a while. One thread."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._deadline = time.monotonic() + settings.connect_timeout_s
        self._told, self._told_at = "", -TELL_AGAIN_S

    @property
    def remaining_s(self) -> float:
        """Seconds until we give up; not positive after that."""
        return self._deadline - time.monotonic()

    def tell(self, why: str) -> None:
        """`why` may be empty."""
        now = time.monotonic()
        if why != self._told or now - self._told_at >= TELL_AGAIN_S:
            self._told, self._told_at = why, now
            log.warning(
                "no broker answers yet%s",
                f": {why}" if why else "",
                extra={"action": "connect_wait", "remaining_s": max(0, round(self._deadline - now))},
            )

    def error(self, why: str) -> UnreachableError:
        """The error to give up with."""
        settings = self._settings
        return UnreachableError(
            f"no broker answered at kafka.bootstrap_servers={settings.bootstrap_servers} within "
            f"kafka.connect_timeout_s={settings.connect_timeout_s:g}{f': {why}' if why else ''}"
        )


def stuck(partition: TopicPartition, position: int, end: int) -> CallTimeoutError:
    """A partition that is read up to `end` does not get beyond `position`."""
    return CallTimeoutError(
        f"reading {partition.topic}/{partition.partition}: stuck at offset {position} of {end}; if it stays there, the "
        f"brokers have left a transaction open: kafka-transactions.sh find-hanging"
    )
