"""Output of an import: a directory that training, evaluation and recommendation take."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from schemas import NewItem, UserEvent, judge
from worker.data.files import write_events, write_items
from worker.data.lists import write_item_list, write_titles
from worker.data.progress import counted
from worker.data.question_file import Question, write_questions
from worker.errors import DataError

Compression = Literal["gz", "zst"]
OnBadRow = Callable[[DataError], None]


def refuse(error: DataError) -> None:
    """The first bad row ends the import."""
    raise error


class NothingImportedError(DataError):
    """There was no row, or none that was right."""


@dataclass(frozen=True, slots=True)
class TitledItem:
    """An item and, for people, what it is called."""

    item: NewItem
    title: str | None = None


@dataclass(frozen=True, slots=True)
class Imported:
    """Messages found by an import, to be read once. None where it has no items, or no events, to offer."""

    items: Iterable[TitledItem] | None = None
    events: Iterable[UserEvent] | None = None
    lists: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Ids of items, by the name of the list."""
    withheld_events: Mapping[str, Iterable[UserEvent]] = field(default_factory=dict)
    """Events that are to choose or to judge by, by the name of their file."""
    questions: Sequence[Question] = ()


@dataclass(slots=True)
class Summary:
    """Counts of what has been written."""

    files: list[str] = field(default_factory=list)
    num_items: int = 0
    items_with: Counter[str] = field(default_factory=Counter)
    """By modality."""
    num_events: int = 0
    events_of_type: Counter[str] = field(default_factory=Counter)
    num_users: int = 0
    lists: dict[str, int] = field(default_factory=dict)
    withheld_files: list[str] = field(default_factory=list)
    """Files that are not for a topic."""
    withheld_events: dict[str, int] = field(default_factory=dict)
    num_questions: int = 0
    num_bad_rows: int = 0
    uninformative: Counter[str] = field(default_factory=Counter)
    """By modality, features left out, or vectors of them, because they say nothing."""

    def as_dict(self) -> dict[str, Any]:
        """Fit for JSON."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        for name in ("uninformative", "withheld_files", "withheld_events", "num_questions"):
            if not values[name]:
                del values[name]
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in values.items()}

    def __str__(self) -> str:
        lines = [f"{self.num_items:,} items{_shares(self.items_with)}"] if self.num_items else []
        if self.num_events:
            lines.append(f"{self.num_events:,} events of {self.num_users:,} users{_shares(self.events_of_type)}")
        lines += [f"{count:,} items listed as {name}" for name, count in self.lists.items()]
        lines += [f"{count:,} {name.replace('_', ' ')}, withheld" for name, count in self.withheld_events.items()]
        lines += [f"{self.num_questions:,} questions"] if self.num_questions else []
        if self.uninformative:
            lines.append(f"left out, because they say nothing (zeros, one value):{_shares(self.uninformative)}")
        lines += [f"{self.num_bad_rows:,} bad rows left out"] if self.num_bad_rows else []
        sent = " ".join(shlex.quote(file) for file in self.files if ".msgpack" in file)
        written = ", ".join([*self.files, *self.withheld_files])
        return "\n".join([*lines, f"written: {written}", f"to their topics: align-worker send {sent}"])


def save(imported: Imported, directory: Path, compression: Compression | None = None) -> Summary:
    """Write what was found, with a progress bar if that goes to a terminal.

    `items.msgpack`, `events.msgpack`, `titles.csv` if there are titles, `NAME.txt` for each list, `NAME.msgpack` for
    events that are withheld, and `questions.jsonl` for questions.
    """
    summary, titles = Summary(), list[tuple[str, str]]()
    suffix = f".msgpack.{compression}" if compression else ".msgpack"
    if imported.items is not None:
        path = directory / f"items{suffix}"
        write_items(path, _counted_items(imported.items, summary, titles))
        summary.files.append(str(path))
    if imported.events is not None:
        path = directory / f"events{suffix}"
        write_events(path, _counted_events(imported.events, summary))
        summary.files.append(str(path))
    for name, events in imported.withheld_events.items():
        path = directory / f"{name}{suffix}"
        summary.withheld_events[name] = write_events(path, counted(events, name))
        summary.withheld_files.append(str(path))
    if imported.questions:
        path = directory / "questions.jsonl"
        summary.num_questions = write_questions(path, imported.questions)
        summary.withheld_files.append(str(path))
    if titles:
        write_titles(directory / "titles.csv", titles)
        summary.files.append(str(directory / "titles.csv"))
    for name, item_ids in imported.lists.items():
        summary.lists[name] = write_item_list(directory / f"{name}.txt", item_ids)
        summary.files.append(str(directory / f"{name}.txt"))
    if not summary.num_items + summary.num_events:
        raise NothingImportedError("there was nothing to import: the files have neither items nor events")
    return summary


def _counted_items(items: Iterable[TitledItem], summary: Summary, titles: list[tuple[str, str]]) -> Iterator[NewItem]:
    for found in counted(items, "items"):
        summary.num_items += 1
        found = _informative(found, summary)
        summary.items_with.update(found.item.features.keys() | found.item.content.keys())
        if found.title is not None:
            titles.append((found.item.item_id, found.title))
        yield found.item


def _informative(found: TitledItem, summary: Summary) -> TitledItem:
    judged = judge([found.item.features]).get(0)
    if judged is None:
        return found
    if judged.too_large is not None:
        raise DataError(f"item {found.item.item_id!r}: {judged.problem()}")
    summary.uninformative.update(judged.dropped)
    return TitledItem(found.item.model_copy(update={"features": judged.features}), found.title)


def _counted_events(events: Iterable[UserEvent], summary: Summary) -> Iterator[UserEvent]:
    users = set()
    for event in counted(events, "events"):
        summary.num_events += 1
        summary.events_of_type[event.event_type] += 1
        users.add(event.user_id)
        yield event
    summary.num_users = len(users)


def _shares(counts: Counter[str]) -> str:
    named = ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))
    return f" ({named})" if named else ""
