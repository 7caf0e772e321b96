"""Reports of refused records: a line per reason and minute, and the verdict on a whole run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from worker.errors import RefusedError
from worker.printable import shortened

if TYPE_CHECKING:  # commands take a figure from here, and `--help` has no use for messages
    from worker.records import Rejection

EVERY_S = 60.0
DETAIL_CHARS = 300
MAX_SHARE = 0.5
"""Share of the records of a run that may be refused without it ending as a failure, unless it is said otherwise."""


class RefusalLine(NamedTuple):
    """One line of the log."""

    reason: str
    num_records: int
    topic: str
    partition: int
    offset: int
    detail: str
    """Detail of the last one, bounded, and fit for a terminal."""

    @property
    def text(self) -> str:
        records = "1 record" if self.num_records == 1 else f"{self.num_records:,} records, the last one"
        return (
            f"refused as {self.reason}: {records} at {self.topic}/{self.partition} offset {self.offset}: {self.detail}"
        )


class RefusalLog:
    """Refused records by reason. Each reason is told when it first appears, and then once a minute while it goes on."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._last: dict[str, Rejection] = {}
        self._told_at: dict[str, float] = {}

    def add(self, rejections: Iterable[Rejection]) -> None:
        for rejection in rejections:
            reason = rejection.reason.value
            self._counts[reason] += 1
            self._last[reason] = rejection

    def due(self, now: float, *, all_of_them: bool = False) -> list[RefusalLine]:
        """Lines that are due by now, a monotonic time; with `all_of_them`, whatever has not been told."""
        lines = []
        for reason in list(self._counts):
            if not all_of_them and now - self._told_at.get(reason, -EVERY_S) < EVERY_S:
                continue
            self._told_at[reason] = now
            last = self._last.pop(reason)
            record, detail = last.record, shortened(last.detail, DETAIL_CHARS)
            lines.append(
                RefusalLine(reason, self._counts.pop(reason), record.topic, record.partition, record.offset, detail)
            )
        return lines


def check_refused(what: str, reasons: Mapping[str, int], num_all: int, max_share: float, advice: str = "") -> None:
    """Raise `RefusedError` where all of a run was refused, or more than `max_share` of it.

    `what` are the things that were refused, in the plural; `reasons` counts them; `num_all` are those that came.
    """
    num_refused = sum(reasons.values())
    if num_refused == 0 or (num_refused < num_all and num_refused <= max_share * num_all):
        return
    most = sorted(reasons.items(), key=lambda entry: -entry[1])
    named = ", ".join(f"{reason} {count:,}" for reason, count in most if count)
    share = f"{num_refused / num_all:.0%}; --max-refused is {max_share:.0%}"
    told = f"{num_refused:,} of {num_all:,} {what} were refused ({share}): {named}"
    raise RefusedError(f"{told}; {advice}" if advice else told)
