"""Whether it is known what came last. Where it is not, an order is made up, and what was made up has to be told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from worker.data.split import Order, Split

MADE_UP_BEFORE_MS = 31_536_000_000
"""Times before 1971: nobody's log is as old, so they are numbers that somebody counted up from 0."""


@dataclass(frozen=True, slots=True)
class KnownOrder:
    """How much is known of the order of the events of a split."""

    kind: Order
    is_made_up: bool
    """All times are equal, or count from 0."""
    num_asked: int
    """Events that are chosen or judged by."""
    num_tied: int
    """Of these, those of which another event of the same user has the time: it may have been the last one as well."""

    def told(self) -> Iterator[str]:
        """What has to be said of it, a line each."""
        if self.kind == "given":
            return
        if self.num_tied:
            yield (
                f"{self.num_tied:,} of {self.num_asked:,} events asked about have the time of another event of their "
                "user: which came last is not known, and the ids decide; --test-events gives a split of your own"
            )
        if self.is_made_up:
            yield (
                "the times of events were made up (they are all equal, or count from 0): what came last, the replay, "
                "and whatever fades with time are worth what that order is worth"
            )


def order_of(split: Split) -> KnownOrder:
    """What is known of the order that a split relies on."""
    events = split.events
    asked = np.concatenate([split.val_events, split.test_events])
    moments, moment_E = np.unique(events.times_ms_E, return_inverse=True)
    key_E = events.users_E * (len(moments) + 1) + moment_E
    warm_E = split.warm_I[events.items_E]
    keys, counts = np.unique(key_E[warm_E], return_counts=True)
    tied = counts[np.searchsorted(keys, key_E[asked])] > 1 if len(asked) else np.zeros(0, bool)
    newest_ms = int(events.times_ms_E.max(initial=0))
    is_made_up = len(events) > 1 and (len(moments) == 1 or newest_ms < MADE_UP_BEFORE_MS)
    return KnownOrder(split.order, is_made_up, len(asked), int(tied.sum()))
