"""MovieLens, and whatever else is ratings and titles: a film is an item, a rating an event.

Ratings become `like`, `dislike` or, between the two, `rate`, and keep their stars as the value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from schemas import Dtype, UserEvent
from worker.data.files import unreadable
from worker.data.importers.arrays import ItemArrays
from worker.data.importers.output import Imported, OnBadRow, TitledItem, refuse
from worker.data.importers.rows import EventRows, ItemRows, Row
from worker.data.importers.tables import converted, read_csv
from worker.data.importers.values import TIME_UNITS, CellError
from worker.errors import ConfigError, DataError

ITEM_COLUMNS: Mapping[str, str] = {"item_id": "movieId", "title": "title"}
EVENT_COLUMNS: Mapping[str, str] = {
    "user_id": "userId",
    "item_id": "movieId",
    "value": "rating",
    "event_time_ms": "timestamp",
}
SEPARATOR = "::"  # of the `.dat` files of the 1M and 10M sets, which have no header


@dataclass(frozen=True, slots=True)
class MovieLens:
    """Where the files are, and how they are to be read."""

    ratings: Path
    items: Path
    features: ItemArrays | None = None
    like_from: float = 4.0
    """Ratings of at least this are a `like`."""
    dislike_to: float = 2.0
    """Ratings of at most this are a `dislike`."""
    encoders: Mapping[str, str] = field(default_factory=dict)
    dtype: Dtype = "f2"

    def __post_init__(self) -> None:
        if not self.dislike_to < self.like_from:
            raise ConfigError(f"--dislike-to {self.dislike_to:g} must be lower than --like-from {self.like_from:g}")

    def imported(self, on_bad_row: OnBadRow = refuse) -> Imported:
        """Items with their titles and features, and events."""
        rows = _rows(self.items, ("movieId", "title", "genres"), {"movieId", "title"})
        items = converted(self.items, rows, ItemRows(columns=ITEM_COLUMNS).item, on_bad_row)
        rows = _rows(self.ratings, ("userId", "movieId", "rating", "timestamp"), set(EVENT_COLUMNS.values()))
        events = converted(self.ratings, rows, self._event, on_bad_row)
        if self.features is None:
            return Imported(items, events)
        return Imported(self._with_features(items, self.features), events, self.features.lists)

    def _event(self, row: Row) -> UserEvent:
        # The id is made before the type is known: it does not depend on the thresholds.
        event = _EVENT_ROWS.event(row)
        if event.value is None:
            raise CellError(EVENT_COLUMNS["value"], "is missing")
        return event.model_copy(update={"event_type": self._type_of(event.value)})

    def _type_of(self, rating: float) -> str:
        return "like" if rating >= self.like_from else "dislike" if rating <= self.dislike_to else "rate"

    def _with_features(self, items: Iterator[TitledItem], features: ItemArrays) -> Iterator[TitledItem]:
        rows = {item_id: row for row, item_id in enumerate(features.item_ids)}
        for found in items:
            row = rows.pop(found.item.item_id, None)
            if row is not None:
                own = features.features(row, self.encoders, self.dtype)
                found = TitledItem(found.item.model_copy(update={"features": own}), found.title)
            yield found
        if rows:
            raise DataError(
                f"{features.source}: {len(rows)} of its items are not in {self.items}, among them {next(iter(rows))!r}"
            )


_EVENT_ROWS = EventRows(columns=EVENT_COLUMNS, event_type="rate", unit_ms=TIME_UNITS["s"])


def _rows(path: Path, columns: Sequence[str], required: Set[str]) -> Iterator[Row]:
    """Rows of a CSV file with a header, or of a `.dat` file of these columns."""
    if path.suffix != ".dat":
        yield from read_csv(path, required)
        return
    try:
        with path.open(encoding="latin-1") as file:
            for line in file:
                yield dict(zip(columns, line.rstrip("\n").split(SEPARATOR), strict=False))
    except OSError as error:
        raise unreadable(path, error) from None
