"""Commits that the library has been asked for, until it says what became of them.

It says so in its queue of records, behind those that it fetched before. Waiting for the answer without serving that
queue may take for ever, because a commit can wait for a rebalance, and a rebalance for us: so we poll on meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import TopicPartition as KafkaTopicPartition

from worker.errors import CallTimeoutError, NotMemberError, WorkerError
from worker.kafka.confluent_kafka.translation import translate
from worker.kafka.port import Commit, CommitOutcome
from worker.records import TopicPartition

log = logging.getLogger(__name__)

Offsets = Mapping[TopicPartition, int]


@dataclass(eq=False)
class _Sent:
    offsets: Offsets
    deadline: float
    is_ours: Callable[[], bool]
    on_outcome: CommitOutcome


class SentCommits:
    """For the thread that polls: the library's `on_commit` is `hear`, which it calls there."""

    def __init__(self) -> None:
        self._sent: list[_Sent] = []
        self._known: list[tuple[_Sent, WorkerError | None]] = []

    def __len__(self) -> int:
        """Number of commits whose outcome has not been handed on."""
        return len(self._sent) + len(self._known)

    def add(
        self,
        commits: Mapping[TopicPartition, Commit],
        deadline: float,
        is_ours: Callable[[], bool],
        on_outcome: CommitOutcome,
    ) -> None:
        """`is_ours`: whether our place in the group is still the one that the commit was sent from. A group without
        members takes commits from anyone."""
        offsets = {partition: commit.offset for partition, commit in commits.items()}
        self._sent.append(_Sent(offsets, deadline, is_ours, on_outcome))

    def hear(self, error: KafkaError | None, partitions: Sequence[KafkaTopicPartition]) -> None:
        """Take an answer. Of several commits of the same offsets it is the first one's: no later one may count as an
        older proof."""
        offsets = {TopicPartition(each.topic, each.partition): each.offset for each in partitions}
        errors = [found for found in (error, *(each.error for each in partitions)) if found is not None]
        failure = translate(KafkaException(errors[0]), "committing") if errors else None
        sent = next((each for each in self._sent if each.offsets == offsets), None)
        if sent is not None:
            self._sent.remove(sent)
            self._known.append((sent, failure))
        elif failure is not None:  # of a revocation, which nobody waits for, or one that came too late
            log.info("a commit failed: %s", failure.one_line(), extra={"action": "late_commit_failed"})

    def give_up(self, reason: str) -> None:
        """Nothing more will be heard of any."""
        sent, self._sent = self._sent, []
        self._known.extend((each, NotMemberError(f"committing: {reason}")) for each in sent)

    def hand_on(self, now: float) -> None:
        """Tell the outcomes that are known, and of those that have taken too long that they have."""
        overdue = [each for each in self._sent if now >= each.deadline]
        for each in overdue:
            self._sent.remove(each)
            self._known.append((each, CallTimeoutError("committing: no answer in time")))
        known, self._known = self._known, []
        for each, failure in known:
            if failure is None and not each.is_ours():
                failure = NotMemberError("committing: this member has lost its place in the group meanwhile")
            each.on_outcome(failure)
