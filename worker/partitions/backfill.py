"""What of one partition is still to be published in the next space, and how far that has come.

From when a tenure has one, every slice of it is published in both spaces; what was there before is taken from what is
remembered, in the order of the keys' places (`place_of`). A commit says how far that has come: whoever takes the
partition over goes on there. Where a slice could not be published in both, nothing is said until that is made good.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from worker.partitions.batch_slice import NOWHERE, BatchSlice
from worker.records import Backfilled, Entry, Rejection, Superseded

if TYPE_CHECKING:
    from worker.partitions.tenure import Tenure

COMPLETE = 2**64
"""Behind the places of all keys."""
STAGES = ("fuse", "publish")
"""Where an input is rejected after what is remembered has taken it in: then the state before it counts again."""


def place_of(key: str) -> int:
    """Where a key stands in the order of a backfill."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")


class NextNote(NamedTuple):
    """What a commit says of the next space."""

    space_id: str
    vectors_end: int = 0
    """Outputs of later inputs lie at or after this offset of its output partition."""
    outputs_id: str = ""
    """Of its topic; empty where the cluster does not say."""
    reached: int = NOWHERE
    """Whatever stands at this place or before it is published; `COMPLETE` where all is."""
    num_missing: int = 0
    """Of those that have no vector in the next space, although they have one."""
    num_left: int = 0
    """Still to be published, when this was written."""

    @property
    def is_complete(self) -> bool:
        return self.reached == COMPLETE

    def format(self) -> str:
        return ",".join(map(str, self))


def parse_next(text: str) -> NextNote | None:
    """None for what `format` has not made."""
    fields = text.split(",")
    if len(fields) != len(NextNote._fields):
        return None
    space_id, end, outputs_id, *numbers = fields
    try:
        return NextNote(space_id, int(end), outputs_id, *map(int, numbers))
    except ValueError:
        return None


class Due(NamedTuple):
    """A key that is to be published in the next space."""

    key: str
    place: int
    """`NOWHERE` for one that is out of its order."""
    is_gone: bool = False
    """The next space has it, and it is remembered no longer."""


