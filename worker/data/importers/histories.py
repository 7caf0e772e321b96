"""Tables with a question a row: a user, the items of the history, oldest first, and the item that came next.

That is how many sets for next-item recommendation are passed around. Their times are lost, their order is not, so times
are made up that have it: the place of an event in its user's line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas import UserEvent
from worker.data.importers.output import Imported, OnBadRow, refuse
from worker.data.importers.rows import Row
from worker.data.importers.tables import READERS, Format, converted
from worker.data.importers.values import CellError, is_missing, to_id
from worker.data.question_file import Question
from worker.errors import ConfigError
from worker.mapping.values import event_id

FORMATS: dict[str, Format] = {".csv": "csv", ".jsonl": "jsonl", ".parquet": "parquet"}


@dataclass(frozen=True, slots=True)
class HistoryRows:
    """Makes questions of rows."""

    user_column: str = "user_id"
    history_column: str = "history"
    target_column: str = "target"
    separator: str = " "
    """Between the ids of a history or of a target, where they are text."""

    @property
    def required(self) -> set[str]:
        """Columns that a table must have."""
        return {self.user_column, self.history_column, self.target_column}

    def question(self, row: Row) -> Question:
        """Raises `CellError`."""
        relevant = self._ids(row, self.target_column)
        if not relevant:
            raise CellError(self.target_column, "is missing")
        return Question(
            to_id(self.user_column, row.get(self.user_column)), self._ids(row, self.history_column), relevant
        )

    def _ids(self, row: Row, column: str) -> tuple[str, ...]:
        value: Any = row.get(column)
        if is_missing(value):
            return ()
        if isinstance(value, str):
            return tuple(each for each in value.split(self.separator) if each)
        if isinstance(value, int | float):
            return (to_id(column, value),)
        if not hasattr(value, "__iter__"):
            raise CellError(column, "should be a list of ids, or text")
        return tuple(to_id(column, each) for each in value)


def import_questions(
    files: Sequence[Path], rows: HistoryRows, event_type: str, on_bad_row: OnBadRow = refuse
) -> Imported:
    """The questions of all files, and their histories and answers as events: each user's line, put together of rows
    that overlap, in the order of the rows."""
    questions = list(_questions(files, rows, on_bad_row))
    return Imported(events=_events(questions, event_type), questions=questions)


def _questions(files: Sequence[Path], rows: HistoryRows, on_bad_row: OnBadRow) -> Iterator[Question]:
    for path in files:
        form = FORMATS.get(path.suffix)
        if form is None:
            raise ConfigError(f"--rows {path}: the name should end in {', '.join(FORMATS)}")
        yield from converted(path, READERS[form](path, rows.required), rows.question, on_bad_row)


def _events(questions: Sequence[Question], event_type: str) -> Iterator[UserEvent]:
    lines: dict[str, list[str]] = {}
    for each in questions:
        line = lines.setdefault(each.user_id, [])
        line += [*each.history[_overlap(line, each.history) :], *each.relevant]
    for user_id, line in lines.items():
        for place, item_id in enumerate(line):
            yield UserEvent(
                event_id=event_id(user_id, item_id, event_type, place, None),
                user_id=user_id,
                item_id=item_id,
                event_type=event_type,
                event_time_ms=place,
            )


def _overlap(line: Sequence[str], history: Sequence[str]) -> int:
    """How many of the first items of a history are the last ones of the line already."""
    lengths = range(min(len(line), len(history)), 0, -1)
    return next((num for num in lengths if list(line[-num:]) == list(history[:num])), 0)