class Backfill:
    """Of one tenure. The poll thread owns it; the publish thread asks for `noted` and sets `is_doubted`, and the
    compute thread reads `space`."""

    def __init__(self, space: Any, begun: NextNote, *, is_doubted: bool) -> None:
        """`space` is a `stages.fuse.NextSpace`. `begun` is what the last commit says. `is_doubted`: slices may be under
        way that are in one space alone."""
        self.space = space
        self.begun = begun
        self.is_doubted = is_doubted
        self.reached = begun.reached
        """By what is settled."""
        self.is_planned = self.is_asked = begun.is_complete
        """Whether it is known what there is to do, or has been asked for."""
        self.missing: dict[str, str] = {}
        """Ids, and why they have no vector in the next space."""
        self.num_done = 0
        """Published by it so far, in this tenure."""
        self._todo: dict[str, int] = {}
        self._again: dict[str, bool] = {}
        self._owed: set[str] = set()
        """Those among them that a later input brings into the next space as well."""
        self._in_flight: set[str] = set()
        self._mending: set[str] = set()
        """Those among them that are out of their order."""
        self._seen: set[str] = set()
        self._overtaken: set[str] = set()
        self._held: Mapping[str, int] = {}

    # ------------------------------------------------------------------ poll thread

    def plan(self, places: Iterable[tuple[int, str]], held: Mapping[str, int], gone: Iterable[str]) -> None:
        """What there is to do: keys in the order of their places. `held`: by key, the place in the log of what the next
        space holds of it; `gone`: what it holds and is remembered no longer."""
        self._todo = {key: place for place, key in places if key not in self._seen}
        self._held = held
        self._again.update((key, True) for key in gone if key not in self._seen)
        self._seen = set()
        self.is_planned = True

    def again(self, keys: Iterable[str]) -> None:
        """Publish these once more, or for the first time."""
        for key in keys:
            self._again[key] = False
            self._owed.discard(key)

    def take(self, most: int, is_settled: Callable[[str], bool]) -> list[Due]:
        """The next ones. Of those that are not settled an input is on its way, which brings them into both spaces."""
        taken: list[Due] = []
        for key in list(self._again):
            if len(taken) >= most:
                break
            if key not in self._in_flight and is_settled(key):
                taken.append(Due(key, NOWHERE, self._again.pop(key)))
                self._owed.discard(key)
                self._mending.add(key)
                self._in_flight.add(key)  # it may stand in the order, too
        while self._todo and len(taken) < most:
            key = next(iter(self._todo))
            place = self._todo.pop(key)
            if is_settled(key) and key not in self._in_flight:
                taken.append(Due(key, place))
                self._in_flight.add(key)
        self._overtaken.difference_update(each.key for each in taken)
        return taken

    def doubt(self) -> None:
        """An input is rejected that what is remembered had taken in: what was there before it counts again, and may not
        be in the next space. Publish thread."""
        if self.reached != COMPLETE:
            self.is_doubted = True

    def held(self, key: str) -> int:
        """The place in the log of what the next space has held of it since before this began, or -1."""
        return self._held.get(key, -1)

    def leave(self, key: str) -> None:
        """A key that was taken needs nothing."""
        self._in_flight.discard(key)
        self._mending.discard(key)

    def settled(self, done: BatchSlice) -> None:
        """Book a finished slice."""
        rejected = [each for each in (*done.rejections, *done.written.rejections) if each.stage in STAGES]
        if done.backfill is not self or not done.written.is_in_next:
            self.is_doubted = True
            owed = [key for key, entry in done.newest.items() if not entry.is_overtaken and key not in self._again]
            self.again(owed)
            self._owed.update(owed)
        else:
            self.space.output_written()
            missing = done.written.missing_in_next
            for key, entry in done.newest.items():
                if entry.is_overtaken:
                    continue
                if not self.is_planned:
                    self._seen.add(key)
                self._todo.pop(key, None)
                if key in self._owed or self._again.get(key):  # owed, or gone when this was planned
                    del self._again[key]
                    self._owed.discard(key)
                if key in self._in_flight:
                    self.leave(key)
                    self.num_done += 1
                self.missing.pop(key, None)
                if key in missing:
                    self.missing[key] = missing[key]
            self.reached = max(self.reached, done.backfilled_to)
        for each in rejected if self.reached != COMPLETE else ():
            key = (each.record.key or b"").decode(errors="replace")
            self.leave(key)
            self.again([key])

    def look(self, tenure: Tenure) -> bool:
        """See whether what was doubted is made good; returns whether everything is published, if that is news."""
        is_news = not self.is_complete
        if not self.is_planned or self._again or self._mending or not is_news:
            return False
        if any(each is not self for each in tenure.open_backfills()):
            return False
        self.is_doubted = False
        if self.num_left:
            return False
        self.reached = COMPLETE
        self._held = {}
        return True

    @property
    def is_complete(self) -> bool:
        """Whether the next space has all there is of the partition. What has no vector in it is counted apart."""
        return self.reached == COMPLETE and not self.is_doubted

    @property
    def num_in_flight(self) -> int:
        return len(self._in_flight)

    @property
    def num_left(self) -> int:
        return len(self._todo) + len(self._again) + len(self._in_flight)

    # ------------------------------------------------------------------ under the lock of what waits to be computed

    def overtake(self, entries: Iterable[Entry]) -> None:
        """Inputs are put before what waits: of the same key, that is void."""
        if in_flight := self._in_flight:
            found = (each.id for each in entries if not isinstance(each, Rejection | Superseded))
            self._overtaken.update(key for key in found if key in in_flight)

    def is_overtaken(self, entry: Backfilled) -> bool:
        """Whether an input of the same key was put before it. Asked once."""
        if entry.id in self._overtaken:
            self._overtaken.discard(entry.id)
            return True
        return False

    # ------------------------------------------------------------------ whoever makes the commit

    def noted(self, before: NextNote | None, done: BatchSlice) -> NextNote | None:
        """What the commit says that moves over this slice; `before` is what the one before it says."""
        if done.backfill is not self or not done.written.is_in_next or self.is_doubted:
            return None
        known = before if before is not None and before.space_id == self.space.space_id else self.begun
        return known._replace(
            vectors_end=max(known.vectors_end, done.written.next_end),
            reached=max(known.reached, done.backfilled_to, self.reached),
            num_missing=len(self.missing.keys() | done.written.missing_in_next.keys()),
            num_left=self.num_left if self.is_planned and self.reached != COMPLETE else 0,
        )
